"""That both ways do the same work and the table says so; never how long they take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import formless
from benchmarks import evaluation, generation, sweep
from benchmarks.__main__ import main, modules
from benchmarks.evaluation import checked_answers, checked_metrics, jobs_of
from benchmarks.timing import Row, Times, UnequalError, in_turns, largest_difference, rows_table
from formless.data.target import Target
from formless.models.lm import LM

ROW = Row("an edit", Times((1.0, 3.0, 2.0)), Times((20.0, 30.0, 10.0)), 10, "equal to 1e-6")


@pytest.fixture
def einstein() -> Target:
    return formless.find_target("sample", "Albert Einstein")


def test_a_row_says_what_was_found() -> None:
    assert (ROW.ratio, ROW.is_met) == (10, True)
    assert "| an edit | 135M, float32 | 1 / 2 | 10 / 20 | 10.0 | 10 |  |  | equal to 1e-6 |" in rows_table([ROW])
    limited = replace(ROW, plain=None, bar=None, limit=0.25, goal=0.5)
    assert (limited.ratio, limited.share, limited.is_met) == (None, 0.25, True)
    assert "| 1 / 2 |  |  |  | 25 % | 50 % |" in rows_table([limited])
    slower = replace(ROW, ours=Times((20.0,)), plain=Times((2.0,)))
    assert (slower.ratio, slower.is_met) == (0.1, False)
    assert "| 0.1 | 10, missed |" in rows_table([slower])


def test_both_ways_are_timed_in_turns() -> None:
    order: list[str] = []
    ours, plain = in_turns(lambda: order.append("ours"), lambda: order.append("plain"), rounds=2)
    assert order == ["ours", "plain", "ours", "plain"]
    assert len(ours.seconds) == len(plain.seconds) == 2


def test_lists_of_other_lengths_are_not_compared() -> None:
    assert largest_difference([0.25, 0.5], [0.25, 0.75]) == 0.25
    with pytest.raises(UnequalError, match="2 numbers beside 1"):
        largest_difference([0.1, 0.2], [0.1])


def test_the_plain_way_gives_the_same_metrics(lm: LM, einstein: Target) -> None:
    assert checked_metrics(lm, jobs_of(einstein, "fb,sub_qa", 3)).startswith("12 metrics within")


@pytest.mark.slow
def test_the_plain_way_gives_the_same_metrics_of_choices(lm: LM, rwku: Path) -> None:
    jobs = evaluation.first_rows(jobs_of(evaluation.real_target(), "mmlu,truthfulqa"), {"mmlu": 2, "truthfulqa": 1})
    assert checked_metrics(lm, jobs).startswith("3 metrics within")


def test_the_plain_way_writes_the_same(lm: LM, einstein: Target) -> None:
    assert checked_answers(lm, jobs_of(einstein, "gen_qa,triviaqa", 2)) == "6 answers letter for letter"


def test_what_differs_is_not_timed(lm: LM, einstein: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "plain_metrics", lambda lm, job: [0.5 for _ in job.rows])
    monkeypatch.setattr(evaluation, "answers", lambda lm, job: ["another answer" for _ in job.rows])
    with pytest.raises(UnequalError, match="metrics differ by"):
        checked_metrics(lm, jobs_of(einstein, "fb", 1))
    with pytest.raises(UnequalError, match="2 of 2 answers differ"):
        checked_answers(lm, jobs_of(einstein, "gen_qa", 1))


def test_the_command_prints_one_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(evaluation, "rows", lambda *, quick: [ROW])
    monkeypatch.setattr(generation, "rows", lambda *, quick: [ROW])
    assert main(["evaluation", "generation"]) == 0
    assert capsys.readouterr().out.count("| an edit |") == 2


def test_the_command_fails_where_results_differ_or_a_bar_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def differs(*, quick: bool) -> list[Row]:
        raise UnequalError("metrics differ by 0.1")

    slow = replace(ROW, ours=Times((20.0,)), plain=Times((2.0,)))
    monkeypatch.setattr(evaluation, "rows", differs)
    monkeypatch.setattr(sweep, "rows", lambda *, quick: [slow])
    assert main(["evaluation"]) == 1
    assert "the two ways differ: metrics differ by 0.1" in capsys.readouterr().err
    assert main(["sweep"]) == 1
    assert main(["sweep", "--quick"]) == 0  # tiny inputs have no bar
    with pytest.raises(SystemExit):
        main(["evaluations"])
    assert "no benchmark is called evaluations" in capsys.readouterr().err


def test_every_benchmark_is_found() -> None:
    known = modules()
    assert {"evaluation", "generation", "sweep"} <= set(known)
    assert not {"timing", "plain_evaluation"} & set(known)


@pytest.mark.slow
def test_one_process_for_each_run_gives_what_one_sweep_gives() -> None:
    (row,) = sweep.rows(quick=True)
    assert row.checked.startswith("8 means within")
