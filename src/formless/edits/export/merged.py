"""`--to merged`: a whole edited model, in the files and dtypes of the original."""

from __future__ import annotations

import copy
import math
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from formless import store
from formless.edits.edit import WeightEdit, refuse_applied_edits, refuse_other_model
from formless.edits.export.target import ExportOptions, loaded, refuse_packed
from formless.errors import EditError
from formless.models.lm import LM
from formless.models.overlay import by_parameter, dense_update

NOTE_FILE: Final = "README.md"

QUANTIZED: Final = (
    "Quantizing a merged model takes a part of the forgetting. Four edits of a model of 135 million parameters kept 77 to 97 % "
    "of theirs in 4 bits (Q4_0), on two concepts; bfloat16 and 8 bits took less than 1 %. Measure your own with "
    "`formless attack --attacks q4_0`."
)
"""What quantization takes; `docs/results/attacks.json` and `merge_loss.json` have the numbers, and tests compare them."""

_KEPT = (".json", ".jinja", ".model", ".txt", ".py")  # configuration, tokenizer, code of the model
_WEIGHTS = "model*.safetensors"
_LEFT_OUT = ("files.json",)  # the cache's own list


@dataclass
class Rounding:
    """How far the weights that were written are from the edited ones.

    Args:
        lost: Sum of squares of what rounding adds to the updates.
        whole: Sum of squares of the updates.
        dtypes: The dtypes that edited weights have in the files.
    """

    lost: float = 0.0
    whole: float = 0.0
    dtypes: set[str] = field(default_factory=set)

    def add(self, name: str, original: Tensor, update: Tensor, written: Tensor) -> None:
        """Count one weight; all are in its shape.

        Raises:
            EditError: The weight overflows in its dtype.
        """
        if not bool(written.isfinite().all()):
            raise EditError(f"a weight is not finite in {written.dtype}", where=name, remedy="merge into bfloat16 or float32")
        error = (written.double() - original.double()) - update.double()
        self.lost += float(error.square().sum())
        self.whole += float(update.double().square().sum())
        self.dtypes.add(str(written.dtype).removeprefix("torch."))

    def __str__(self) -> str:
        share = math.sqrt(self.lost / self.whole) if self.whole else 0.0
        where = ", ".join(sorted(self.dtypes)) or "no dtype"
        return f"Merged in {where}: rounding moves the weights by {100 * share:.2g} % of the norm of the edit."


def write(edit: WeightEdit[Any], lm: LM | None, out: Path, options: ExportOptions) -> list[str]:
    """Write the edited model, its tokenizer and edit.json.

    Raises:
        EditError: The edit is for another model.
        OutputError: The folder exists and `force` is not set, or it cannot be written.
    """
    return save_merged(edit, loaded(lm), out, force=options.force)


def save_merged(edit: WeightEdit[Any], lm: LM, folder: Path, *, force: bool = False) -> list[str]:
    """Write the whole edited model: the original's files with other values in the edited weights, and edit.json.

    A model without safetensors files of its own, such as a checkpoint of pickled weights, is written by transformers, in the
    dtype of its checkpoint.

    Returns:
        What merging and quantizing lose, one sentence a line; README.md in the folder says the same.

    Raises:
        EditError: The edit is for another model, an edit is applied to it, or it is quantized.
        ModelError: transformers has to write the model, of which only the first layers are in memory.
        OutputError: The folder exists and `force` is not set, or it cannot be written.
    """
    refuse_other_model(lm, edit.info)
    refuse_applied_edits(lm)
    refuse_packed(lm)
    with store.new_folder(folder, mark=store.EditFolder.INFO, force=force) as new:
        source = lm.checkpoint
        names = _stored_names(source, edit, lm) if source else None
        rounding = Rounding()
        if source and names is not None:
            _copy_others(source, new)
            for path in sorted(source.glob(_WEIGHTS)):
                _write_shard(path, new / path.name, names, edit, lm, rounding)
        else:
            _write_by_transformers(edit, lm, new, rounding)
        if not (new / "tokenizer_config.json").exists():
            lm.tokenizer.save_pretrained(new)
        edit.info.save(new)
        notes = [str(rounding), QUANTIZED]
        store.write_text(new / NOTE_FILE, _page(edit, notes))
    return notes


def _stored_names(source: Path, edit: WeightEdit[Any], lm: LM) -> dict[str, str] | None:
    """Return name in the files -> parameter of every edited weight; None if the files do not have them all."""
    prefix = f"{lm.model.base_model_prefix}."
    shapes = {name: shape for path in source.glob(_WEIGHTS) for name, shape in _shapes(path)}
    found = {}
    for name in by_parameter(edit.updates):
        shape = list(lm.model.get_parameter(name).shape)
        stored = next((each for each in (name, name.removeprefix(prefix)) if shapes.get(each) == shape), None)
        if stored is None:
            return None
        found[stored] = name
    return found


def _shapes(path: Path) -> Iterator[tuple[str, list[int]]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            yield name, list(file.get_slice(name).get_shape())


def _copy_others(source: Path, new: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in _KEPT and path.name not in (*_LEFT_OUT, store.EditFolder.INFO):
            shutil.copyfile(path, new / path.name)


def _write_shard(path: Path, new: Path, names: Mapping[str, str], edit: WeightEdit[Any], lm: LM, rounding: Rounding) -> None:
    """Write one file of the original; weights that the edit leaves alone keep every bit."""
    edited = {stored: names[stored] for stored, _ in _shapes(path) if stored in names}
    if not edited:
        shutil.copyfile(path, new)
        return
    tensors, metadata = store.read_tensors(path)
    changes = by_parameter(edit.updates)
    for stored, name in edited.items():
        original, update = tensors[stored], dense_update(lm.model, name, changes[name]).cpu()
        tensors[stored] = (original.float() + update).to(original.dtype)
        rounding.add(name, original, update, tensors[stored])
    store.write_tensors(new, tensors, metadata, with_hash=False)


def _write_by_transformers(edit: WeightEdit[Any], lm: LM, new: Path, rounding: Rounding) -> None:
    """Write the model in the dtype that its configuration names, which is the checkpoint's."""
    lm.check_layers(None)
    named = lm.model.config.dtype or lm.model.dtype
    dtype = getattr(torch, named) if isinstance(named, str) else named
    changes = by_parameter(edit.updates)
    is_cast, is_offloaded = dtype != lm.model.dtype, any(parameter.is_meta for parameter in lm.model.parameters())
    if is_cast and is_offloaded:
        what = f"an offloaded model in {lm.model.dtype} cannot be written in {dtype}, the dtype of its checkpoint"
        raise EditError(what.replace("torch.", ""), where=lm.name, remedy="load it in that dtype")
    with edit.applied(lm):
        model = nn.Module.to(copy.deepcopy(lm.model), dtype) if is_cast else lm.model
        values = model.state_dict()
        if is_offloaded:
            values = {name: lm.overlay.current(name) if value.is_meta else value for name, value in values.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attempting to save a model with offloaded modules")  # their values are given
            model.save_pretrained(new, state_dict=values)
        for name, change in changes.items():
            written = model.get_parameter(name).detach() if is_cast else lm.overlay.current(name)
            rounding.add(name, lm.overlay.original(name).cpu(), dense_update(lm.model, name, change).cpu(), written.cpu())


def _page(edit: WeightEdit[Any], notes: list[str]) -> str:
    info = edit.info
    title = f"# {info.model} without {info.subject}"
    first = f"An edit of {info.method} is merged into these weights and cannot be taken away. `edit.json` says how it was made."
    return "\n\n".join([title, first, *notes]) + "\n"
