"""Whether a saved edit, or a PEFT adapter of another tool, fits a model, as far as its files tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Size

from formless import store
from formless.edits.edit import Edit, refuse_other_shapes
from formless.edits.loading import load_edit
from formless.errors import EditError
from formless.models.families import projection_shape
from formless.models.loading import MetaModel

_PREFIX = "base_model.model."


def check_fit(meta: MetaModel, folder: Path) -> Edit | str:
    """Refuse a saved edit whose modules or shapes are not the model's.

    Args:
        meta: The model.
        folder: An edit, or a PEFT adapter without edit.json.

    Returns:
        The edit, whose fingerprint is yet to be compared; of an adapter the base model that it names.

    Raises:
        EditError: It cannot be read, or is for a model with other modules or shapes.
    """
    files = store.EditFolder(folder)
    if files.info.exists() or not files.adapter_config.exists():
        edit = load_edit(folder)
        refuse_other_shapes(meta, edit)
        return edit
    remedy = "give the folder of a PEFT adapter in safetensors"
    try:
        with safe_open(files.weights, "pt") as tensors:
            shapes = {name: Size(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no mapping
        named = json.loads(files.adapter_config.read_text("utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise EditError(f"the adapter cannot be read: {error}", where=folder, remedy=remedy) from error
    _check_shapes(meta, shapes, folder)
    return str(named)


def _check_shapes(meta: MetaModel, shapes: Mapping[str, Size], folder: Path) -> None:
    sides = {name: shape for name, shape in shapes.items() if name.endswith((".lora_A.weight", ".lora_B.weight"))}
    if not sides:
        raise EditError("the adapter has no LoRA weights", where=folder, remedy="give a LoRA adapter")
    for name, shape in sides.items():
        module, side, _ = name.removeprefix(_PREFIX).rsplit(".", 2)
        try:
            out, into = projection_shape(meta.model.get_submodule(module))
        except AttributeError:
            raise EditError("the adapter is for another model: no such module", where=module, remedy="load its base") from None
        found, expected = (shape[1], into) if side == "lora_A" else (shape[0], out)
        if found != expected:
            what = f"the adapter is for another model: {found} of {side}, not {expected}"
            raise EditError(what, where=module, remedy="load its base")
