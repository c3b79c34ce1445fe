"""The page of keys for every spelling, from made-up runs."""

from pathlib import Path

from formless.methods.registry import method_config
from formless.models.settings import settings_for
from tests.report.made_runs import keep_run, made_record, made_run, write_plan
from tools import spelled_keys


def test_each_way_has_a_column_about_the_concept_and_one_about_the_neighbors(tmp_path: Path) -> None:
    left = {"original": (0.8, 0.8), "one_key": (0.4, 0.72), "spelled": (0.2, 0.64), "protected": (0.2, 0.8)}
    runs = [made_run(label, f"{number}_X") for number in (1, 2) for label in left]
    for run in runs:
        forget, neighbor = left[run.label]
        keep_run(tmp_path, run, made_record(run, {("qa", "forget"): forget, ("qa", "neighbor"): neighbor}))
    write_plan(tmp_path, runs)
    page = spelled_keys.page(tmp_path)
    assert page.rows == [["Question", None, 2, 4, -50.0, -75.0, -75.0, 2, -10.0, -20.0, 0.0]]  # 2 known items of each concept
    assert page.n.startswith("2 concepts")


def test_the_three_ways_are_valid_and_differ() -> None:
    found = spelled_keys.experiment()
    configs = [method_config(settings_for("smollm2"), one.method, one.settings) for one in found.methods[1:]]
    assert [one.label for one in found.methods] == ["original", *spelled_keys.TITLES]
    assert [(config.model_dump()["mentions"], config.model_dump()["protect"]) for config in configs] == [
        ("name", "none"), ("spelled", "none"), ("spelled", "neighbors"),
    ]  # fmt: skip
