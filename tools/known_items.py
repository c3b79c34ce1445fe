"""The items that a model knows, and what is left of them under edits that are computed one after another."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from formless import store
from formless.data.rows import Split
from formless.data.target import Target
from formless.edits.edit import Edit
from formless.evaluation.evaluate import evaluate
from formless.evaluation.loading import load_record
from formless.evaluation.record import Record
from formless.evaluation.statistics import ratio_estimate
from formless.methods.keys.names import folded
from formless.models.lm import LM
from formless.models.scores import Score

DEVELOPMENT = ("1", "2", "3", "4")
"""The concepts of the sample set that settings were chosen on."""

MODELS = {"coder": ("qwen2.5-coder-1.5b", "bfloat16"), "smollm2": ("smollm2", "bfloat16")}
"""By name in commands and files, the model and the dtype that it is loaded in."""


class KnownItem(NamedTuple):
    """An item that the original model knows.

    Args:
        split: Whether it is about the concept or a neighbor.
        prompt: All that precedes the answer.
        answer: The right answer as it is scored.
        before: The answer's probability per token in the original model.
    """

    split: Split
    prompt: str
    answer: str
    before: float


Measured = tuple[Sequence[KnownItem], Sequence[float]]
"""The known items of a concept, with their probabilities under an edit."""


def known_items(lm: LM, target: Target, suite: str, folder: Path, *, limit: int | None = None) -> list[KnownItem]:
    """Return the items of a target that the model knows; the original's record is kept in a folder.

    Args:
        lm: The model without an edit.
        target: The target with its files.
        suite: The tasks, all of which score one answer.
        folder: Where the record is kept.
        limit: Most items per file and task.
    """
    path = folder / f"{target.subject}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        evaluate(lm, target, suite, limit=limit, progress=False).save(path)
    return items_of(load_record(path))


def items_of(record: Record, absent: Collection[str] = ()) -> list[KnownItem]:
    """Return the known items of a record of the original model.

    Args:
        record: The record.
        absent: Names; items about a neighbor that hold one of them are left out.
    """
    names = [folded(name) for name in absent]
    return [
        KnownItem(result.split, item.prompt, item.expected, item.metrics["probability"])
        for result in record.tasks
        for item in result.items
        if item.is_known and result.split and item.prompt and isinstance(item.expected, str)
        if result.split == "forget" or not any(name in folded(f"{item.fact} {item.expected}") for name in names)
    ]


def probabilities(lm: LM, items: Sequence[KnownItem]) -> list[float]:
    """Return the probability per token of each item's right answer, as the model is now."""
    scores = lm.score([(item.prompt, item.answer) for item in items])
    return [found.probability for found in scores if isinstance(found, Score)]  # none was skipped in the original


def change(concepts: Sequence[Measured], split: Split) -> float | None:
    """Return the change of the probability over known items in percent, the geometric mean over concepts.

    Args:
        concepts: What was measured of each concept.
        split: Which items.
    """
    found = [[(item.before, after) for item, after in zip(*own, strict=True) if item.split == split] for own in concepts]
    pairs = [[own] for own in found if own]
    return round(100 * (ratio_estimate(pairs).value - 1), 1) if pairs else None


def timed(compute: Callable[[], Edit]) -> tuple[Edit, float]:
    """Return an edit with the processor's seconds that it took, which other processes do not lengthen."""
    start = time.process_time()
    return compute(), time.process_time() - start


def stored(path: Path, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a file holds; it is computed and written first if it is missing."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_text(path, json.dumps(compute()))
        print(path.stem, flush=True)
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found
