"""The sweep behind `formless tune`: a method over windows of layers and values of a setting, on development concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from formless.errors import UserError
from formless.experiment.config import Experiment, ModelChoice, build_experiment
from formless.experiment.runs import ORIGINAL
from formless.methods.base import TunedSetting
from formless.methods.registry import METHODS

DEVELOPMENT = 4
"""How many concepts of a data set are for development unless the user names them; the others are for reports."""

STEP = 2
"""How far apart windows begin unless the user names their first layers."""


def windows(depth: int, size: int, first_layers: Sequence[int] | None = None) -> list[tuple[int, ...]]:
    """Return windows of neighboring layers in the first half of a model, e.g. (0, 1, 2), (2, 3, 4) ...

    Args:
        depth: Number of layers of the model.
        size: Layers of a window.
        first_layers: The first layers of the windows; every second one of the first half unless given.

    Raises:
        UserError: No window fits, or one does not fit into the first half.
    """
    half = depth // 2
    if not 1 <= size <= half:
        what = f"a window of {size} layers does not fit into the first half of {depth} layers"
        raise UserError(what, where="--window", remedy=f"give 1 to {half}" if half else "choose a deeper model")
    last = half - size
    for first in first_layers or ():
        if not 0 <= first <= last:
            what = f"a window from layer {first} does not fit into the first half of {depth} layers"
            raise UserError(what, where="--first-layers", remedy=f"give 0 to {last}")
    return [tuple(range(first, first + size)) for first in sorted(set(first_layers or range(0, last + 1, STEP)))]


def tuned_setting(method: str) -> TunedSetting:
    """Return what is tried of a method beside windows of layers.

    Raises:
        UnknownNameError: No method has that name.
        UserError: The method cannot be tuned.
    """
    if found := METHODS.get_known(method).tuned:
        return found
    able = ", ".join(entry.name for entry in METHODS.values() if entry.tuned)
    raise UserError(f"{method} has no layers to tune", where="--method", remedy=f"choose from {able}")


@dataclass(frozen=True)
class Tuning:
    """What is swept on which concepts.

    Args:
        model: The model and how it is loaded.
        method: The method.
        layers: The windows.
        values: Values of the method's tuned setting.
        settings: Other settings of the method, the same everywhere.
        data: The data set.
        targets: The development concepts, as in `formless run --targets`.
        suite: The tasks.
        limit: Most rows per file and task.
    """

    model: ModelChoice
    method: str
    layers: Sequence[tuple[int, ...]]
    values: Sequence[float]
    settings: Mapping[str, Any]
    data: str
    targets: str
    suite: str
    limit: int

    def experiment(self) -> Experiment:
        """Return the sweep: the original model, and the method once for each window and value. Edits are not kept.

        Raises:
            UserError: The method cannot be tuned, a value is given twice or none is, or a setting is one that is swept.
        """
        given, name = dict(self.settings), tuned_setting(self.method).name
        options = {"layers": "--window and --first-layers", name: "--values"}
        if swept := next((each for each in options if each in given), None):
            raise UserError(f"{swept} is what is swept", where="--set", remedy=f"choose it with {options[swept]}")
        if twice := next((value for value in self.values if list(self.values).count(value) > 1), None):
            raise UserError(f"the {name} {twice:g} is given twice", where="--values", remedy="give each once")
        if not self.values:
            raise UserError(f"no {name} is given", where="--values", remedy="give one or more")
        methods = [
            {"method": self.method, "label": label(layers, name, value), "layers": list(layers), name: value} | given
            for layers in self.layers
            for value in self.values
        ]
        keys = {
            "name": "tune", "models": [self.model.model_dump()], "methods": [{"method": ORIGINAL}, *methods],
            "data": self.data, "targets": self.targets, "suite": self.suite, "limit": self.limit, "save_edits": False,
        }  # fmt: skip
        return build_experiment(keys, "formless tune")


def label(layers: Sequence[int], name: str, value: float) -> str:
    """Return the name of settings in folders and tables, e.g. `layers_4-6_l2_0.1`."""
    return f"layers_{layers[0]}-{layers[-1]}_{name}_{value!r}"
