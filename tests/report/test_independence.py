"""Form gap, retention and the combined metric, by hand and by brute force."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from formless.data.rows import Split
from formless.edits.edit import EditInfo
from formless.errors import DataError
from formless.evaluation.loading import load_record
from formless.evaluation.record import Record
from formless.evaluation.statistics import holm
from formless.report.form_tables import counted_text, independence_table, unknown_text
from formless.report.independence import independence
from formless.report.ratios import combined, forgetting_key, wholes
from tests.report.made_runs import scored_task

Means = Mapping[tuple[str, Split], float]


def record(means: Means, *, edited: bool, target: str = "1_Ada", digest: str = "d") -> Record:
    """A record whose tasks have two items each, at the mean; what is above chance is known."""
    chance = {name: spec.chance for name, spec in wholes().items()}
    tasks = [
        scored_task(form, split, mean, known=None if edited else mean > chance[form] + 0.01)
        for (form, split), mean in means.items()
    ]
    edit = EditInfo(
        method="rocr", subject="Ada", config={}, model="m", model_source="s", model_revision=None, model_fingerprint="f",
        dtype="float32", layers=[], seconds=0.0, created="", versions={},
    )  # fmt: skip
    edits = [edit.model_dump(mode="json")] if edited else []
    return Record(
        model="m", model_source="s", model_fingerprint="f", model_type="llama", dtype="float32", subject="Ada", target=target,
        probes_digest=digest, suite="ort", limit=None, prompt_style={}, edits=edits,
        tasks=tasks, answers=[], token_budget=1, seconds=0.0, created="", versions={}, hardware={},
    )  # fmt: skip


def pair(
    forget: Mapping[str, tuple[float, float]], keep: Mapping[str, tuple[float, float]], target: str = "1_Ada"
) -> tuple[Record, Record]:
    splits: dict[Split, Mapping[str, tuple[float, float]]] = {"forget": forget, "neighbor": keep}
    before, after = ({(f, s): values[i] for s, forms in splits.items() for f, values in forms.items()} for i in (0, 1))
    return record(before, edited=False, target=target), record(after, edited=True, target=target)


def test_one_target_by_hand() -> None:
    found = independence([pair({"fb": (0.4, 0.1), "qa": (0.2, 0.1)}, {"fb": (0.5, 0.4), "qa": (0.5, 0.6)})])
    assert {form: estimate.value for form, estimate in found.forgetting.items()} == pytest.approx({"fb": 0.75, "qa": 0.5})
    assert {form: estimate.value for form, estimate in found.retention.items()} == pytest.approx({"fb": 0.8, "qa": 1.2})
    assert found.gap is not None
    assert found.combined is not None
    assert found.gap.value == pytest.approx(0.25)
    forgotten, kept = 2 / (1 / 0.75 + 1 / 0.5), 2 / (1 / 0.8 + 1 / 1.0)  # more than all cannot be kept
    assert found.combined.value == pytest.approx(2 / (1 / forgotten + 1 / kept))
    assert found.gap.ci is None  # one target has no spread
    assert found.gap.n == 1


def test_a_form_that_forgot_nothing_leaves_nothing() -> None:
    assert combined({"fb": 0.1, "qa": 1.0}, {"fb": 1.0}) == 0.0
    assert combined({"fb": 0.1, "qa": 1.3}, {"fb": 1.0}) == 0.0
    assert combined({"fb": 0.1}, {"fb": 0.0}) == 0.0
    assert combined({"fb": 0.0}, {"fb": 1.0}) == 1.0


def test_a_choice_counts_above_chance_and_only_where_something_is_known() -> None:
    found = independence([pair({"fb": (0.4, 0.1), "mcp_choice": (0.65, 0.35)}, {"mcp_choice": (0.25, 0.2)})])
    assert found.forgetting["mcp_choice"].value == pytest.approx(1 - 0.1 / 0.4)
    assert "mcp_choice" not in found.retention
    assert found.combined is None  # no form is left on the neighbors


def test_a_form_in_which_nothing_is_known_does_not_count() -> None:
    whole = {"fb": (0.4, 0.1), "qa": (0.2, 0.1)}, {"fb": (0.5, 0.4), "qa": (0.5, 0.5)}
    more = tuple(split | {"sub_fb_letters": (0.005, 0.005)} for split in whole)
    few, many = independence([pair(*whole)]), independence([pair(*more)])
    assert (many.gap, many.combined, many.forgetting) == (few.gap, few.combined, few.forgetting)
    assert many.forgetting_all["sub_fb_letters"].value == 0
    assert few.known["forget"] == {("fb", None): (2, 2), ("qa", None): (2, 2)}
    assert many.known["forget"]["sub_fb_letters", None] == (0, 2)
    table = independence_table(many)
    named = {row[0]: row[1] for row in table.rows}
    assert named["form gap"] == named["combined"] == "Fill in the blank; Question"
    assert table.note == unknown_text(many) == "Blank, letters alone (0 of 2 items known)"


def test_forgetting_is_that_of_known_items() -> None:
    before, after = pair({"qa": (0.4, 0.1)}, {})
    known, other = before.tasks[0].items
    other.metrics = {"probability": 0.1, "known": 0.0}
    after.tasks[0].items[1].metrics = {"probability": 0.2}
    found = independence([(before, after)])
    assert found.forgetting == {}  # one known item of two is not above chance, one sixth
    before.tasks[0].items.extend([known, known])
    after.tasks[0].items.extend([after.tasks[0].items[0]] * 2)
    found = independence([(before, after)])
    assert found.forgetting["qa"].value == pytest.approx(0.75)
    assert found.forgetting_all["qa"].value == pytest.approx(1 - 0.5 / 1.3)
    (row,) = (row for row in independence_table(found).rows if row[0] == "forgetting")
    assert row[-2:] == ("3 of 4", "0.615")


def test_reverse_questions_have_rows_of_their_own_and_are_in_no_mean() -> None:
    """Items of a record have no group; the rows come from the task as a whole."""
    whole = {"fb": (0.4, 0.1), "qa": (0.2, 0.1)}, {"fb": (0.5, 0.4), "qa": (0.5, 0.5)}
    without = independence([pair(*whole)])
    found = independence([pair(whole[0] | {"reverse": (0.5, 0.05)}, whole[1] | {"reverse": (0.5, 0.45)})])
    assert (found.gap, found.combined, found.forgetting) == (without.gap, without.combined, without.forgetting)
    rows = {(row[0], row[1]): row[2:] for row in independence_table(found).rows}
    assert rows["forgetting", "Reverse question"] == ("0.900", "", "", "1", "2 of 2", "0.900")
    assert rows["retention", "Reverse question"] == ("0.900", "", "", "1", "2 of 2", "")
    assert counted_text(found) == "Fill in the blank; Question"


def test_reverse_questions_of_which_nothing_is_known_are_named() -> None:
    found = independence([pair({"fb": (0.4, 0.1), "reverse": (0.005, 0.005)}, {})])
    assert found.others == {}
    assert unknown_text(found) == "Reverse question (0 of 2 items known)"


def test_reverse_questions_have_an_interval_over_targets() -> None:
    pairs = [pair({"reverse": (0.5, 0.5 * left)}, {}, f"{number}_X") for number, left in enumerate((0.1, 0.2, 0.3, 0.2, 0.1))]
    key = forgetting_key("reverse")
    one = independence(pairs).others[key]
    assert one.ci is not None
    assert one.ci[0] < one.value < one.ci[1]
    assert one.value == pytest.approx(1 - (0.1 * 0.2 * 0.3 * 0.2 * 0.1) ** 0.2)


def test_a_form_that_counts_in_some_targets_says_in_how_many() -> None:
    found = independence([pair({"fb": (0.4, 0.1), "qa": (0.2, 0.1)}, {}), pair({"fb": (0.4, 0.1)}, {}, "2_X")])
    assert counted_text(found) == "Fill in the blank; Question (1 of 2 targets)"


def targets(changes: list[tuple[float, float]]) -> list[tuple[Record, Record]]:
    return [
        pair({"fb": (1.0, fb), "qa": (1.0, qa)}, {"fb": (1.0, 0.9), "qa": (1.0, 0.9)}, f"{number}_X")
        for number, (fb, qa) in enumerate(changes, 1)
    ]


def test_the_paired_tests_are_those_of_brute_force() -> None:
    changes = [(0.5, 0.9), (0.4, 0.8), (0.9, 1.1), (1.2, 0.9)]
    found = independence(targets(changes))
    falls = np.array([1 - fb for fb, _ in changes])
    swap_p = {}
    for form, place in (("fb", 0), ("qa", 1)):  # 2^4 ways to swap original and edited model
        logs = -np.log([change[place] for change in changes])
        means = np.array([np.mean(np.array(signs) * logs) for signs in itertools.product([1, -1], repeat=4)])
        swap_p[form] = float(np.mean(means >= logs.mean() - 1e-12))
    corrected = dict(zip(swap_p, holm(list(swap_p.values())), strict=True))
    assert {form: estimate.p for form, estimate in found.forgetting.items()} == pytest.approx(corrected)
    assert found.forgetting["fb"].values == pytest.approx(falls)
    assert found.forgetting["fb"].n == 4
    both = [({"fb": fb, "qa": qa}, {"fb": 0.9, "qa": 0.9}) for fb, qa in changes]
    actual = [combined(*one) for one in both]
    swapped = [combined({k: 1 / v for k, v in a.items()}, {k: 1 / v for k, v in b.items()}) for a, b in both]
    ways = [np.mean(way) for way in itertools.product(*zip(actual, swapped, strict=True))]
    assert found.combined is not None
    assert found.combined.p == pytest.approx(np.mean(np.array(ways) >= np.mean(actual) - 1e-12))
    assert found.retention["fb"].p == pytest.approx(2 * 2 / 16)  # only no swap and all swapped are as far off; two forms


def test_the_gap_of_means_is_significant_only_where_forms_differ_alike_in_many_targets() -> None:
    generator = np.random.default_rng(0)
    noise = [tuple(float(value) for value in generator.uniform(0.2, 0.6, 2)) for _ in range(12)]
    alike = independence(targets(noise))  # type: ignore[arg-type]
    apart = independence(targets([(fb, qa + 0.3) for fb, qa in noise]))
    assert alike.mean_gap is not None
    assert apart.mean_gap is not None
    assert (alike.mean_gap.p or 0) > 0.1
    assert (apart.mean_gap.p or 1) < 0.01
    assert apart.mean_gap.value == pytest.approx(abs(np.mean([fb - qa - 0.3 for fb, qa in noise])))


def test_the_gap_stands_beside_what_noise_gives() -> None:
    """Items that are alike within a form, and differ between forms: any other arrangement has a smaller gap."""
    one = independence([pair({"fb": (1.0, 0.2), "qa": (1.0, 0.6)}, {})])
    assert one.gap is not None
    assert one.noise_gap is not None
    assert one.gap.value == pytest.approx(0.4)
    assert one.noise_gap.value == pytest.approx(
        0.4 * 2 / 6, abs=0.02
    )  # of six arrangements of two and two, two keep forms apart
    assert one.gap.p == pytest.approx(2 / 6, abs=0.05)
    several = independence(targets([(0.2, 0.6), (0.6, 0.2)] * 3))  # no form forgets more than the other, over targets
    assert several.gap is not None
    assert several.mean_gap is not None
    assert (several.gap.p or 1) < 0.01
    assert several.mean_gap.p == 1


def test_a_form_that_few_targets_have_leaves_the_others_in_the_test() -> None:
    pairs = targets([(0.4, 0.9)] * 8)
    pairs[0] = pair({"fb": (1.0, 0.4), "qa": (1.0, 0.9), "statement": (1.0, 0.5)}, {"fb": (1.0, 0.9)}, "1_X")
    found = independence(pairs)
    assert found.gap is not None
    assert found.gap.n == 8
    assert found.mean_gap is not None
    assert found.mean_gap.n == 8
    assert found.mean_gap.p is not None
    assert found.mean_gap.p < 0.05


def test_many_targets_are_tested_by_sampled_swaps() -> None:
    found = independence(targets([(0.5, 0.6)] * 20))
    assert found.forgetting["fb"].p is not None
    assert 0 < found.forgetting["fb"].p < 0.001
    rows = independence_table(found).rows
    assert ("forgetting", "Fill in the blank", "0.500", "0.500 … 0.500", "< 0.001", "20", "40 of 40", "0.500") in rows
    assert [row[0] for row in rows] == (
        ["forgetting"] * 2
        + ["retention"] * 2
        + ["form gap", "noise gap", "item gap", "item noise gap", "gap of means", "combined"]
    )


def test_other_items_are_refused(tmp_path: Path) -> None:
    one = record({("fb", "forget"): 0.4}, edited=False)
    other = record({("fb", "forget"): 0.4}, edited=True, digest="e")
    with pytest.raises(DataError, match="asked different items"):
        independence([(one, other)])
    one.save(tmp_path / "r.json")
    assert load_record(tmp_path / "r.json") == one
