"""What a model says when it is asked in words about facts that the original model knows: the fact, or what else.

Each answer has one class, the first that fits:

- right answer: it holds the right answer or an accepted alias (metric `recall`), whatever else it says;
- does not know: a refusal that pleads ignorance (`is_ignorance`);
- refusal: any other refusal (`is_refusal`);
- redirect concept: it names the concept to which an edit redirects, in full or by surname;
- nothing or broken: it has no letter or digit, or mainly repeats itself (`is_broken`);
- other answer: all else, mostly another answer stated as fact.

Of several samples of one question the record holds one: one with the right answer if there is any, else the first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from formless.data.questions.mentions import bundled_aliases
from formless.data.refusals import is_ignorance, is_refusal
from formless.data.rows import SPLITS, Split
from formless.data.spellings import named_alone, spellings
from formless.evaluation.metrics import repetition, says
from formless.evaluation.record import ItemResult, MetricKey, Record
from formless.methods.keys.candidates import NOBODY
from formless.report.recall import answers_to_known, is_said

AnswerClass = Literal["right answer", "refusal", "does not know", "redirect concept", "nothing or broken", "other answer"]
CLASSES: tuple[AnswerClass, ...] = (
    "right answer", "refusal", "does not know", "redirect concept", "nothing or broken", "other answer",
)  # fmt: skip
"""In the order of tables."""

BROKEN = 0.5
"""The share of repeated word 4-grams from which on a text counts as broken."""

_REPEATED_LETTERS = re.compile(r"([^\W\d_]+?)\1{4,}")


@dataclass(frozen=True)
class AnswerShares:
    """How many answers of a model have each class.

    Args:
        counts: Number of answers by class, at least one, in the order of `CLASSES`; `redirect concept` only where an edit has
            one.
    """

    counts: Mapping[AnswerClass, int]

    @property
    def n(self) -> int:
        """Number of answers."""
        return sum(self.counts.values())

    @property
    def shares(self) -> dict[AnswerClass, float]:
        """The share of each class."""
        return {name: count / self.n for name, count in self.counts.items()}


def is_broken(text: str) -> bool:
    """Return whether a text has no letter or digit, or mainly repeats itself.

    It does where at least half of its word 4-grams occurred earlier in it, or where the same letters follow one another five
    times, as in `hahahahaha`. Text that makes no sense without repeating itself is not recognized.
    """
    if not any(character.isalnum() for character in text):
        return True
    return (repetition(text) or 0.0) >= BROKEN or _REPEATED_LETTERS.search(text) is not None


def answer_class(item: ItemResult, redirects: Sequence[str] = ()) -> AnswerClass:
    """Return the class of an answer.

    Args:
        item: With the answer and the metric `recall`.
        redirects: The names of the redirect concept.
    """
    text = item.answer or ""
    if is_said(item):
        return "right answer"
    if is_refusal(text):
        return "does not know" if is_ignorance(text) else "refusal"
    if redirects and says(text, redirects):
        return "redirect concept"
    return "nothing or broken" if is_broken(text) else "other answer"


def redirect_names(record: Record) -> tuple[str, ...]:
    """Return the names of the concepts to which a record's edits redirect, a person's surname too; empty without one."""
    concepts = [concept for edit in record.edits for concept in redirects_of(edit)]
    return tuple(dict.fromkeys(text for concept in concepts for text in _names(concept)))


def redirects_of(edit: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the concepts to which an edit redirects, each once: those that it chose itself, else the one of its settings."""
    config, facts = edit["config"], edit["facts"]
    if config.get("redirect", NOBODY) == NOBODY or config.get("mode", "unrelated") != "unrelated":
        return ()
    before = [*facts.get("edits_before", ()), *([facts["earlier_edit"]] if "earlier_edit" in facts else [])]
    earlier = [name for info in before for name in redirects_of(info)]
    chosen = [target["redirect"] for target in facts.get("targets", ()) if "redirect" in target]
    return tuple(dict.fromkeys((*earlier, *(chosen or [config["redirect"]]))))


def _names(concept: str) -> tuple[str, ...]:
    entries = bundled_aliases(concept)
    return spellings(next((entry for entry in entries if entry.name == concept), named_alone(concept)))


def answer_shares(
    original: Record, record: Record, split: Split = "forget", redirects: Sequence[str] = ()
) -> AnswerShares | None:
    """Return how many answers about known facts have each class; None where none was asked in words.

    Args:
        original: The original model's record, which says what is known.
        record: The record of the edited model, or the original's again.
        split: Facts about the concept, or about its neighbors.
        redirects: The names of the redirect concept; see `redirect_names`.
    """
    items = [one.item for one in answers_to_known(original, record, split)]
    found = Counter(answer_class(item, redirects) for item in items if item.answer is not None)
    counts = {name: found[name] for name in CLASSES if redirects or name != "redirect concept"}
    return AnswerShares(counts) if found else None


def answer_metrics(original: Record, record: Record, redirects: Sequence[str] = ()) -> dict[MetricKey, float]:
    """Return the number of answers and the share of each class as metrics of each split; empty without answers."""
    metrics: dict[MetricKey, float] = {}
    for split in SPLITS:
        if found := answer_shares(original, record, split, redirects):
            metrics[count_key(split)] = found.n
            metrics |= {share_key(split, name): share for name, share in found.shares.items()}
    return metrics


def count_key(split: Split) -> MetricKey:
    """Return the metric that counts the answers; it has a group, so that short tables leave it out."""
    return MetricKey(None, split, "answers", "in words")


def share_key(split: Split, name: AnswerClass) -> MetricKey:
    """Return the metric that is the share of a class."""
    return MetricKey(None, split, "answer_share", name)
