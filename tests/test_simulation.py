"""The large sweep on paper: arithmetic by hand, and actors that take runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from formless.models.settings import settings_for
from tools import simulation
from tools.results import FOLDER, Result, render_page
from tools.simulation import FAST, SLOW, Job, Measured, Rates, simulate

MEASURED = Measured(
    reading=[1000, 10], writing=[1, 1], training_tokens={"positive": 1000, "passage": 10, "reject": 500, "pair": 2000},
    record_bytes=1000, result_bytes=100, driver_ms=0.0, message_ms=0.5, status_s=1.0, report_s=2.0, read_mb_s=100.0,
)  # fmt: skip
P = settings_for("llama3").parameters
RATES = Rates(reading=2.0 * P * 100, training=6.0 * P * 100, step=1.0, rocr=3.0, cdr=4.0, folder=2.0 * P, start=5.0)
"""A hundred tokens a second in either way; the folder gives one model a second."""


def job(seconds: float, target: int = 0, *, needs: bool = False) -> Job:
    return Job(target, "x", seconds, needs)


def test_a_pass_takes_its_tokens_or_the_least_time() -> None:
    assert simulation.passes_seconds(MEASURED.reading, RATES) == 10 + 1  # the second has too few tokens to count
    assert simulation.evaluation_seconds(MEASURED, RATES) == 10 + 1 + 1 + 1


def test_the_runs_are_those_of_the_grid() -> None:
    found = simulation.jobs(MEASURED, RATES)
    assert len(found) == 100 * (3 + 17 * 3)  # the original, in-context unlearning and CDR use no seed
    assert [one.method for one in found[:5]] == ["cdr", "rocr", "rocr", "rocr", "ga"]
    seconds = {one.method: one.seconds - 13 for one in found}
    assert (seconds["original"], seconds["icu"], seconds["rocr"], seconds["cdr"]) == (0, 0, 3, 4)
    assert seconds["ga"] == pytest.approx(5 * 1000 / 100)  # five epochs
    assert seconds["grad_diff"] == pytest.approx(2 * seconds["ga"])  # and a retain set
    assert seconds["dpo"] == pytest.approx(5 * 2000 / 100)
    assert {one.method for one in found if one.needs_original} == {"grad_diff", "idk_nll", "idk_dpo", "rmu"}


def test_actors_take_the_runs_one_after_the_other() -> None:
    done = simulate([job(10), job(20), job(5), job(5)], RATES, MEASURED, gpus=2, spread=0)
    assert done.loading == 5 + 2  # two models from one folder
    assert (done.seconds, done.worked) == (7 + 20, 40)  # 10 + 5 + 5 beside 20
    assert done.idle == 0
    late = simulate([job(10), job(10), job(10)], RATES, MEASURED, gpus=2, spread=0)
    assert (late.seconds, late.idle) == (27, 10)


def test_an_original_is_measured_again_by_those_that_cannot_wait() -> None:
    both = simulate([job(10, needs=True), job(10, needs=True)], RATES, MEASURED, gpus=2, spread=0)
    assert (both.repeated, both.worked) == (13, 2 * 23)
    later = simulate([job(10, needs=True), job(10, needs=True)], RATES, MEASURED, gpus=1, spread=0)
    assert (later.repeated, later.worked) == (0, 23 + 10)
    other = simulate([job(10, needs=True), job(10, 1, needs=True)], RATES, MEASURED, gpus=2, spread=0)
    assert (other.repeated, other.worked) == (0, 2 * 23)


def test_a_slow_driver_holds_the_actors_up() -> None:
    slow = MEASURED.model_copy(update={"driver_ms": 30_000.0})
    assert simulate([job(10)] * 4, RATES, slow, gpus=4, spread=0).seconds == 9 + 4 * 30 + 10
    assert simulation.busy_driver(slow, RATES, gpus=1) > 30 / max(one.seconds for one in simulation.jobs(slow, RATES))


def test_bytes_by_hand() -> None:
    assert simulation.adapter_bytes(8) == 4 * 32 * 8 * (4096 + 4096 + 4096 + 1024)
    smollm2 = simulation.adapter_bytes(8, ((576, 576), (576, 192)), layers=30)
    table = Result.model_validate_json((FOLDER / "training_methods.json").read_text("utf-8"))
    (measured,) = (row[-1] for row in table.rows if row[0] == "`ga`")
    assert smollm2 / 1e6 == pytest.approx(measured, rel=0.02)  # with the names of its tensors
    kinds = simulation.stored(MEASURED)
    assert kinds["records"] == (5400 + 100 * 3 * 4) * 1000 + 5400 * 100
    assert kinds["cache of original records"] == 200_000
    assert kinds["model"] == 2 * P


def test_the_shares_are_of_all_time() -> None:
    for rates in (SLOW, FAST, replace(FAST, folder=1e8)):
        found = simulation.shares(MEASURED, rates)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert sum(found.values()) == pytest.approx(1, abs=0.05)
    assert next(iter(found)) == "loading the model"  # from a folder of 0.1 GB a second


def test_a_page_says_the_bottleneck_and_every_assumption() -> None:
    page = render_page("simulation", simulation.page(MEASURED))
    assert "**The first bottleneck**" in page
    assert all(what in page for what, _, _ in simulation.ASSUMPTIONS)
    assert "python -m tools.simulation page" in page
    assert page.count("| assumed |") == len(simulation.ASSUMPTIONS)


def test_the_page_of_the_repository_has_the_rows_that_are_made_now() -> None:
    kept = Result.model_validate_json((FOLDER / "simulation.json").read_text("utf-8"))
    assert [row[0] for row in kept.rows][:3] == [row[0] for row in simulation.page(MEASURED).rows][:3]
    assert {row[0] for row in kept.rows} == {row[0] for row in simulation.page(MEASURED).rows}
    assert Path(simulation.__file__).stem in str(kept.command)
