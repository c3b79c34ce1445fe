"""Which weights of a training run are meant: the folders that open-unlearning, EasyEdit and transformers' Trainer leave."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from formless.errors import EditError
from formless.models.reading.checkpoint import stored_dtypes, transformers_errors

WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin", "model*.safetensors", "pytorch_model*.bin")
_CHECKPOINT: Final = re.compile(r"checkpoint-(\d+)")
_PICKLED: Final = (".pt", ".pth", ".pkl")

# Shards of distributed training, by the pattern of their folders, with what joins them.
_SHARDS: Final = {
    "global_step*": ("DeepSpeed", "python zero_to_fp32.py . . --safe_serialization"),
    "pytorch_model_fsdp_*": ("FSDP", "accelerate merge-weights pytorch_model_fsdp_0 ."),
}
# What the names of weights show that no plain model has, with what it is and what to do.
_MERGE: Final = "save `merge_and_unload()` of the PEFT model, or the PEFT model itself as an adapter"
_BY_PROMPT: Final = "evaluate it with EasyEdit, or edit with ROME, MEMIT, AlphaEdit or FT and use save_pretrained"
_WRAPPED: Final = (
    (re.compile(r"\.base_layer\.|\.lora_[ABE]\b"), "PEFT's layers are still in the model", _MERGE),
    (re.compile(r"\.(new_weight|original_layer\.\w+)$"), "it holds WISE's layers, which depend on the prompt", _BY_PROMPT),
    (re.compile(r"\.(values|layer\.weight)$"), "it holds GRACE's layers, which depend on the prompt", _BY_PROMPT),
)  # fmt: skip


def weights_folder(folder: Path) -> Path:
    """Return the folder that holds the weights of a training run: the folder itself, or the only checkpoint in it.

    The final weights lie beside the checkpoints, and are preferred. A folder without any of this is returned as it is.

    Raises:
        EditError: It holds several checkpoints and no final weights, the shards of distributed training, or a pickled file.
    """
    if folder.suffix in _PICKLED and folder.is_file():
        raise _pickled(folder)
    if not folder.is_dir() or has_weights(folder):
        return folder
    for pattern, (tool, command) in _SHARDS.items():
        if next(folder.glob(pattern), None):
            what = f"the weights are shards of {tool}"
            raise EditError(what, where=folder, remedy=f"run `{command}` in that folder first")
    found = checkpoints(folder)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise EditError(f"it has no final weights, but those of {names}", where=folder, remedy="give one of these folders")
    if not found and (pickled := sorted(path for path in folder.iterdir() if path.suffix in _PICKLED)):
        raise _pickled(pickled[0])
    return weights_folder(found[0]) if found else folder


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a training run that hold weights, the first step first; some hold evaluations alone."""
    steps = {int(match[1]): path for path in folder.iterdir() if (match := _CHECKPOINT.fullmatch(path.name)) and path.is_dir()}
    return [
        path for _, path in sorted(steps.items())
        if has_weights(path) or any(next(path.glob(pattern), None) for pattern in _SHARDS)
    ]  # fmt: skip


def has_weights(folder: Path) -> bool:
    """Return whether the weights of an adapter or of a model lie in a folder itself."""
    return any(next(folder.glob(pattern), None) for pattern in WEIGHTS)


def title(folder: Path) -> str:
    """Return the name of a folder; that of a checkpoint starts with its run's."""
    folder = folder.absolute()
    return f"{folder.parent.name}/{folder.name}" if _CHECKPOINT.fullmatch(folder.name) else folder.name


def refuse_wrapped(folder: Path) -> None:
    """Refuse a whole model whose weights are those of another tool's layers; transformers would leave them out.

    Raises:
        EditError: A weight's name shows such a layer.
        ModelError: The weights cannot be read.
    """
    with transformers_errors("the model cannot be loaded", folder):
        names = [name for _, stored in stored_dtypes(folder) for name in stored]
    for pattern, what, remedy in _WRAPPED:
        if found := next(filter(pattern.search, names), None):
            raise EditError(f"{what} ({found})", where=folder, remedy=remedy)


def _pickled(path: Path) -> EditError:
    return EditError("a pickled file is no model, and to read it can run code", where=path, remedy=_BY_PROMPT)
