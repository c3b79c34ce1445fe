"""TOFU's tables, from made-up records."""

from dataclasses import replace

import pytest

from formless.errors import DataError
from formless.evaluation.record import ItemResult, TaskMetric, TaskResult
from tests.report.made_runs import made_record, made_run
from tools import tofu
from tools.tofu import Place, Row

FB: Place = ("fb", "forget", "probability")
ASKED = (("answer", "forget", "probability"), ("answer", "neighbor", "probability"), FB)


def row(label: str, values: dict[Place, float], strength: float | None = None) -> Row:
    record = made_record(made_run(label, "1_TOFU_forget01"), {})
    record.tasks = [
        TaskResult(
            task=task, split=split, status="complete", metrics=[TaskMetric(metric=metric, value=value, n=2)],
            items=[ItemResult(query=f"{number}?", metrics={metric: value}) for number in range(2)],
        )
        for (task, split, metric), value in values.items()
    ]  # fmt: skip
    return Row(label, strength, record)


def test_a_form_shows_what_is_left_of_what_teaching_added() -> None:
    before, retained, edited = (
        row(label, dict.fromkeys(ASKED, 0.5) | {FB: value})
        for label, value in (("before", 0.6), ("retain model", 0.2), ("npo", 0.3))
    )
    page = tofu.forms_page([before, retained, edited])
    assert [column.name for column in page.columns] == ["method", "strength", "Whole answer", "Fill in the blank"]
    assert [cells[-1] for cells in page.rows] == pytest.approx([100, 0, 25])
    assert [cells[-2] for cells in page.rows] == [None, None, None], "teaching added nothing to the whole answers"
    assert "2 forget and 2 retain questions" in page.n


def test_the_row_of_a_method_keeps_the_utility_if_any_strength_does() -> None:
    quality, utility = tofu.TABLE["forget quality, log10 p"], tofu.TABLE["model utility"]

    def strengths(*points: tuple[float, float]) -> list[Row]:
        return [row("npo", {quality: one, utility: two}, number) for number, (one, two) in enumerate(points, 1)]

    assert tofu.chosen(strengths((-9, 0.6), (-5, 0.55), (-1, 0.2)), 0.6).strength == 2
    assert tofu.chosen(strengths((-9, 0.3), (-1, 0.2)), 0.6).strength == 1
    with pytest.raises(DataError, match="no forget_quality in the record"):
        tofu.chosen([row("npo", {utility: 0.6}, 1)], 0.6)


def test_the_table_says_at_which_strengths_edits_were_measured() -> None:
    def note(*strengths: float) -> str:
        edited = replace(row("npo", {}, 1.0), measured=strengths)
        return tofu.tofu_page([row("before", {}), row("retain model", {}), edited]).notes[-1]

    assert note(1.0).startswith("Each edit was measured at its own strength, with one setting")
    assert note(0.5, 1.0, 2.0).startswith("One edit of each method was measured at the strengths 0.5, 1, 2. A row")


def test_the_experiment_names_both_models() -> None:
    experiment = tofu.grid("data/tofu", "models/full", "models/retain")
    assert experiment.models[0].name == "models/full"
    assert experiment.retain_model
    assert experiment.retain_model.name == "models/retain"
    assert experiment.methods[0].label == "original"
    assert all(command.startswith(("formless ", "python -m tools.tofu")) for command in tofu.COMMANDS)
