"""The content of an edit.json of an earlier version, under the names of the current one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from formless import store
from formless.errors import EditError

# Names that edit.json had in version 1.
_CONFIG_NAMES = {
    "cutoff": "max_length", "rank": "r", "alpha": "lora_alpha", "modules": "target_modules",
    "batch": "per_device_train_batch_size", "accumulation": "gradient_accumulation_steps", "epochs": "num_train_epochs",
    "rows": "max_rows",
}  # fmt: skip
_FACT_NAMES = {
    "residual_met": "residual_reduction", "moved_by_others": "shift_by_others", "drifts": "kept_shifts",
    "kept": "earlier_edit", "retained": "retain_set", "cut_texts": "truncated_texts",
}  # fmt: skip


def upgrade_edit_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of an edit.json of version 1 or 2 with the names of version 2.

    Raises:
        EditError: A newer formless wrote it, or `format` is no version.
        ValueError: Its settings or facts are no mappings.
    """
    version = info.get("format", 1)
    if type(version) is not int or version < 1:  # true is no version either
        remedy = "restore edit.json, or compute the edit again"
        raise EditError("the edit has a format that is no version", where=f"format {version!r}", remedy=remedy)
    if version > store.EDIT_SCHEMA:
        raise EditError("the edit was written by a newer formless", where=f"format {version}", remedy="upgrade formless")
    if version == store.EDIT_SCHEMA:
        return dict(info)
    facts = _renamed(info.get("facts", {}), _FACT_NAMES)
    if "targets" in facts:
        targets = facts["targets"] if isinstance(facts["targets"], list) else [None]
        facts["targets"] = [_renamed(target, _FACT_NAMES) for target in targets]
    if "earlier_edit" in facts:
        facts["earlier_edit"] = upgrade_edit_info(_renamed(facts["earlier_edit"], {}))
    config = _renamed(info.get("config", {}), _CONFIG_NAMES)
    return dict(info) | {"format": store.EDIT_SCHEMA, "config": config, "facts": facts}


def _renamed(values: Any, names: Mapping[str, str]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError("config, facts, facts.targets or facts.earlier_edit of edit.json have a wrong type")
    return {names.get(name, name): value for name, value in values.items()}
