"""The sentences, with numbers worked out by hand."""

from typing import Any

import pytest

from formless.evaluation.record import MetricKey
from formless.evaluation.statistics import Estimate
from formless.report.ratios import RETENTION
from formless.report.recall import WORST_CASE_RECALL, Recall
from formless.report.runs import Condition
from formless.report.summary import MethodSummary, Summary
from formless.report.verdict import (
    Evidence,
    Verdict,
    concept_sentence,
    edit_warning,
    methods_sentence,
    neighbor_sentence,
    share,
    verdict,
)
from tests.report.test_independence import pair
from tests.report.test_recall import task, with_tasks


def asked(said_before: int, said_after: int, facts: int = 11, **more: Any) -> Evidence:
    """Known facts that were asked in words."""
    before, after = Recall(said_before, facts), Recall(said_after, facts)
    return Evidence(**{"known": facts, "before": before, "after": after, "answers": 2 * facts, "ratio": 0.2, "forms": 5} | more)


def unasked(ratio: float | None = None, forms: int = 5, known: int = 11) -> Evidence:
    """Nothing was asked in words."""
    return Evidence(known=known, ratio=ratio, forms=forms)


# Wilson for 4 of 11: (0.3636 + 1.9208/11 -+ 1.96 sqrt(0.3636 * 0.6364/11 + 0.9604/121)) / (1 + 3.8415/11) = 0.152, 0.646
@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(
            asked(11, 4),
            "Of 11 facts that the original model knew about Ada, the edited model still says 4 in at least one way of asking "
            "(worst-case recall 36 %, 95 % CI 15 % to 65 %); the original said 11.",
            id="some are still said",
        ),
        pytest.param(
            asked(11, 0),
            "Of 11 facts that the original model knew about Ada, the edited model says none in 22 answers in words "
            "(worst-case recall 0 %, 95 % CI 0 % to 26 %); the original said 11.",
            id="none is said",
        ),
        pytest.param(
            asked(0, 0),
            "Of 11 facts that the original model knew about Ada, the edited model says none in 22 answers in words "
            "(worst-case recall 0 %, 95 % CI 0 % to 26 %); the original said none either, so this is no sign of forgetting.",
            id="neither says any",
        ),
        pytest.param(
            asked(3, 4, new=2),
            "Of 11 facts that the original model knew about Ada, the edited model says 4 in at least one way of asking "
            "(worst-case recall 36 %, 95 % CI 15 % to 65 %); the original said 3. The original did not say 2 of the 4.",
            id="facts that the original did not say",
        ),
        pytest.param(
            asked(0, 4, new=4),
            "Of 11 facts that the original model knew about Ada, the edited model says 4 in at least one way of asking "
            "(worst-case recall 36 %, 95 % CI 15 % to 65 %); the original said none.",
            id="only the edited one says them",
        ),
        pytest.param(
            asked(11, 4, known=14),
            "Of 11 facts that the original model knew about Ada and that were asked in words, the edited model still says 4 in "
            "at least one way of asking (worst-case recall 36 %, 95 % CI 15 % to 65 %); the original said 11.",
            id="not all were asked in words",
        ),
        pytest.param(
            asked(11, 4, before=Recall(11, 12)),
            "Of 11 facts that the original model knew about Ada, the edited model still says 4 in at least one way of asking "
            "(worst-case recall 36 %, 95 % CI 15 % to 65 %); the original said 11 of 12.",
            id="the original was asked more",
        ),
        pytest.param(
            asked(1, 0, facts=1, answers=1),
            "Of 1 fact that the original model knew about Ada, the edited model says none in 1 answer in words "
            "(worst-case recall 0 %, 95 % CI 0 % to 79 %); the original said 1.",
            id="one fact",
        ),
        pytest.param(
            unasked(0.174),
            "There are no answers in words to any of the 11 facts that the original model knew about Ada, so it is not known "
            "whether the edited model still says them (`--suite reach` asks for them). In the 5 forms that count, the "
            "probability of right answers fell by 83 % on average.",
            id="no answers in words",
        ),
        pytest.param(
            unasked(0.174, 1, known=1),
            "There are no answers in words to what the original model knew about Ada, so it is not known whether the edited "
            "model still says it (`--suite reach` asks for them). In the one form that counts, the probability of right "
            "answers fell by 83 %.",
            id="no answers in words, one form and fact",
        ),
        pytest.param(
            unasked(None),
            "There are no answers in words to any of the 11 facts that the original model knew about Ada, so it is not known "
            "whether the edited model still says them (`--suite reach` asks for them). No form that counts shows how far the "
            "probability of right answers fell.",
            id="known in no form that counts",
        ),
        pytest.param(
            unasked(None, known=0),
            "Nothing can be said about Ada: of what was asked, the original model knows no more than chance gives.",
            id="nothing known",
        ),
        pytest.param(
            Evidence(tested=False),
            "Nothing can be said about Ada: no form was asked that tests what the original model knows.",
            id="nothing tested",
        ),
    ],
)
def test_what_is_left_of_a_concept(found: Evidence, expected: str) -> None:
    assert concept_sentence("Ada", found) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (1.12, "rose by 12 %"),
        (1.0, "changed by less than 1 %"),
        (0.997, "changed by less than 1 %"),
        (0.97, "fell by 3 %"),
        (0.002, "fell by 99.8 %"),
        (-0.1, "fell to chance or below"),
    ],
)
def test_small_edits_and_facts_that_rose_are_called_so(ratio: float, expected: str) -> None:
    assert f"the probability of right answers {expected} on average." in concept_sentence("Ada", unasked(ratio))


@pytest.mark.parametrize("after", range(12))
@pytest.mark.parametrize("new", [0, 1])
def test_nothing_is_called_gone(after: int, new: int) -> None:
    text = concept_sentence("Ada", asked(11, after, new=min(new, after)))
    assert not any(word in text for word in ("gone", "forgot", "forgotten"))
    assert (f"says {after} in at least one way" in text) == (after > 0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (unasked(0.97), "Of what the original model knew about its neighbors, 97 % of the answer probability is left."),
        (unasked(0.999), "Of what the original model knew about its neighbors, 99.9 % of the answer probability is left."),
        (
            unasked(1.04),
            "Of what the original model knew about its neighbors, the answer probability rose to 104 % of what it was.",
        ),
        (
            unasked(-0.1),
            "Of what the original model knew about its neighbors, nothing of the answer probability is left above chance.",
        ),
        (
            asked(9, 8, facts=9, ratio=0.97),
            "Of what the original model knew about its neighbors, 97 % of the answer probability is left; of 9 such facts "
            "that were asked in words, the edited model says 8 in at least one way of asking, the original 9.",
        ),
        (
            asked(9, 0, facts=9, ratio=0.97),
            "Of what the original model knew about its neighbors, 97 % of the answer probability is left; of 9 such facts "
            "that were asked in words, the edited model says none, the original 9.",
        ),
        (
            asked(11, 4, ratio=None),
            "Of 11 facts that the original model knew about its neighbors, the edited model still says 4 in at least one way "
            "of asking (worst-case recall 36 %, 95 % CI 15 % to 65 %); the original said 11.",
        ),
        (
            unasked(None, known=0),
            "Nothing can be said about its neighbors: the original model knows no more of what was asked than chance gives.",
        ),
        (unasked(None), "No form that counts shows what is left of its neighbors."),
        (Evidence(tested=False), "No form that counts shows what is left of its neighbors."),
    ],
)
def test_what_is_left_of_the_neighbors(found: Evidence, expected: str) -> None:
    assert neighbor_sentence(found) == expected


def test_the_verdict_of_two_records() -> None:
    known = task("qa", **{fact: ("known", float(fact != "d")) for fact in "abcd"})
    neighbor = task("gen_qa", "neighbor", x=("recall", 1.0))
    original = with_tasks(known, task("gen_qa", **dict.fromkeys("abcd", ("recall", 1.0))), neighbor)
    after = task("gen_qa", a=("recall", 0.0), b=("recall", 1.0), c=("recall", 0.0), d=("recall", 1.0))
    edited = with_tasks(task("qa", **dict.fromkeys("abcd", ("token_accuracy", 0.0))), after, neighbor, edited=True)
    found = verdict(original, edited)  # a, b and c are known, of which b is said; d is said, but not known
    assert found.warning == ""
    assert found.concept.startswith("Of 3 facts that the original model knew about Ada, the edited model still says 1 in")
    assert found.concept.endswith("; the original said 3.")
    assert found.neighbors == "No form that counts shows what is left of its neighbors."


def test_the_verdict_without_answers_in_words() -> None:
    found = verdict(*pair({"fb": (0.4, 0.1), "qa": (0.2, 0.1)}, {"fb": (0.5, 0.4), "qa": (0.5, 0.5)}))
    assert found.concept == (  # fb lost 75 %, qa 50 %; its items have no fact in common with others
        "There are no answers in words to what the original model knew about Ada, so it is not known whether the edited model "
        "still says it (`--suite reach` asks for them). In the 2 forms that count, the probability of right answers fell by "
        "62 % on average."
    )
    assert found.neighbors == "Of what the original model knew about its neighbors, 90 % of the answer probability is left."
    assert str(found) == f"{found.concept} {found.neighbors}"


def test_an_edit_of_another_concept_comes_first() -> None:
    original, edited = pair({"fb": (0.4, 0.1)}, {})
    edit = edited.edits[0]
    assert edit_warning(edited) == ""
    assert edit_warning(original) == "No edit is applied: both are the original model."
    other = edited.model_copy(update={"edits": [edit | {"subject": "Noor + Bob", "facts": {"subjects": ["Noor", "Bob"]}}]})
    assert edit_warning(other) == "This edit was made for Noor, Bob, not for Ada."
    assert str(verdict(original, other)).startswith("This edit was made for Noor, Bob, not for Ada. There are no answers")
    both = edited.model_copy(update={"edits": [edit, edit | {"method": "ga", "subject": "Noor"}]})
    assert edit_warning(both) == "The edit ga was made for Noor, not for Ada."
    assert str(Verdict("", "a.", "b.")) == "a. b."


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, "0 %"), (0.004, "0.4 %"), (0.36, "36 %"), (0.996, "99.6 %"), (1.0, "100 %")]
)
def test_a_share_is_neither_all_nor_nothing_where_it_is_not(value: float, expected: str) -> None:
    assert share(value) == expected


# --- Methods


def method(name: str, recall: float | None, retention: float | None, *, is_baseline: bool = False) -> MethodSummary:
    """A method over twelve targets, with a recall of the original of 0.98."""
    values: dict[MetricKey, float | None] = {WORST_CASE_RECALL: recall, RETENTION: retention}
    before = Estimate(0.98, (0.9, 1.0), 12)
    metrics = {
        key: Summary(Estimate(value, (max(value - 0.1, 0), value + 0.1), 12), before)
        for key, value in values.items()
        if value is not None
    }
    metrics |= {MetricKey("mmlu", None, "accuracy"): Summary(before)}
    return MethodSummary(Condition("m", name), is_baseline, ("1_Ada",), 1, 12, 12, 0, 0, (), 0, metrics, None)


ORIGINAL = method("original", None, None, is_baseline=True)


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        pytest.param([], "No method has been measured yet.", id="none"),
        pytest.param(
            [method("rocr", None, 0.97)],
            "There are no answers in words, so it is not known what the methods' models still say (`--suite reach` asks for "
            "them).",
            id="no answers in words",
        ),
        pytest.param(
            [method("rocr", 0.3, None)],
            "No method with answers in words was measured on its neighbors too, so none can be called the best.",
            id="no retention",
        ),
        pytest.param(
            [method("rocr", 0.3, 0.9), method("ga", 0.1, 0.94)],
            "No method keeps 95 % of what was known about the neighbors; ga keeps most, 94 %.",
            id="none keeps enough",
        ),
        pytest.param(
            [method("rocr", 0.36, 0.97), method("ga", 0.1, 0.94), method("npo", 0.5, 0.95)],
            "Of the 2 methods that keep at least 95 % of what was known about the neighbors, rocr has the lowest worst-case "
            "recall: 36 % (95 % CI 26 % to 46 %, mean over 12 targets); the original has 98 %.",
            id="the lowest of those that keep enough",
        ),
        pytest.param(
            [method("rocr", 0.36, 0.97), method("npo", 0.36, 0.95)],
            "Of the 2 methods that keep at least 95 % of what was known about the neighbors, rocr and npo have the lowest "
            "worst-case recall: 36 % (95 % CI 26 % to 46 %, mean over 12 targets); the original has 98 %.",
            id="two alike",
        ),
        pytest.param(
            [method("rocr", 0.36, 0.97), method("ga", 0.1, 0.5)],
            "The only method that keeps at least 95 % of what was known about the neighbors is rocr, with a worst-case recall "
            "of 36 % (95 % CI 26 % to 46 %, mean over 12 targets); the original has 98 %.",
            id="one keeps enough",
        ),
    ],
)
def test_the_best_method(methods: list[MethodSummary], expected: str) -> None:
    assert methods_sentence([ORIGINAL, *methods]) == expected


def test_the_best_method_beside_another_one() -> None:
    rows = [method("ga", 0.6, 0.99, is_baseline=True), method("rocr", 0.36, 0.97)]
    assert methods_sentence(rows, "ga").endswith("; ga has 98 %.")
