"""The ways to ask about a concept that the evaluation has, and in which of them the knowledge still comes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from formless.data.ort import targets
from formless.data.questions.mentions import named_by
from formless.data.rows import Item, KindItem
from formless.data.spellings import naming
from formless.data.target import Target
from formless.evaluation.metrics import says
from formless.evaluation.plan import Job, Plan, make_plan
from formless.evaluation.registry import TASKS

if TYPE_CHECKING:
    from formless.evaluation.record import ItemResult, Record

SUITE = "statement,fb,qa,qa_mentions,qa_kinds,reverse,gen_qa,gen_qa_mentions,gen_qa_kinds"
NEIGHBOR_TASKS = ("fb", "qa")
WRITTEN = {"qa": "gen_qa", "qa_mentions": "gen_qa_mentions", "qa_kinds": "gen_qa_kinds", "reverse": "reverse"}
"""The tasks whose questions are also answered in words, and where."""

LIKELY = 0.5
"""A known answer that keeps this share of its probability counts as still likely."""

Verdict = Literal["comes out", "still likely", "gone", "not known", "not measured"]


@dataclass(frozen=True)
class Way:
    """A question about the concept, asked in one way.

    Args:
        section: `Form`, `Mention`, `Kind of question`, `Reverse`, or `Neighbors`.
        name: Which one, e.g. `description`.
        text: The question.
        earlier: The turns before it.
        accepted: The right answers; none where no fact is known.
        before: The right answer's probability by the original model.
        after: The same by the unlearned one.
        is_known: Whether the original model prefers the right answer to wrong ones of its kind.
        said_before: Whether the original's answer in words holds the right one; None if it was not asked so.
        said: The same of the unlearned model.
    """

    section: str
    name: str
    text: str
    earlier: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    before: float | None = None
    after: float | None = None
    is_known: bool = False
    said_before: bool | None = None
    said: bool | None = None

    @property
    def verdict(self) -> Verdict:
        """What the edit did here. A right answer in words counts, even if the original did not seem to know it."""
        if self.before is None or self.after is None:
            return "not measured"
        if self.said:
            return "comes out"
        if not self.is_known:
            return "not known"
        return "still likely" if self.after >= LIKELY * self.before else "gone"

    @property
    def is_a_question(self) -> bool:
        """Whether it can be put to the model in a chat."""
        return self.section != "Neighbors" and not (self.section == "Form" and self.name != TASKS["qa"].title)


def find_known(data: str, concept: str) -> Target:
    """Return the target of a data set with that name, or a target that is only a name."""
    wanted = " ".join(concept.casefold().split())
    return next((target for target in targets(data) if target.subject.casefold() == wanted), Target(concept))


def make_ways_plan(target: Target, per_group: int) -> Plan:
    """Return what is measured: a few items of each form, mention and kind, of the concept; of neighbors in two forms."""
    plan = make_plan(target, SUITE)
    jobs = [
        replace(job, rows=_few(job, per_group if job.split == "forget" else 2 * per_group))
        for job in plan.jobs
        if job.rows and (job.split == "forget" or (job.split == "neighbor" and job.task.name in NEIGHBOR_TASKS))
    ]
    return replace(plan, jobs=tuple(jobs), questions=())


def _few(job: Job, count: int) -> tuple[tuple[str, Item], ...]:
    """Return a few rows of each mention or kind, evenly spread."""
    groups: dict[str, list[tuple[str, Item]]] = {}
    for file, row in job.rows:
        item = cast(Item, row)
        groups.setdefault(getattr(item, "mention", getattr(item, "kind", "")), []).append((file, item))
    return tuple(
        own[place * len(own) // min(count, len(own))] for own in groups.values() for place in range(min(count, len(own)))
    )


def ways_of(plan: Plan, original: Record, edited: Record) -> list[Way]:
    """Return what was measured, a way for each item that was scored."""
    written = {
        (job.task.name, item.query): (item, after)
        for job, before_task, after_task in zip(plan.jobs, original.tasks, edited.tasks, strict=True)
        if job.task.name in WRITTEN.values() and job.split == "forget"
        for item, after in zip(before_task.items, after_task.items, strict=True)
    }
    found = []
    for job, before_task, after_task in zip(plan.jobs, original.tasks, edited.tasks, strict=True):
        if job.task.name.startswith("gen_"):
            continue
        section = _section(job)
        for (_, row), before, after in zip(job.rows, before_task.items, after_task.items, strict=True):
            if "probability" not in before.metrics or "probability" not in after.metrics:
                continue
            item = cast(Item, row)
            words = written.get((WRITTEN.get(job.task.name, ""), before.query)) if job.split == "forget" else None
            found.append(
                Way(
                    section, before.group or job.task.title, item.query,
                    earlier=item.earlier if isinstance(item, KindItem) else (), accepted=(item.answer, *item.aliases),
                    before=before.metrics["probability"], after=after.metrics["probability"], is_known=before.is_known,
                    said_before=_said(words[0]) if words else None, said=_said(words[1]) if words else None,
                )
            )  # fmt: skip
    return found


def _section(job: Job) -> str:
    if job.split == "neighbor":
        return "Neighbors"
    named = {"mention": "Mention", "kind": "Kind of question"}
    return named.get(job.task.grouped_by, "Reverse" if job.task.name == "reverse" else "Form")


def _said(item: ItemResult) -> bool | None:
    return item.metrics["recall"] == 1 if "recall" in item.metrics else None


def generic_ways(target: Target) -> list[Way]:
    """Return general questions in each mention of a concept of which no facts are known."""
    return [
        Way("Mention", mention, question.format(texts[0]))
        for mention, texts in named_by(naming(target)[0]).items()
        if mention != "possessive"
        for question in ("Who or what is {}?", "What is {} known for?")
    ]


def still_says(way: Way | None, answer: str) -> bool:
    """Return whether an answer in a chat holds the right answer to a way's question."""
    return bool(way and way.accepted and says(answer, way.accepted))


@dataclass(frozen=True)
class Bar:
    """The mean over the known facts of one form, mention or kind.

    Args:
        section: As of a `Way`.
        name: The same.
        asked: Number of items.
        known: How many the original model knows.
        before: The mean probability of the right answer over the known ones; None if there are none.
        after: The same with the edits.
        said_before: How many answers in words hold the right one, of all; None if none was asked so.
        said: The same with the edits.
    """

    section: str
    name: str
    asked: int
    known: int
    before: float | None
    after: float | None
    said_before: int | None
    said: int | None


def bars_of(ways: Iterable[Way]) -> list[Bar]:
    """Return a bar for each form, mention and kind that was measured."""
    groups: dict[tuple[str, str], list[Way]] = {}
    for way in ways:
        if way.before is not None:
            groups.setdefault((way.section, way.name), []).append(way)
    found = []
    for (section, name), own in groups.items():
        known = [way for way in own if way.is_known]
        words = [way for way in own if way.said is not None]
        found.append(
            Bar(
                section, name, len(own), len(known), _mean([way.before for way in known]), _mean([way.after for way in known]),
                sum(bool(way.said_before) for way in words) if words else None,
                sum(bool(way.said) for way in words) if words else None,
            )
        )  # fmt: skip
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None
