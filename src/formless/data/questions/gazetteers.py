"""The names that kinds are told by and offline distractors taken from: names.yaml beside this file."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split("|"))


_LISTS: dict[str, Any] = yaml.safe_load(
    resources.files("formless").joinpath("data", "questions", "names.yaml").read_text("utf-8")
)

NUMBER_WORDS, ORDINAL_WORDS = _names(_LISTS["numbers"]["cardinals"]), _names(_LISTS["numbers"]["ordinals"])
"""By the number that they say, from 0."""

GAZETTEERS = {kind: _names(text) for kind, text in _LISTS["kinds"].items()}
"""Of two lists that hold a name, the earlier one decides."""

MONTHS = GAZETTEERS["month"]
FORENAMES = frozenset(_names(_LISTS["forenames"]))

SPARE = GAZETTEERS | {"forename": tuple(sorted(FORENAMES))} | {kind: _names(text) for kind, text in _LISTS["spare"].items()}
"""Distractors by kind where a data set gives too few."""

SAME = tuple(frozenset(_names(line)) for line in _LISTS["same"])
"""Names of one thing, folded: neither may stand beside another of its set."""

ORGANIZATION_WORDS = frozenset(_names(_LISTS["words"]["organization"]))
PLACE_WORDS = frozenset(_names(_LISTS["words"]["place"]))
SMALL_WORDS = frozenset(_names(_LISTS["words"]["small"]))
"""Words of names that begin with a small letter."""
