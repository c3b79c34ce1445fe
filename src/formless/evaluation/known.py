"""What the original model knows: of which items an edit can be said to have made it forget anything.

An item is known where the original model prefers the right answer to every foil (metric `known`). A form, or a mention in a
form, counts for a target where the share of known items is above chance: its 95 % confidence interval (Wilson) lies above what
a model gets that prefers answers at random.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from formless.data.rows import Split
from formless.evaluation.prompts import KNOWN
from formless.evaluation.record import ItemResult, Record
from formless.evaluation.registry import TASKS
from formless.evaluation.statistics import CI, share_ci


@dataclass(frozen=True)
class Known:
    """How many items of a form are known.

    Args:
        known: Number of known items.
        asked: Number of items that were tested for it.
        chance: The share that a model gets that prefers answers at random.
    """

    known: int
    asked: int
    chance: float

    @property
    def ci(self) -> CI:
        """The 95 % confidence interval of the share of known items."""
        return share_ci(self.known, self.asked)

    @property
    def is_above_chance(self) -> bool:
        """Whether the form counts."""
        return self.known > 0 and self.ci[0] > self.chance


def known_share(task: str, items: Iterable[ItemResult]) -> Known | None:
    """Return how many of the original's items of a task are known; None where no item was tested for it."""
    values = [item.metrics[KNOWN.name] for item in items if KNOWN.name in item.metrics]
    spec = next((spec for spec in TASKS[task].metrics if spec.name == KNOWN.name), None) if task in TASKS else None
    return Known(int(sum(values)), len(values), spec.chance) if values and spec else None


def known_facts(original: Record, split: Split) -> set[str]:
    """Return the facts that the original model knows in at least one form or mention that counts."""
    found = set()
    for result in original.tasks:
        if result.split != split:
            continue
        for group in dict.fromkeys(item.group for item in result.items):
            items = [item for item in result.items if item.group == group]
            share = known_share(result.task, items)
            if share and share.is_above_chance:
                found |= {item.fact for item in items if item.fact and item.is_known}
    return found
