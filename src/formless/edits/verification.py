"""What a saved edit is compared with: what `save` states about its files, and what edit.json says of each edited weight."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, cast

from peft import LoraConfig
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from formless import store
from formless.edits.edit import EditInfo, LayerReport, WeightsFile, WeightStatement, frobenius_norm
from formless.errors import EditError
from formless.models.overlay import Difference, Factors, Updates

NORM_TOLERANCE: Final = 1e-3
"""Largest relative difference of two float32 norms of the same update, computed on different devices."""

_NAMES: Final = 5  # so many are named in an error
_REMEDY: Final = "restore the file, or compute the edit again with `formless unlearn --out`"
# Keys of adapter_config.json that change no number, so that a server's copy may differ in them.
_FREE_KEYS: Final = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision")


class AdapterSettings(BaseModel):
    """The keys of adapter_config.json that an `AdapterEdit` follows; every other key has PEFT's default.

    Args:
        peft_type: The kind of adapter.
        task_type: The kind of model.
        r: Rank of every update.
        lora_alpha: Scale of the updates times the rank.
        target_modules: Last parts of the projections' names, or a pattern of whole names.
        layers_to_transform: Decoder layers; all if None.
        layers_pattern: Name of the list of layers.
        fan_in_fan_out: Whether the projections' weights are transposed, as in GPT-2.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"] | None = None
    r: int = Field(ge=1)
    lora_alpha: float = Field(gt=0)
    target_modules: str | list[str]
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    fan_in_fan_out: bool = False


def damaged(what: str, where: object) -> EditError:
    """Return the error of a file that does not hold what was saved."""
    return EditError(f"the edit is damaged: {what}", where=where, remedy=_REMEDY)


def state_weights(path: Path, updates: Updates, adapter_config: Path | None = None) -> WeightsFile:
    """Return what edit.json states about the files just written.

    Args:
        path: The file of the weights.
        updates: The edit.
        adapter_config: The adapter_config.json of a low-rank edit.
    """
    return WeightsFile(
        file=path.name,
        sha256=store.file_sha256(path),
        weights=[_statement(name, change) for name, change in updates.items()],
        adapter_config=None if adapter_config is None else _stated_keys(read_json(adapter_config)),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        EditError: It is no file or no JSON object, or has a key twice.
        FileNotFoundError: It is missing.
    """
    try:
        content = store.read_json(path)
    except ValueError as error:
        raise EditError(f"the edit cannot be read: {_first_line(error)}", where=path, remedy=_REMEDY) from error
    if not isinstance(content, dict):
        raise EditError("the edit cannot be read: no JSON object", where=path, remedy=_REMEDY)
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of floating-point tensors, each with values, none of them NaN or infinite.

    Raises:
        EditError: The file cannot be read, or holds anything else.
        FileNotFoundError: It is missing.
    """
    _check_file(path)
    try:
        tensors, _ = store.read_tensors(path)
    except ValueError as error:
        raise EditError(f"the edit cannot be read: {_first_line(error)}", where=path, remedy=_REMEDY) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise damaged(f"{name} is {_dtype(tensor)}, not floating-point", path)
        if not tensor.numel():
            raise damaged(f"{name} has the shape {list(tensor.shape)}", path)
        if not bool(tensor.float().isfinite().all()):
            raise damaged(f"{name} holds NaN or infinity", path)
    return tensors


def paired_factors(tensors: Mapping[str, Tensor], prefix: str, path: Path) -> dict[str, Factors]:
    """Return the factors by module name, in the file's dtype and without the scale.

    Args:
        tensors: The tensors of the file, `<prefix><module>.lora_A.weight` `[r, in]` and `.lora_B.weight` `[out, r]`.
        prefix: What PEFT puts before the name of a module.
        path: The file, for errors.

    Raises:
        EditError: A tensor has another name, lacks its partner or has another shape.
    """
    sides = (".lora_A.weight", ".lora_B.weight")
    modules = {name.removeprefix(prefix).removesuffix(side): None for name in tensors for side in sides if name.endswith(side)}
    expected = [f"{prefix}{module}{side}" for module in modules for side in sides]
    _check_names(tensors, expected, path, "tensor")
    if not modules:
        raise damaged("the file holds no LoRA factors", path)
    found = {}
    for module in modules:
        down, up = (tensors[f"{prefix}{module}{side}"] for side in sides)
        if down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1]:
            raise damaged(f"the factors of {module} have the shapes {list(up.shape)} and {list(down.shape)}", path)
        found[module] = Factors(up, down)
    return found


def check_adapter_config(path: Path, info: EditInfo, factors: Mapping[str, Factors]) -> AdapterSettings:
    """Check adapter_config.json: nothing in it is applied by PEFT but not by us.

    Args:
        path: The file.
        info: The content of edit.json.
        factors: The factors in the file of the weights.

    Raises:
        EditError: A key differs from what was saved; or, in an edit that does not state it, has a value that we do not apply
            or that does not fit the factors.
        FileNotFoundError: The file is missing.
    """
    content = read_json(path)
    if info.weights is not None:
        stated, found = info.weights.adapter_config or {}, _stated_keys(content)
        for key in sorted({*stated, *found}):
            if json.dumps(stated.get(key)) != json.dumps(found.get(key)):
                raise damaged(f"{key} is {found.get(key)!r}, saved was {stated.get(key)!r}", path)
    defaults = _stated_keys(json.loads(json.dumps(cast(Any, LoraConfig()).to_dict(), default=list)))
    for key, default in defaults.items():
        value = content.get(key, default)
        if key not in AdapterSettings.model_fields and json.dumps(value) != json.dumps(default):
            raise damaged(f"{key} is {value!r}, which Formless does not apply", path)
    try:
        settings = AdapterSettings.model_validate(content)
    except ValidationError as error:
        raise EditError(f"the edit cannot be read: {first_problem(error)}", where=path, remedy=_REMEDY) from error
    for module, change in factors.items():
        if len(change.down) != settings.r:
            raise damaged(f"r is {settings.r}, but the factors of {module} have rank {len(change.down)}", path)
    _check_targets(settings, factors, path)
    return settings


def check_modules(info: EditInfo, updates: Updates, where: object) -> dict[str, LayerReport]:
    """Compare the names of the edited weights with `info.layers`, and return those by name.

    Raises:
        EditError: They differ.
    """
    layers = {layer.module: layer for layer in info.layers}
    if len(layers) != len(info.layers):
        raise damaged("edit.json has a module twice", where)
    _check_names(updates, layers, where, "edited weight")
    return layers


def check_updates(info: EditInfo, updates: Updates, where: object) -> None:
    """Compare an edit with the names, ranks and norms of `info.layers`.

    Raises:
        EditError: They differ.
    """
    layers = check_modules(info, updates, where)
    for name, change in updates.items():
        layer, found = layers[name], _checked(name, change, where)
        if found.rank != layer.rank:
            raise damaged(f"{name} has rank {found.rank}, edit.json says {layer.rank}", where)
        if not _close(found.norm, layer.update_norm):
            raise damaged(f"the update of {name} has the norm {found.norm:.6g}, edit.json says {layer.update_norm:.6g}", where)


def check_stated(path: Path, stated: WeightsFile, updates: Updates) -> None:
    """Compare the file of the weights with what edit.json states about it.

    Args:
        path: The file.
        stated: What edit.json says.
        updates: The content of the file, in the file's dtype.

    Raises:
        EditError: They differ.
    """
    if stated.file != path.name:
        raise damaged(f"edit.json is about {stated.file}", path)
    expected = {weight.name: weight for weight in stated.weights}
    _check_names(updates, expected, path, "edited weight")
    for name, change in updates.items():
        found, saved = _checked(name, change, path), expected[name]
        for field in ("shapes", "rank", "dtype"):
            if getattr(found, field) != getattr(saved, field):
                raise damaged(f"{field} of {name} is {getattr(found, field)}, saved was {getattr(saved, field)}", path)
        if not _close(found.norm, saved.norm):
            raise damaged(f"the update of {name} has the norm {found.norm:.6g}, saved was {saved.norm:.6g}", path)
    if store.file_sha256(path) != stated.sha256:
        raise damaged("the content differs from what was saved (sha256)", path)


def first_problem(error: ValidationError) -> str:
    """Return the first problem that pydantic found, as field and reason."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg'].removeprefix('Value error, ')}"


def _statement(name: str, change: Factors | Difference) -> WeightStatement:
    if isinstance(change, Factors):
        shapes, rank, dtype = [list(change.up.shape), list(change.down.shape)], len(change.down), _dtype(change.up)
        up, down = change.up.double(), change.down.double()
        # ||up @ down||^2 without the matrix itself, which is thousands of times as large.
        norm = math.sqrt(max(float(((up.T @ up) * (down @ down.T)).sum()), 0.0))
    else:
        values = change.values
        shapes, rank, dtype = [list(values.shape)], min(values.shape) if values.dim() > 1 else 1, _dtype(values)
        norm = frobenius_norm(values)
    return WeightStatement(name=name, shapes=shapes, rank=rank, dtype=dtype, norm=norm)


def _checked(name: str, change: Factors | Difference, where: object) -> WeightStatement:
    """Return the statement of an update from a file, whose values may be too large to square."""
    try:
        return _statement(name, change)
    except ValidationError as error:
        raise damaged(f"the update of {name} has no finite norm", where) from error


def _check_names(found: Mapping[str, Any], expected: Mapping[str, Any] | list[str], where: object, kind: str) -> None:
    for what, names in (
        (f"it lacks the {kind}", [name for name in expected if name not in found]),
        (f"it has the unexpected {kind}", [name for name in found if name not in expected]),
    ):
        if names:
            more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
            raise damaged(f"{what} {', '.join(names[:_NAMES])}{more}", where)


def _check_targets(settings: AdapterSettings, factors: Mapping[str, Factors], path: Path) -> None:
    """Check that PEFT would put its factors on the same modules, as far as their names tell."""
    from peft.tuners.tuners_utils import check_target_module_exists

    config = LoraConfig(
        target_modules=settings.target_modules,
        layers_to_transform=settings.layers_to_transform,
        layers_pattern=settings.layers_pattern,
    )
    for module in factors:
        try:
            is_target = bool(check_target_module_exists(config, module))
        except re.error as error:
            raise damaged(f"target_modules is no pattern ({error})", path) from error
        if not is_target:
            raise damaged(f"target_modules or layers_to_transform leave out {module}", path)
    if isinstance(settings.target_modules, list):
        for target in settings.target_modules:
            if not any(f".{module}".endswith(f".{target}") for module in factors):
                raise damaged(f"target_modules has {target}, which was not edited", path)
    layers = settings.layers_to_transform
    for layer in [layers] if isinstance(layers, int) else layers or ():
        if not any(str(layer) in module.split(".") for module in factors):
            raise damaged(f"layers_to_transform has {layer}, which was not edited", path)


def _stated_keys(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of adapter_config.json that change numbers; the order of target modules does not."""
    kept = {key: value for key, value in content.items() if key not in _FREE_KEYS}
    if isinstance(modules := kept.get("target_modules"), list):
        kept["target_modules"] = sorted(modules, key=str)
    return kept


def _check_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not path.is_file():  # to open a named pipe waits forever
        raise EditError("the edit cannot be read: it is no plain file", where=path, remedy=_REMEDY)


def _close(found: float, stated: float) -> bool:
    return math.isclose(found, stated, rel_tol=NORM_TOLERANCE, abs_tol=1e-12)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
