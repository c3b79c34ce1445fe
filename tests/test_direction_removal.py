"""The pages about the removal of a direction, from made-up runs."""

from pathlib import Path

import pytest

from formless.data.rows import Split
from formless.evaluation.record import ItemResult, TaskMetric, TaskResult
from formless.methods.direction.kept import SHORTEST
from formless.methods.registry import method_config
from formless.models.settings import settings_for
from formless.report.runs import collect_folder
from formless.report.summary import summarize
from tests.report.made_runs import keep_run, made_record, made_run, scored_task, write_plan
from tools import direction_removal
from tools.direction_removal import COMPARISONS, KNOWN_FROM, TITLES

LEFT = {
    "original": (0.8, 0.5),
    "cdr": (0.08, 0.45),
    "cdr-no-redirect": (0.08, 0.45),
    "cdr-unbounded": (0.08, 0.45),
    "rocr-spelled": (0.4, 0.5),
    "rocr-one-key": (0.8, 0.5),
}
SHARED = {"date": "2026-01-01", "versions": {}, "hardware": {}, "n": "2", "command": "c"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    runs = [made_run(label, target, model={"name": "smollm2"}) for target in ("5_X", "6_Y") for label in LEFT]
    for run in runs:
        forget, neighbor = LEFT[run.label]
        values: dict[tuple[str, Split], float] = {("qa", "forget"): forget, ("qa", "neighbor"): neighbor}
        record = made_record(run, values)
        known = True if run.label == "original" else None
        extra = [
            scored_task("reverse", "forget", forget, known=known),
            scored_task("reverse", "neighbor", neighbor, known=known),
        ]
        trivia = TaskResult(
            task="triviaqa", split=None, status="complete", metrics=[TaskMetric(metric="f1", value=0.25, n=1)],
            items=[ItemResult(query="q", prompt="p", expected="a", metrics={"f1": 0.25})],
        )  # fmt: skip
        keep_run(tmp_path, run, record.model_copy(update={"tasks": [*record.tasks, *extra, trivia]}))
    write_plan(tmp_path, runs)
    return tmp_path


def test_reverse_questions_have_a_row_of_their_own(out: Path) -> None:
    records = direction_removal._records(out)
    page = direction_removal.forgetting_page("smollm2", out, collect_folder(out), records, SHARED)
    (row,) = (row for row in page.rows if row[0] == "Reverse question")
    assert row[:4] == ["Reverse question", None, 2, 4]
    assert row[4:9] == [-90.0, -90.0, -90.0, -50.0, 0.0]
    assert row[9:] == [2, -10.0, -10.0, -10.0, 0.0, 0.0]
    assert [column.name for column in page.columns[4:9]] == [*TITLES.values()]


def test_others_are_counted_by_item_and_small_probabilities_are_left_out(out: Path) -> None:
    records = direction_removal._records(out)
    assert sorted(direction_removal._changes_of_others(records, "cdr")) == pytest.approx([0.1] * 8)
    assert KNOWN_FROM < 0.5
    page = direction_removal.recall_page("smollm2", summarize(collect_folder(out)), records, SHARED)
    assert [row[0] for row in page.rows] == ["none", *TITLES.values()]
    assert page.rows[1][3:7] == [10.0, 10.0, 25.0, 25.0]


def test_an_item_about_a_neighbor_that_asks_for_the_target_is_left_out(out: Path) -> None:
    records = direction_removal._records(out)
    every, none = direction_removal._neighbor_pairs(records, "cdr")
    assert (len(every), none) == (2, 0)
    asked = [item for task in records["5_X"]["original"].tasks if task.split == "neighbor" for item in task.items]
    name = str(asked[0].expected).ljust(SHORTEST, "x")
    items = [item.model_copy(update={"expected": name}) for item in asked[:1]]
    own = records["5_X"]["original"]
    changed = [
        task.model_copy(update={"items": [*items, *task.items[1:]]}) if (task.task, task.split) == ("qa", "neighbor") else task
        for task in own.tasks
    ]
    records["5_X"]["original"] = own.model_copy(update={"subject": name, "tasks": changed})
    left, dropped = direction_removal._neighbor_pairs(records, "cdr")
    assert dropped == 1
    assert sum(map(len, left)) == sum(map(len, every)) - 1


def test_a_concept_that_lacks_a_record_is_left_out(out: Path) -> None:
    for path in out.glob("runs/*/cdr/6_Y/*/record.json"):
        path.unlink()
    assert list(direction_removal._records(out)) == ["5_X"]


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_edits_of_the_experiment_are_valid(name: str) -> None:
    found = direction_removal.experiment(name)
    settings = settings_for(COMPARISONS[name].model)
    assert [one.label for one in found.methods] == ["original", *COMPARISONS[name].labels]
    for one in found.methods[1:]:
        method_config(settings, one.method, one.settings)


def test_another_concept_is_compared_with_what_the_original_says_of_it(out: Path) -> None:
    records = direction_removal._records(out)
    for label in TITLES:
        for target in records:
            other = direction_removal._other([*records], target)
            records[other][label].save(direction_removal._others_path(out, target, label))
    page = direction_removal.forgetting_page("smollm2", out, collect_folder(out), records, SHARED)
    assert page.rows[-1][0] == "Another concept"
    assert page.rows[-1][9:] == [2, -90.0, -90.0, -90.0, -50.0, 0.0]
