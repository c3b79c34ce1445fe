"""The verdict: is the concept gone, and what is left of its neighbors? A few sentences, made by rules from the numbers.

An edited model that still says a fact is never said to have forgotten it. Where nothing was asked that could tell, or nothing
was known, the sentences say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from formless.data.rows import SPLITS, Split
from formless.edits.edit import was_made_for
from formless.evaluation.known import known_facts
from formless.evaluation.prompts import KNOWN, RECALL
from formless.evaluation.record import Record
from formless.evaluation.statistics import CI, Estimate, mean
from formless.report.answers import AnswerClass, AnswerShares, answer_shares, redirect_names
from formless.report.ratios import RETENTION, Ratios, ratios
from formless.report.recall import WORST_CASE_RECALL, Recall, said, worst_case_recall
from formless.report.summary import MethodSummary

LEAST_RETENTION = 0.95
"""The mean retention from which on a method counts as one that keeps the neighbors."""

NOTABLE_RISE, NOTABLE_COUNT = 0.1, 5
"""By how much the share of a class of answers has to rise, and to how many answers, to be in the verdict."""

_CLASSES: dict[AnswerClass, str] = {
    "refusal": "are refusals", "does not know": "say that it does not know", "redirect concept": "name the redirect concept",
    "nothing or broken": "are empty or broken",
}  # fmt: skip
_ASK = "`--suite reach` asks for them"


@dataclass(frozen=True)
class Evidence:
    """What was measured on one split, before and after an edit.

    Args:
        tested: Whether any item tests what the original model knows.
        known: Facts that the original model knows.
        before: How many known facts the original model says; None where none was asked in words.
        after: How many known facts the edited model says; None where none was asked in words.
        new: Facts that only the edited model says.
        answers: The edited model's answers in words about known facts.
        ratio: Edited over original, of the probability of right answers: the mean over forms that count. None without a form.
        forms: Number of forms that count.
    """

    tested: bool = True
    known: int = 0
    before: Recall | None = None
    after: Recall | None = None
    new: int = 0
    answers: int = 0
    ratio: float | None = None
    forms: int = 0


@dataclass(frozen=True)
class Verdict:
    """The sentences about one edit.

    Args:
        warning: What limits them: no edit, or an edit that was made for another concept; empty where there is nothing.
        concept: What is left of the concept.
        neighbors: What is left of its neighbors.
        answers: What the edited model says instead, where that is notable.
    """

    warning: str
    concept: str
    neighbors: str
    answers: str = ""

    def __str__(self) -> str:
        """Return all sentences."""
        return " ".join(filter(None, (self.warning, self.concept, self.neighbors, self.answers)))


def verdict(original: Record, edited: Record) -> Verdict:
    """Return the sentences about one edit.

    Raises:
        DataError: The records asked different items, or are of different models.
    """
    found = ratios(original, edited)
    concept, neighbors = (evidence(original, edited, split, found) for split in SPLITS)
    redirects = redirect_names(edited)
    about: dict[Split, str] = {"forget": original.subject, "neighbor": "its neighbors"}
    answers = [
        answers_sentence(about[split], *(answer_shares(original, record, split, redirects) for record in (original, edited)))
        for split in SPLITS
    ]
    return Verdict(
        edit_warning(edited), concept_sentence(original.subject, concept), neighbor_sentence(neighbors),
        " ".join(filter(None, answers)),
    )  # fmt: skip


def evidence(original: Record, edited: Record, split: Split, found: Ratios) -> Evidence:
    """Return what was measured on one split.

    Args:
        original: The original model's record.
        edited: The edited model's record.
        split: Facts about the concept, or about its neighbors.
        found: Edited over original by form.
    """
    own = [result for result in original.tasks if result.split == split]
    known = known_facts(original, split)
    by_form = found.forget if split == "forget" else found.neighbor
    before, after = ({one.item.fact for one in said(original, record, split)} for record in (original, edited))
    answered = [
        item for result in edited.tasks if result.split == split for item in result.items if RECALL.name in item.metrics
    ]
    return Evidence(
        tested=any(KNOWN.name in item.metrics for result in own for item in result.items),
        known=len(known),
        before=worst_case_recall(original, original, split),
        after=worst_case_recall(original, edited, split),
        new=len(after - before),
        answers=sum(item.fact in known for item in answered),
        ratio=mean(list(by_form.values())) if by_form else None,
        forms=len(by_form),
    )


def edit_warning(edited: Record) -> str:
    """Return what a reader has to know of the edits first: there is none, or one was made for another concept."""
    if not edited.edits:
        return "No edit is applied: both are the original model."
    wrong = [edit for edit in edited.edits if not was_made_for(edit, edited.subject)]
    found = [(edit["method"], edit["facts"].get("subjects", [edit["subject"]])) for edit in wrong]
    others = [(f"The edit {method}" if len(edited.edits) > 1 else "This edit", names) for method, names in found]
    return " ".join(
        f"{edit} was made for {', '.join(names)}, not for {edited.subject}."
        if names
        else f"{edit} was made by another tool; it does not say what for."
        for edit, names in others
    )


# --- About one edit


def concept_sentence(subject: str, found: Evidence) -> str:
    """Return what is left of a concept."""
    if not found.tested:
        return f"Nothing can be said about {subject}: no form was asked that tests what the original model knows."
    if found.before and found.after:
        return _said(f"about {subject}", found, found.before, found.after)
    if not found.known and found.ratio is None:
        return f"Nothing can be said about {subject}: of what was asked, the original model knows no more than chance gives."
    facts, them = (f"any of the {found.known} facts that", "them") if found.known > 1 else ("what", "it")
    return (
        f"There are no answers in words to {facts} the original model knew about {subject}, so it is not known whether the "
        f"edited model still says {them} ({_ASK}). {_probability(found)}"
    )


def _said(about: str, found: Evidence, before: Recall, after: Recall) -> str:
    """Return how many known facts are said before and after."""
    asked = " and that were asked in words" if after.facts < found.known else ""
    text = f"Of {_count(after.facts, 'fact')} that the original model knew {about}{asked}, the edited model "
    if after.said:
        text += f"{'' if found.new else 'still '}says {after.said} in at least one way of asking"
    else:
        text += f"says none in {_count(found.answers, 'answer')} in words"
    text += f" (worst-case recall {share(after.value)}, {ci_words(after.ci)}); the original said "
    of = f" of {before.facts}" if before.facts != after.facts else ""
    if before.said:
        text += f"{before.said}{of}."
    else:
        text += f"none{of} either, so this is no sign of forgetting." if not after.said else f"none{of}."
    if found.new and before.said:
        text += f" The original did not say {found.new} of the {after.said}."
    return text


def _probability(found: Evidence) -> str:
    """Return how much the probability of right answers fell."""
    if found.ratio is None:
        return "No form that counts shows how far the probability of right answers fell."
    where = "In the one form that counts" if found.forms == 1 else f"In the {found.forms} forms that count"
    average = "" if found.forms == 1 else " on average"
    return f"{where}, the probability of right answers {_changed(found.ratio)}{average}."


def _changed(ratio: float) -> str:
    if ratio <= 0:
        return "fell to chance or below"
    if abs(ratio - 1) < 0.005:
        return "changed by less than 1 %"
    return f"fell by {share(1 - ratio)}" if ratio < 1 else f"rose by {share(ratio - 1)}"


def neighbor_sentence(found: Evidence) -> str:
    """Return what is left of the neighbors."""
    if found.ratio is None and found.before and found.after:
        return _said("about its neighbors", found, found.before, found.after)
    if found.ratio is None and found.tested and not found.known:
        return "Nothing can be said about its neighbors: the original model knows no more of what was asked than chance gives."
    if found.ratio is None:
        return "No form that counts shows what is left of its neighbors."
    if found.ratio <= 0:
        text = "nothing of the answer probability is left above chance"
    elif found.ratio < 1.005:
        text = f"{share(found.ratio)} of the answer probability is left"
    else:
        text = f"the answer probability rose to {share(found.ratio)} of what it was"
    text = f"Of what the original model knew about its neighbors, {text}"
    if found.before and found.after:
        says = f"{found.after.said} in at least one way of asking" if found.after.said else "none"
        of = f" of {found.before.facts}" if found.before.facts != found.after.facts else ""
        facts = "1 such fact that was" if found.after.facts == 1 else f"{found.after.facts} such facts that were"
        text += f"; of {facts} asked in words, the edited model says {says}, the original {found.before.said or 'none'}{of}"
    return f"{text}."


def answers_sentence(about: str, before: AnswerShares | None, after: AnswerShares | None) -> str:
    """Return which classes of answers became notably more frequent; empty where none did.

    Args:
        about: What the questions are about.
        before: The original model's answers.
        after: The edited model's answers.
    """
    if not before or not after:
        return ""
    risen = [
        f"{share(after.shares[name])} {text} (the original: {share(before.shares[name])})"
        for name, text in _CLASSES.items()
        if after.counts.get(name, 0) >= NOTABLE_COUNT and after.shares[name] - before.shares[name] >= NOTABLE_RISE
    ]
    return f"Of its {after.n} answers in words about {about}, {' and '.join(risen)}." if risen else ""


# --- About methods


def methods_sentence(summaries: Sequence[MethodSummary], baseline: str = "original") -> str:
    """Return which method of one model has the lowest worst-case recall, among those that keep the neighbors.

    Args:
        summaries: Of one model.
        baseline: What the methods are compared with.
    """
    methods = [one for one in summaries if not one.is_baseline and one.metrics]
    asked = [one for one in methods if WORST_CASE_RECALL in one.metrics]
    if not methods:
        return "No method has been measured yet."
    if not asked:
        return f"There are no answers in words, so it is not known what the methods' models still say ({_ASK})."
    least = share(LEAST_RETENTION)
    retained = {one.condition.method: one.metrics[RETENTION].value.value for one in asked if RETENTION in one.metrics}
    kept = [one for one in asked if retained.get(one.condition.method, 0) >= LEAST_RETENTION]
    if not retained:
        return "No method with answers in words was measured on its neighbors too, so none can be called the best."
    if not kept:
        most = max(retained, key=lambda name: retained[name])
        return f"No method keeps {least} of what was known about the neighbors; {most} keeps most, {share(retained[most])}."
    lowest = min(one.metrics[WORST_CASE_RECALL].value.value for one in kept)
    best = [one for one in kept if one.metrics[WORST_CASE_RECALL].value.value == lowest]
    names = " and ".join(one.condition.method for one in best)
    of = "The only method" if len(kept) == 1 else f"Of the {len(kept)} methods"
    text = f"{of} that {'keeps' if len(kept) == 1 else 'keep'} at least {least} of what was known about the neighbors"
    text += f" is {names}, with a" if len(kept) == 1 else f", {names} {'has' if len(best) == 1 else 'have'} the lowest"
    found = best[0].metrics[WORST_CASE_RECALL]
    before = (
        f"; {'the original' if baseline == 'original' else baseline} has {share(found.baseline.value)}"
        if found.baseline
        else ""
    )
    return f"{text} worst-case recall{' of' if len(kept) == 1 else ':'} {share(lowest)} ({_spread(found.value)}){before}."


def _spread(found: Estimate) -> str:
    """Return the confidence interval, if there is one, and of how many targets a mean is."""
    targets = f"mean over {found.n} targets" if found.n > 1 else "one target"
    return f"{ci_words(found.ci)}, {targets}" if found.ci else targets


# --- Numbers in sentences


def share(value: float) -> str:
    """Return a share in percent, with a decimal where a whole number would say nothing or all."""
    digits = 1 if 0 < value < 0.01 or 0.995 <= value < 1 else 0
    return f"{100 * value:.{digits}f} %"


def ci_words(ci: CI) -> str:
    """Return the confidence interval of a share, e.g. `95 % CI 15 % to 65 %`."""
    return f"95 % CI {share(ci[0])} to {share(ci[1])}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
