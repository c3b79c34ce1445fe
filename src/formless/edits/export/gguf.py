"""`--to gguf-lora` and `--to gguf-merged`: an edit as llama.cpp's LoRA adapter, or merged into the model's GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from formless import store
from formless.edits.adapter import AdapterEdit, of_one_rank
from formless.edits.edit import WeightEdit
from formless.edits.export.gguf_tensors import architecture_name, gguf_updates
from formless.edits.export.merged import Rounding
from formless.edits.export.target import ExportOptions, loaded
from formless.errors import EditError
from formless.models.lm import LM
from formless.models.overlay import Difference, Factors
from formless.models.settings import BUNDLED
from formless.models.sources.bundled import bundled_gguf

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, ReaderTensor
    from numpy.typing import NDArray

_EDITS: Final = "formless.edits"  # edit.json of each edit in the file
_MERGED: Final = "formless.merged"  # what rounding loses
_DTYPES: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def write_adapter(edit: WeightEdit[Any], lm: LM | None, out: Path, options: ExportOptions) -> list[str]:
    """Write a LoRA adapter in float32 that llama.cpp applies to the model's GGUF file, of any quantization.

    Its `adapter.lora.alpha` is its rank, so that the scale is 1.

    Raises:
        EditError: The edit is for another model or no low-rank update, or llama.cpp lacks the model or one of the weights.
        OutputError: The file exists and `force` is not set, or it cannot be written.
    """
    from gguf import GGUFType, GGUFWriter, Keys

    lm = loaded(lm)
    if not isinstance(edit, AdapterEdit):
        what = f"an edit of {edit.info.method} changes whole weights, which an adapter cannot hold"
        raise EditError(what, where="--to gguf-lora", remedy="use --to gguf-merged or --to merged")
    found = gguf_updates(edit, lm)
    updates = of_one_rank({name: change for name, change in found.items() if isinstance(change, Factors)})
    if outside := next((name for name in updates if not name.startswith("blk.")), None):
        what = f"llama.cpp applies no adapter to {outside}"
        raise EditError(what, where="--to gguf-lora", remedy="use --to gguf-merged or --to merged")
    rank = max(len(factors.down) for factors in updates.values())
    with store.new_file(out, force=options.force) as scratch:
        writer = GGUFWriter(scratch, architecture_name(lm))
        writer.add_type(GGUFType.ADAPTER)
        writer.add_string(Keys.Adapter.TYPE, "lora")
        writer.add_float32(Keys.Adapter.LORA_ALPHA, float(rank))
        writer.add_array(_EDITS, [edit.info.model_dump_json()])
        for name, factors in updates.items():
            writer.add_tensor(f"{name}.lora_a", factors.down.float().cpu().contiguous().numpy())
            writer.add_tensor(f"{name}.lora_b", factors.up.float().cpu().contiguous().numpy())
        _write(writer)
    model = lm.settings.source if Path(lm.settings.source).is_file() else "MODEL.gguf"
    return [f"Rank {rank} in {len(updates)} tensors. Serve it with `llama-server -m {model} --lora {out}`."]


def write_model(edit: WeightEdit[Any], lm: LM | None, out: Path, options: ExportOptions) -> list[str]:
    """Write the model's GGUF file with the edit merged; tokenizer, settings and all other tensors stay as they are.

    Merged tensors that were quantized are written in float16, as llama-export-lora does: to quantize them again would round
    a part of the edit away. Those in float32, float16 or bfloat16 keep their type.

    Raises:
        EditError: The edit is for another model, or the model is no GGUF file or lacks one of the weights.
        ModelError: The GGUF file of a bundled model cannot be downloaded.
        OutputError: The file exists and `force` is not set, or it cannot be written.
    """
    from gguf import GGUFReader, GGUFWriter

    lm = loaded(lm)
    changes = gguf_updates(edit, lm)
    reader = GGUFReader(_source(lm))
    _check_shapes(changes, reader, lm)
    with store.new_file(out, force=options.force) as scratch:
        writer = GGUFWriter(scratch, architecture_name(lm))
        earlier = copy_metadata(reader, writer)
        rounding = Rounding()
        for tensor in reader.tensors:
            values, kind = tensor.data, tensor.tensor_type
            if change := changes.get(tensor.name):
                values, kind = _merged(tensor, change, rounding)
            writer.add_tensor(tensor.name, values, raw_dtype=kind)
        writer.add_array(_EDITS, [*earlier, edit.info.model_dump_json()])
        writer.add_string(_MERGED, str(rounding))
        _write(writer)
    return [str(rounding), f"{len(changes)} of {len(reader.tensors)} tensors are edited; the others are the file's own."]


def _source(lm: LM) -> Path:
    """Return the GGUF file that a model was read from.

    Raises:
        EditError: It was read from something else.
    """
    if lm.settings.source == BUNDLED:
        return bundled_gguf(lm.settings.name, progress=True)
    if (path := Path(lm.settings.source)).is_file():
        return path
    remedy = "use --to merged, then llama.cpp's convert_hf_to_gguf.py on the folder"
    raise EditError("the model is no GGUF file, into which the edit could be merged", where=lm.name, remedy=remedy)


def _check_shapes(changes: Mapping[str, Factors | Difference], reader: GGUFReader, lm: LM) -> None:
    """Refuse updates whose tensors the file lacks or has in another shape."""
    shapes = {tensor.name: tuple(map(int, reversed(tensor.shape))) for tensor in reader.tensors}
    for name, change in changes.items():
        found = (len(change.up), change.down.shape[1]) if isinstance(change, Factors) else tuple(change.values.shape)
        if found != shapes.get(name):
            what = f"has {name} as {shapes[name]}, not {found}" if name in shapes else f"lacks {name}"
            raise EditError(f"the model's GGUF file {what}", where=lm.name, remedy="use --to merged")


def copy_metadata(reader: GGUFReader, writer: GGUFWriter) -> list[str]:
    """Copy all metadata but our own and that which the writer writes itself; return the edits in the file."""
    from gguf import GGUFValueType, Keys

    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in (Keys.General.ARCHITECTURE, _EDITS, _MERGED):
            continue
        kind, value = field.types[0], field.contents()
        if kind == GGUFValueType.ARRAY and not value:  # the writer refuses empty lists
            continue
        writer.add_key_value(key, value, kind, sub_type=field.types[-1] if kind == GGUFValueType.ARRAY else None)
    writer.data_alignment = reader.alignment
    earlier = reader.fields.get(_EDITS)
    return list(earlier.contents()) if earlier else []


def _merged(
    tensor: ReaderTensor, change: Factors | Difference, rounding: Rounding
) -> tuple[NDArray[Any], GGMLQuantizationType]:
    """Return the bytes of a tensor with its update added in float32, and their type."""
    from gguf import GGMLQuantizationType, dequantize

    kind = tensor.tensor_type if tensor.tensor_type.name in _DTYPES else GGMLQuantizationType.F16
    original = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())  # the file's own memory is read-only
    update = (change.dense() if isinstance(change, Factors) else change.values).float().cpu()
    written = (original + update).to(_DTYPES[kind.name])
    rounding.add(tensor.name, original, update, written)
    return written.view(torch.uint8).numpy(), kind


def _write(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
