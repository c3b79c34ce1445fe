"""The sweep behind `formless tune`: ROCR over windows of layers and strengths, on development concepts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from formless.errors import UserError
from formless.experiment.config import Experiment, ModelChoice, build_experiment
from formless.experiment.runs import ORIGINAL

DEVELOPMENT = 4
"""How many concepts of a data set are for development unless the user names them; the others are for reports."""

_SWEPT = {"layers": "--window and --first-layers", "l2": "--l2"}


def windows(depth: int, size: int, first_layers: Sequence[int] | None = None) -> list[tuple[int, ...]]:
    """Return the windows of neighboring layers in the first half of a model, e.g. (0, 1, 2), (1, 2, 3) ...

    Args:
        depth: Number of layers of the model.
        size: Layers of a window.
        first_layers: The first layers of the windows; all that fit into the first half unless given.

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
    return [tuple(range(first, first + size)) for first in sorted(set(first_layers or range(last + 1)))]


@dataclass(frozen=True)
class Tuning:
    """What is swept on which concepts.

    Args:
        model: The model and how it is loaded.
        layers: The windows.
        l2: The strengths: lambda of the closed form, usually 0.1 to 10. A smaller one makes a stronger edit.
        settings: Other settings of ROCR, the same everywhere.
        data: The data set.
        targets: The development concepts, as in `formless run --targets`.
        suite: The tasks.
        limit: Most rows per file and task.
    """

    model: ModelChoice
    layers: Sequence[tuple[int, ...]]
    l2: Sequence[float]
    settings: Mapping[str, Any]
    data: str
    targets: str
    suite: str
    limit: int

    def experiment(self) -> Experiment:
        """Return the sweep: the original model, and ROCR once for each window and strength. Edits are not kept.

        Raises:
            UserError: A strength is not finite, negative or given twice, or a setting is one that is swept.
        """
        given = dict(self.settings)
        if swept := next((name for name in _SWEPT if name in given), None):
            raise UserError(f"{swept} is what is swept", where="--set", remedy=f"choose it with {_SWEPT[swept]}")
        if not self.l2:
            raise UserError("no strength is given", where="--l2", remedy="e.g. 0.1,1,10")
        for strength in self.l2:
            if not (math.isfinite(strength) and strength >= 0):
                raise UserError(f"the strength {strength:g} is not 0 or more", where="--l2", remedy="e.g. 0.1,1,10")
            if list(self.l2).count(strength) > 1:
                raise UserError(f"the strength {strength:g} is given twice", where="--l2", remedy="give each once")
        methods = [
            {"method": "rocr", "label": label(layers, strength), "layers": list(layers), "l2": strength} | given
            for layers in self.layers
            for strength in self.l2
        ]
        keys = {
            "name": "tune", "models": [self.model.model_dump()], "methods": [{"method": ORIGINAL}, *methods],
            "data": self.data, "targets": self.targets, "suite": self.suite, "limit": self.limit, "save_edits": False,
        }  # fmt: skip
        return build_experiment(keys, "formless tune")


def label(layers: Sequence[int], l2: float) -> str:
    """Return the name of a setting in folders and tables, e.g. `layers_4-6_l2_0.1`."""
    return f"layers_{layers[0]}-{layers[-1]}_l2_{l2!r}"
