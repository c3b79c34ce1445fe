"""The page of keys where the name is the answer, from made-up runs."""

from pathlib import Path

from formless.methods.registry import method_config
from formless.models.settings import settings_for
from tests.report.made_runs import keep_run, made_record, made_run, write_plan
from tools import reverse_keys


def test_a_row_says_what_both_edits_take_from_one_kind_of_question(tmp_path: Path) -> None:
    left = {"original": (0.8, 0.5), "names": (0.8, 0.4), "names-and-answers": (0.2, 0.45)}
    runs = [made_run(label, "2_X") for label in left]
    for run in runs:
        forget, neighbor = left[run.label]
        record = made_record(run, {("reverse", "forget"): forget, ("reverse", "neighbor"): neighbor})
        keep_run(tmp_path, run, record)
    write_plan(tmp_path, runs)
    page = reverse_keys.page(tmp_path)
    assert [row[:2] for row in page.rows] == [["X", "reverse questions"], ["X", "neighbors: reverse questions"]]
    assert [row[3:5] for row in page.rows] == [[0.0, -75.0], [-20.0, -10.0]]
    assert page.n.startswith("1 concepts")


def test_both_edits_are_valid_and_differ_in_the_late_layers_alone() -> None:
    found = reverse_keys.experiment("stats", "people")
    settings = settings_for(reverse_keys.MODEL)
    names, both = (method_config(settings, one.method, one.settings).model_dump() for one in found.methods[1:])
    assert {name for name in names if names[name] != both[name]} == {"reverse_layers"}
