"""Lists of names from names.yaml: they decide the kind of an answer, and give distractors without a server."""

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
"""Number words by the number that they name, from 0."""

GAZETTEERS = {kind: _names(text) for kind, text in _LISTS["kinds"].items()}
"""Names by kind; if two lists contain a name, the first one decides."""

MONTHS = GAZETTEERS["month"]
FORENAMES = frozenset(_names(_LISTS["forenames"]))

SPARE = GAZETTEERS | {"forename": tuple(sorted(FORENAMES))} | {kind: _names(text) for kind, text in _LISTS["spare"].items()}
"""Distractors by kind, for data sets that give too few."""

SAME = tuple(frozenset(_names(line)) for line in _LISTS["same"])
"""Sets of folded names of the same thing, which cannot be options of one question."""

ORGANIZATION_WORDS = frozenset(_names(_LISTS["words"]["organization"]))
PLACE_WORDS = frozenset(_names(_LISTS["words"]["place"]))
SMALL_WORDS = frozenset(_names(_LISTS["words"]["small"]))
"""Words that are not capitalised inside names."""
