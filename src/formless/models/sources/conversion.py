"""Convert a GGUF file to a folder with float32 weights, through transformers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from formless import store
from formless.errors import ModelError
from formless.models.sources.gguf_header import GgufHeader, check_fields, read_header
from formless.progress import Progress

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_GB = 1e9
_FLOAT32 = 4  # bytes
_SHARD = "1GB"  # safetensors copies a whole file's tensors as it writes them
_OTHER_FILES = 64 * 2**20  # bytes: tokenizer, configuration
_LIBRARIES = 2**29  # bytes of memory
_START_SECONDS, _SECONDS_PER_PARAMETER = 20, 35e-9  # two cores; the start is the parsing of a large vocabulary


@dataclass(frozen=True)
class Needs:
    """What a conversion needs, roughly.

    Args:
        memory: Bytes.
        disk: Bytes that stay in the cache.
        seconds: Seconds on two CPU cores.
    """

    memory: int
    disk: int
    seconds: int

    def __str__(self) -> str:
        disk, memory = self.disk / _GB, self.memory / _GB
        return f"{disk:.1f} GB of disk, {memory:.1f} GB of memory, about {self.seconds} s"


def conversion_needs(header: GgufHeader) -> Needs:
    """Estimate what the conversion of a GGUF file needs.

    All weights are in memory as float32, with two copies of the largest one.
    """
    largest = max(header.sizes.values())
    return Needs(
        memory=_FLOAT32 * (header.parameters + 2 * largest) + _LIBRARIES,
        disk=_FLOAT32 * header.parameters + _OTHER_FILES,
        seconds=round(_START_SECONDS + header.parameters * _SECONDS_PER_PARAMETER),
    )


def check_room(needs: Needs, folder: Path, source: object) -> None:
    """Refuse a conversion for which disk or memory are too small.

    Args:
        needs: What it needs.
        folder: Where the converted model goes.
        source: The file or model, for the message.

    Raises:
        ModelError: One of them is too small.
    """
    import psutil

    if (free := store.free_space(folder)) < needs.disk:
        what = f"the model needs {needs.disk / _GB:.1f} GB of disk, and {free / _GB:.1f} GB are free in {folder.parent}"
        raise ModelError(what, where=source, remedy="free space, or set FORMLESS_CACHE to a folder on a larger disk")
    if (free := psutil.virtual_memory().available) < needs.memory:
        what = f"the conversion needs {needs.memory / _GB:.1f} GB of memory, and {free / _GB:.1f} GB are free"
        raise ModelError(what, where=source, remedy="end other programs, or use a smaller model")


def convert(header: GgufHeader, folder: Path, report: Progress, *, origin: str | None = None) -> None:
    """Turn the weights into float32 and save the model in the ordinary layout.

    Names and sizes of all tensors are compared with the model that the header describes before any weight is read; the weights
    are checked to be all there and finite before they are written.

    Args:
        header: The file's header.
        folder: An empty folder.
        report: Told how many tensors are done.
        origin: The hub id of the unquantized model, to be kept in config.json.

    Raises:
        ModelError: Weights are missing, superfluous, of another shape or not finite, or transformers cannot read the file.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from formless.models.reading.checkpoint import check_config, check_finite, check_weights, transformers_errors

    path, tensors = header.path, len(header.sizes)
    fits = {"described": "the GGUF file's header", "remedy": "download the file again, or load the unquantized model"}
    with transformers_errors("the GGUF file cannot be converted", path), _alone(path) as place:
        source: dict[str, Any] = {"pretrained_model_name_or_path": place.parent, "gguf_file": place.name}
        report("reading the configuration", 0, tensors)
        config = AutoConfig.from_pretrained(**source)
        check_config(config, str(path))
        check_fields(header, config)
        check_weights(_misfits(header, config), str(path), **fits)
        report("reading the tokenizer", 0, tensors)
        tokenizer = AutoTokenizer.from_pretrained(**source)
        _check_bos(tokenizer, header)
        # Shapes that differ are ignored there, and refused with their names here.
        checked: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        with _counting(report, tensors):
            loaded: Any = AutoModelForCausalLM.from_pretrained(**source, config=config, dtype=torch.float32, **checked)
        model, info = loaded
        check_weights(info, str(path), **fits)
        check_finite(model, str(path), remedy=fits["remedy"])
    report("writing", tensors, tensors)
    # The weights are plain float32 now; save_pretrained refuses a model that still says that it is quantized.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    if origin is not None:
        model.config._name_or_path = origin
    model.save_pretrained(folder, max_shard_size=_SHARD)
    tokenizer.save_pretrained(folder)


def checked_header(path: Path, folder: Path, report: Progress) -> GgufHeader:
    """Read a GGUF file's header, report what its conversion needs, and refuse it if there is too little room.

    Args:
        path: The file.
        folder: Where the converted model goes.
        report: Told what the conversion needs.

    Raises:
        ModelError: As `read_header` and `check_room`.
    """
    header = read_header(path)
    needs = conversion_needs(header)
    report(f"{header.parameters / 1e6:,.0f} M weights are converted to float32, once: {needs}", 0, 0)
    check_room(needs, folder, path)
    return header


def _misfits(header: GgufHeader, config: PretrainedConfig) -> dict[str, Any]:
    """Compare the file's tensors with the parameters of the model, as transformers does for other files."""
    import torch
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == header.architecture)
    names = get_tensor_name_map(architecture, config.get_text_config().num_hidden_layers)
    expected = {}
    for name, parameter in model.named_parameters():
        module, _, kind = name.rpartition(".")
        expected[f"{names.get_name(module) or module}.{kind}"] = parameter.numel()
    sizes = header.sizes
    return {
        "missing_keys": expected.keys() - sizes.keys(),
        "unexpected_keys": sizes.keys() - expected.keys(),
        "mismatched_keys": [
            (name, [sizes[name]], [size]) for name, size in expected.items() if name in sizes and sizes[name] != size
        ],
    }


def _check_bos(tokenizer: PreTrainedTokenizerBase, header: GgufHeader) -> None:
    """Let the tokenizer begin a text with BOS if the file wants it; older versions of transformers forget that."""

    def is_right() -> bool:
        ids = cast(list[int], tokenizer("a")["input_ids"])
        return tokenizer.bos_token_id is None or (ids[:1] == [tokenizer.bos_token_id]) == header.adds_bos

    if is_right():
        return
    setattr(tokenizer, "add_bos_token", header.adds_bos)  # noqa: B010 - not every tokenizer declares it
    if is_right():
        return
    what = f"the tokenizer cannot be made to begin texts {'with' if header.adds_bos else 'without'} its BOS token"
    raise ModelError(what, where=header.path, remedy="update transformers, or load the unquantized model")


@contextmanager
def _counting(report: Progress, total: int) -> Iterator[None]:
    """Let transformers report each tensor in place of its own progress bar, where it still has one."""
    from transformers import modeling_gguf_pytorch_utils

    names = vars(modeling_gguf_pytorch_utils)  # tqdm is no attribute that the module's type declares

    def counted(tensors: list[Any], **_: object) -> Iterator[Any]:
        for number, tensor in enumerate(tensors):
            report("converting", number, total)
            yield tensor

    if (shown := names.get("tqdm")) is None:
        report("converting", 0, total)
        yield
        return
    names["tqdm"] = counted
    try:
        yield
    finally:
        names["tqdm"] = shown


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """Yield a link to a file in a folder of its own: transformers would read a tokenizer that lies beside the file."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "model.gguf"
        try:
            link.symlink_to(path.resolve())
        except OSError:  # Windows allows symbolic links to administrators only
            os.link(path.resolve(), link)
        yield link
