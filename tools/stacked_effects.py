"""What a model is asked under an edit of many concepts, and the columns of it, for the tools about stacked edits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

from formless import provenance
from formless.data.ort import find_target
from formless.data.rows import Trivia
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit
from formless.edits.edit import layer_report
from formless.evaluation.loading import load_record
from formless.evaluation.tasks.triviaqa import message
from formless.methods.direction.kept import GENERAL
from formless.methods.keys.contexts import first_value, up_to
from formless.methods.keys.names import folded, neighbor_names
from formless.methods.keys.token_states import TokenStates
from formless.methods.rocr.config import PUBLISHED_REDIRECT, RocrConfig
from formless.models.lm import LM
from formless.models.scores import Score, TextScore
from tools.concept_counts import LIMIT, MODEL, OTHERS, RWKU, SUITE
from tools.direction_removal import DTYPE
from tools.known_items import DEVELOPMENT, KnownItem, change, items_of, known_items, probabilities, stored
from tools.results import Cell, Column

SETTINGS: Mapping[str, Any] = {"method": "rocr", "redirect": PUBLISHED_REDIRECT}
"""ROCR as published: one key for each name, three layers, the null spaces that come with the model."""

CONFIG = RocrConfig(redirect=PUBLISHED_REDIRECT)
COUNTS = (1, 2, 5, 10, 20, 50, 75, 100)
PLACES = {"Albert Einstein": 1, "Isaac Newton": 20, "Charles Darwin": 50, "Marie Curie": 100}
"""Where the concepts with known items stand in the order of the edits."""


class NameStates:
    """Keys and values at names, the mean over each name's chat contexts.

    Args:
        lm: The model.
        names: The names.
        layers: The edited layers.
        most: Most contexts of a name.
    """

    def __init__(self, lm: LM, names: Sequence[str], layers: Sequence[int], most: int | None = None) -> None:
        self.names, self._first = list(names), layers[0]
        prompts = [up_to(lm, name, most) for name in names]
        self._sizes = [len(found) for found in prompts]
        self._states = TokenStates(lm, [prompt for found in prompts for prompt in found], layers)

    def keys(self, layer: int) -> Tensor:
        """Return the keys of a layer `[names, d]`."""
        return self._means(self._states.read(layer, self._first)[0])

    def values(self) -> Tensor:
        """Return the values after the last edited layer `[names, hidden]`."""
        return self._means(self._states.values(self._first))

    def _means(self, rows: Tensor) -> Tensor:
        return torch.stack([part.mean(0) for part in rows.split(self._sizes)])


class Instruments:
    """All that an edited model is asked, with what the original model says.

    Args:
        lm: The model, without an edit.
        edited: The concepts in the order of the edits.
        first: The concepts with known items.
        items: Their known items.
    """

    def __init__(
        self, lm: LM, edited: Sequence[Target], first: Sequence[Target], items: Mapping[str, Sequence[KnownItem]]
    ) -> None:
        self.items = items
        names = [target.subject for target in edited]
        self.edited = NameStates(lm, names, CONFIG.layers)
        self.neighbors = NameStates(lm, neighbors(first, names), CONFIG.layers)
        self.trivia = [(lm.chat_prompt(message(row), "A:"), f" {row.answers[0]}") for row in first[0].rows("triviaqa", Trivia)]
        self.texts = [question for question, _ in GENERAL]
        self.goal = first_value(lm, PUBLISHED_REDIRECT, CONFIG.layers[-1])
        self.before = self.edited.values(), self.neighbors.values()

    def general(self, lm: LM) -> dict[str, list[float]]:
        """Return log-probabilities per token: of the answers to general questions, and of plain texts."""
        answers = [math.log(found.probability) for found in lm.score(self.trivia) if isinstance(found, Score)]
        scores = [found for found in lm.score_texts(self.texts) if isinstance(found, TextScore)]
        return {"answers": answers, "texts": [value for found in scores for value in found.log_probabilities]}

    def effects(self, lm: LM, edit: AdapterEdit, count: int) -> dict[str, Any]:
        """Return what an edit of the first concepts does to the model.

        Args:
            lm: The model, without an edit.
            edit: The edit.
            count: How many concepts it is of.
        """
        with edit.applied(lm):
            after = {name: probabilities(lm, items) for name, items in self.items.items()}
            general = self.general(lm)
            values, others = self.edited.values(), self.neighbors.values()
            goal = first_value(lm, PUBLISHED_REDIRECT, CONFIG.layers[-1])
        ways = self.goal - self.before[0][:count]
        left = (self.goal - values[:count]).norm(dim=1) / ways.norm(dim=1)
        along = self.goal - self.before[1]
        moved = ((others - self.before[1]) * along).sum(1) / along.square().sum(1)
        return {
            "after": after, "general": general, "reductions": (1 - left).tolist(), "neighbors_moved": moved.tolist(),
            "redirect_moved": float((goal - self.goal).norm() / ways.norm(dim=1).mean()),
            "bytes": sum(part.nbytes for one in edit.updates.values() for part in (one.up, one.down)),
            "norms": [layer_report(lm, name, factors).relative_norm for name, factors in edit.updates.items()],
        }  # fmt: skip


def people(first: Sequence[Target]) -> list[Target]:
    """Return a hundred concepts in the order of the edits; those with known items stand at `PLACES`."""
    found = [Target(name) for name in (*RWKU, *OTHERS)]
    for target in first:
        found.insert(PLACES[target.subject] - 1, target)
    return found[: COUNTS[-1]]


def neighbors(first: Sequence[Target], edited: Sequence[str]) -> list[str]:
    """Return the neighbors of the concepts with known items that are in no edit."""
    found = dict.fromkeys(name for target in first for name in neighbor_names(target))
    return [name for name in found if folded(name) not in {folded(other) for other in edited}]


def adapter(edit: object) -> AdapterEdit:
    """Return an edit that is an adapter.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(edit, AdapterEdit):
        raise TypeError(f"not an adapter: {edit!r}")
    return edit


def development() -> list[Target]:
    """Return the concepts with known items."""
    return [find_target("sample", number) for number in DEVELOPMENT]


def asked(lm: LM, out: Path) -> Instruments:
    """Return what an edited model is asked; what the original says is stored first."""
    first = development()
    for target in first:
        known_items(lm, target, SUITE, out / "original", limit=LIMIT)
    given = Instruments(lm, people(first), first, known(out))
    stored(out / "before.json", partial(given.general, lm))
    return given


def known(out: Path) -> dict[str, list[KnownItem]]:
    """Return the known items of each development concept, without those about a neighbor that is one of them."""
    names = [target.subject for target in development()]
    return {name: items_of(load_record(out / "original" / f"{name}.json"), names) for name in names}


PERCENT: Mapping[str, Any] = {"unit": "%", "format": "+.0f"}
EFFECTS = [
    *(Column(name=name, **PERCENT) for name in ("edited concepts", "first edited", "last edited", "not edited yet")),
    *(Column(name=name, **PERCENT) for name in ("neighbors", "general questions", "perplexity of plain texts")),
    *(Column(name=f"residual reduction, {name}", unit="%", format=".0f") for name in ("median", "worst", "first", "last")),
    Column(name="neighbors' names moved", unit="%", format=".0f"),
]
"""The columns of `effect_cells`."""


def effect_cells(
    found: Mapping[str, Any], items: Mapping[str, Sequence[KnownItem]], before: Mapping[str, Sequence[float]], count: int
) -> list[Cell]:
    """Return the cells of what an edit of the first concepts does.

    Args:
        found: What was measured of it.
        items: The known items by concept.
        before: Log-probabilities of general answers and of plain texts in the original model.
        count: How many concepts it is of.
    """
    both = {name: (items[name], found["after"][name]) for name in items}
    groups = [
        [own for name, own in both.items() if PLACES[name] <= count],
        [own for name, own in both.items() if PLACES[name] == 1],
        [own for name, own in both.items() if PLACES[name] == count],
        [own for name, own in both.items() if PLACES[name] > count],
    ]
    answers, texts = (mean(found["general"][key]) - mean(before[key]) for key in ("answers", "texts"))
    each = found["reductions"]
    return [
        *(change(own, "forget") for own in groups), change([*both.values()], "neighbor"),
        *(round(100 * math.expm1(value), 1) for value in (answers, -texts)),
        *(round(100 * value, 1) for value in (median(each), min(each), each[0], each[-1], mean(found["neighbors_moved"]))),
    ]  # fmt: skip


def in_words(items: Mapping[str, Sequence[KnownItem]]) -> str:
    """Return what the numbers are taken over."""
    counts = {split: sum(item.split == split for own in items.values() for item in own) for split in ("forget", "neighbor")}
    return (
        f"{len(items)} development concepts of the sample set among the edited, {MODEL} in {DTYPE}: {counts['forget']} known "
        f"items about them, {counts['neighbor']} about neighbors that are in no edit"
    )


def measured_with() -> dict[str, Any]:
    """Return the day, versions and hardware of a result."""
    return {"date": date.today(), "versions": provenance.versions(), "hardware": provenance.hardware()}
