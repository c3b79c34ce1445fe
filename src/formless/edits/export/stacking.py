"""Several edits of one model as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from formless.edits.edit import WeightEdit
from formless.errors import EditError


def stacked(edits: Sequence[WeightEdit[Any]]) -> WeightEdit[Any]:
    """Return the edit that does what all do together."""
    if len(edits) > 1:
        raise EditError("several edits cannot be exported as one yet", remedy="give one")
    return edits[0]
