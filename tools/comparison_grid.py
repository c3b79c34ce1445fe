"""What the comparison of all methods runs: the settings that are tried, and those that are chosen, on one model each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from formless.errors import DataError, UnknownNameError
from formless.experiment.config import Experiment, build_experiment, experiment_keys
from formless.experiment.runs import ORIGINAL
from formless.methods.rocr.config import PUBLISHED_REDIRECT
from tools.results import FOLDER, Result

STRENGTHS = (0.5, 1.0, 2.0)
"""Of each edit in the tuning, and on the other concepts unless others are given."""

_RETAIN: tuple[dict[str, Any], ...] = ({"retain": "none"}, {"retain": "kl"})
_DPO: tuple[dict[str, Any], ...] = ({"beta": 0.1}, {"beta": 0.5})

SECOND: Mapping[str, Sequence[dict[str, Any]]] = {
    "ga": _RETAIN,
    "grad_diff": ({"retain_weight": 1}, {"retain_weight": 5}),
    "wga": ({"alpha_weight": 0.5}, {"alpha_weight": 2}),
    "npo": ({"beta": 0.0275}, {"beta": 0.1}),
    "simnpo": ({"beta": 2.5}, {"beta": 4.5}),
    "undial": ({"gamma": 3}, {"gamma": 10}),
    "ce_u": _RETAIN,
    "rmu": ({"coefficient": 50}, {"coefficient": 200}),
    "task_vector": _RETAIN,
    "rt": _RETAIN,
    "idk_nll": ({"retain_weight": 1}, {"retain_weight": 5}),
    "cft": _RETAIN,
    "dpo": _DPO,
    "dpo_reject": _DPO,
    "idk_dpo": _DPO,
}
"""What is tried with each of three learning rates: the method's own coefficient, or else the retain loss."""

# One pass over every row, in batches of four. `max_length` holds the longest added statement in its prompt.
_TRAINING = {
    "num_train_epochs": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "warmup_steps": 2,
    "max_rows": None,
}  # fmt: skip
_TEXT_LENGTH, _ANSWER_LENGTH = 64, 96
_ON_TEXTS = ("ga", "grad_diff", "wga", "npo", "simnpo", "undial", "ce_u", "rmu", "task_vector")
_ROCR = {"method": "rocr", "redirect": PUBLISHED_REDIRECT}
_SPELLED = {"mentions": "spelled", "protect": "neighbors"}


@dataclass(frozen=True)
class Campaign:
    """A comparison of methods on one model.

    Args:
        model: The bundled model, in bfloat16.
        known_as: How pages call it.
        rates: Learning rates that are tried; RMU trains three matrices only, and gets five times as much.
        second: What is tried with each rate.
        tunes_rocr: Whether ROCR's layers and l2, and the settings of the removal of a direction, are among those that are
            tried; else ROCR has the paper's, and the removal is left out.
        development: The concepts that settings are chosen on.
        targets: The others.
        tuning_limit: Rows of each file, on the development concepts.
        suite: The tasks on the others.
        limit: Rows of each file, on the others.
        layers: Layers of the null spaces.
        suffix: Ends the names of the pages.
    """

    model: str
    known_as: str
    rates: tuple[float, ...]
    second: Mapping[str, Sequence[dict[str, Any]]]
    tunes_rocr: bool
    development: str
    targets: str
    tuning_limit: int
    suite: str
    limit: int
    layers: str
    suffix: str = ""

    @property
    def settings(self) -> Path:
        """The page of the settings."""
        return FOLDER / f"method_settings{self.suffix}.json"

    @property
    def tuning_commands(self) -> list[str]:
        """What makes the page of the settings, from an empty folder."""
        tuning = f"runs/tuning{self.suffix}"
        return [
            self._statistics,
            f"python -m tools.comparison grid {self.model} stats/{self.model} > tuning.yaml",
            f"formless run tuning.yaml --out {tuning}",
            f"formless frontier {tuning} --strengths {_numbers(STRENGTHS)}",
            f"python -m tools.comparison settings {self.model} {tuning}",
        ]

    def commands(self, methods: Sequence[str], strengths: Sequence[float]) -> list[str]:
        """Return what makes the other pages, with the settings that their page calls chosen."""
        others = f"runs/comparison{self.suffix}"
        return [
            self._statistics,
            f"python -m tools.comparison others {self.model} stats/{self.model} --methods {','.join(methods)} "
            "> comparison.yaml",
            f"formless run comparison.yaml --out {others}",
            f"formless frontier {others} --strengths {_numbers(strengths)}",
            f"python -m tools.comparison pages {self.model} {others} --strengths {_numbers(strengths)}",
        ]

    @property
    def _statistics(self) -> str:
        dtype = "" if self.model == "smollm2" else " --dtype bfloat16"
        return (
            f"formless stats --model {self.model}{dtype} --layers {self.layers} --corpus RWKU/Target "
            f"--pattern '?_*/passage.json' --basis-dtype float16 --out stats/{self.model}"
        )


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


CAMPAIGNS = {
    "smollm2": Campaign(
        "smollm2", "SmolLM2-135M", (7e-4, 2e-3, 5e-3), SECOND, tunes_rocr=True, development="1-2", targets="5-9",
        tuning_limit=10, suite="statement,qa,qa_mentions,reverse", limit=18, layers="0,1,2,4,5,6",
    ),
    "qwen2.5-coder-1.5b": Campaign(
        "qwen2.5-coder-1.5b", "Qwen2.5-Coder-1.5B", (2e-4, 7e-4, 2e-3, 5e-3),
        {
            "ga": [{"retain": "kl"}], "npo": [{"beta": 0.1}], "rmu": [{"coefficient": 200}], "rt": [{"retain": "none"}],
            "dpo": [{"beta": 0.1}],
        },
        tunes_rocr=False, development="1", targets="5-6", tuning_limit=8, suite="statement,qa,qa_mentions", limit=10,
        layers="4,5,6", suffix="_coder",
    ),
}  # fmt: skip
"""The comparisons, by model. On the larger model the second setting is what the rule chose on the smaller one."""


def tuning_grid(campaign: Campaign, statistics: str) -> Experiment:
    """Return the experiment that tries the settings of each method on the development concepts.

    Args:
        campaign: The comparison.
        statistics: Folder of the null spaces.
    """
    tried = [one for name in campaign.second for one in _trained(campaign, name)]
    methods = [{"method": ORIGINAL}, *((*_rocr(statistics), *_removal()) if campaign.tunes_rocr else ()), *tried]
    keys = {
        "name": "tuning", "models": [{"name": campaign.model, "dtype": "bfloat16"}], "methods": methods, "data": "sample",
        "targets": campaign.development, "suite": "statement,qa", "limit": campaign.tuning_limit,
    }  # fmt: skip
    return build_experiment(keys, "tools/comparison.py")


def others(campaign: Campaign, statistics: str, chosen: Path | None = None, names: Sequence[str] = ()) -> Experiment:
    """Return the experiment of the chosen settings on the other concepts, with more ways of ROCR, and `cdr` by default.

    They are ROCR as published and with a key for every spelling; where its settings were not chosen, also ours with one key,
    and with every spelling but no null space.

    Args:
        campaign: The comparison.
        statistics: Folder of the null spaces.
        chosen: What `formless frontier --chosen` wrote; the page of the settings unless given.
        names: Trained methods; all with chosen settings unless given.

    Raises:
        DataError: The page of the settings has a chosen row that is none of the grid.
        UnknownNameError: A name is no trained method with chosen settings.
    """
    grid = tuning_grid(campaign, statistics)
    keys = experiment_keys(str(chosen)) if chosen else grid.model_dump() | {"methods": _chosen(campaign, grid)}
    trained = {entry["method"] for entry in keys["methods"]} & campaign.second.keys()
    if unknown := next((name for name in names if name not in trained), None):
        raise UnknownNameError("trained method", unknown, trained, where="--methods")
    methods = [one for one in keys["methods"] if not names or one["method"] not in trained or one["method"] in names]
    found = next((entry for entry in methods if entry["method"] == "rocr"), None)
    rocr = found or _ROCR | {"label": "rocr", "basis": statistics}
    methods += [] if found else [rocr]
    methods.append(_ROCR | {"label": "rocr-published", "current_value": "bare", "basis": statistics})
    methods.append(rocr | {"label": f"{rocr['label']}-spelled"} | _SPELLED)
    if not found:
        methods.append(rocr | {"label": "rocr-spelled-no-null-space", "basis": "none"} | _SPELLED)
    methods.append({"method": "cdr", "label": "cdr"})
    more = {"name": "comparison", "targets": campaign.targets, "suite": campaign.suite, "limit": campaign.limit}
    return build_experiment(keys | {"methods": methods} | more, chosen or campaign.settings)


def _chosen(campaign: Campaign, grid: Experiment) -> list[dict[str, Any]]:
    """Return the original model and the settings of the grid that the page calls chosen."""
    tried = {one.label: one.model_dump() for one in grid.methods}
    found = chosen_labels(campaign)
    if unknown := next((label for label in found if label not in tried), None):
        raise DataError("chosen settings are none of the grid", where=f"{campaign.settings}, {unknown}", remedy="tune again")
    return [tried[label] for label in (ORIGINAL, *found)]


def chosen_labels(campaign: Campaign) -> dict[str, int]:
    """Return the label of each row of the settings' page that is called chosen, with the number of its method's rows."""
    rows = Result.model_validate_json(campaign.settings.read_text("utf-8")).rows
    counts = Counter(row[0] for row in rows)
    return {label_of(f"{row[0]}", f"{row[1]}"): counts[row[0]] for row in rows if row[4] == "chosen"}


def row_of(label: str) -> tuple[str, str]:
    """Return method and settings of a label as the page writes them."""
    name, *settings = re.split(r"-(?=[a-z])", label)
    return name, ", ".join(" ".join(one.rsplit("_", 1)) for one in settings)


def label_of(name: str, said: str) -> str:
    """Return the label of which `row_of` gives these."""
    return "-".join([name, *(one.replace(" ", "_") for one in said.split(", "))])


def _rocr(statistics: str) -> Iterator[dict[str, Any]]:
    for layers, l2 in product(((0, 1, 2), (4, 5, 6)), (0.1, 1.0, 10.0)):
        label = f"rocr-layers_{layers[0]}-{layers[-1]}-l2_{l2:g}"
        yield _ROCR | {"label": label, "layers": list(layers), "l2": l2, "basis": statistics}


def _removal() -> Iterator[dict[str, Any]]:
    for layers, budget in product(((4, 5, 6), (6, 7, 8)), (0.01, 0.04, 0.16)):
        label = f"cdr-layers_{layers[0]}-{layers[-1]}-budget_{budget:g}"
        yield {"method": "cdr", "label": label, "layers": list(layers), "budget": budget}


def _trained(campaign: Campaign, name: str) -> Iterator[dict[str, Any]]:
    length = _TEXT_LENGTH if name in _ON_TEXTS else _ANSWER_LENGTH
    for rate, second in product(campaign.rates, campaign.second[name]):
        rate = 5 * rate if name == "rmu" else rate  # it trains three matrices only, and needs more (learning_rates.json)
        [(key, value)] = second.items()
        label = f"{name}-lr_{rate:g}-{key}_{value}"
        yield {"method": name, "label": label, "learning_rate": rate, **_TRAINING, "max_length": length, **second}
