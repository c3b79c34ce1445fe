"""What stands on a terminal."""

import io
import re
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from formless.cli import terminal
from formless.cli.status import sweep_progress
from formless.data.ort import find_target, targets
from formless.data.target import Target
from formless.experiment.progress import RunProgress
from tests.report.made_runs import made_run


@pytest.mark.parametrize("keep_first", [True, False])
def test_the_line_that_says_what_work_costs_stays_on_a_terminal(monkeypatch: pytest.MonkeyPatch, keep_first: bool) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "log", Console(file=shown, force_terminal=True, width=200, markup=False, highlight=False))
    with terminal.progress("rocr", keep_first=keep_first) as report:
        report("costs [much]", 0, 0)
        report("64 texts", 64, 128)
    assert ("rocr: costs [much]\n" in shown.getvalue()) == keep_first
    assert "64 texts\n" not in shown.getvalue()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A log that is told of work twenty times a second."""
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "log", Console(file=shown, width=80, markup=False, highlight=False))
    monkeypatch.setattr(terminal, "SILENCE", 0.05)
    return shown


def test_a_log_hears_of_work_that_reports_nothing(log: io.StringIO) -> None:
    with terminal.progress("loading big"):
        wait_for(log, 3)
    first, second, *_ = log.getvalue().splitlines()
    assert re.fullmatch(r"loading big: after \d+ s", first)
    assert re.fullmatch(r"loading big: after \d+ s", second)
    said = log.getvalue()
    time.sleep(0.2)
    assert log.getvalue() == said, "nothing is said once the work is over"
    assert not any(thread.daemon and "repeat" in thread.name for thread in threading.enumerate())


def test_a_log_hears_how_far_silent_work_is(log: io.StringIO) -> None:
    with terminal.progress("Ada") as report:
        report("scoring answers", 40, 100)
        time.sleep(1.0)
        report("scoring answers", 50, 100)
        wait_for(log, len(log.getvalue().splitlines()) + 2)
    first, *later = log.getvalue().splitlines()
    assert re.fullmatch(r"Ada: scoring answers, 40 % done after \d+ s", first), "what was done before says nothing of the pace"
    found = [re.fullmatch(r"Ada: scoring answers, 50 % done after \d+ s, about (\d+) s left", line) for line in later[-1:]]
    assert all(one and int(one[1]) >= 5 for one in found), "10 of 100 took a second, and 50 are left"


def test_a_log_is_not_told_twice_of_short_work(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "SILENCE", 10.0)
    with terminal.progress("Ada") as report:
        for done in range(5):
            report("scoring answers", done, 5)
        report("generating answers", 0, 0)
    assert log.getvalue() == "Ada: scoring answers, 0 % done after 0 s\nAda: generating answers, after 0 s\n"


def test_an_error_in_the_work_ends_the_lines(log: io.StringIO) -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="boom"), terminal.progress("Ada"):
        raise RuntimeError("boom")
    assert threading.active_count() == before
    assert log.getvalue() == ""


def wait_for(log: io.StringIO, lines: int) -> None:
    deadline = time.monotonic() + 20
    while log.getvalue().count("\n") < lines:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_tasks_that_targets_lack_are_announced(log: io.StringIO, target_folder: Path) -> None:
    (target,) = targets(target_folder.parent)
    terminal.announce_absent([target], "fb,qa,mmlu,reverse")
    assert log.getvalue() == "not asked: mmlu (no retain_mmlu.json), reverse (no forget_reverse.json)\n"
    (target_folder / "neighbor_level1.json").unlink()
    (target_folder / "forget_reverse.json").write_text("[]", "utf-8")
    other = Target("Marie Curie", find_target("sample", "4").folder)
    log.truncate(0)
    log.seek(0)
    terminal.announce_absent([target, other], "fb,reverse")
    first = "fb of neighbors (no neighbor_level1.json in 1 of 2 targets)"
    second = "reverse of neighbors (no neighbor_reverse.json in 1 of 2 targets)"
    assert log.getvalue() == f"not asked: {first}, {second}\n"
    log.truncate(0)
    terminal.announce_absent([other], "fb,reverse")
    assert log.getvalue() == ""


def test_work_is_done_where_no_thread_can_be_started(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with terminal.progress("Ada") as report:
        report("scoring answers", 0, 0)
    assert log.getvalue() == "Ada: scoring answers, after 0 s\n"


def test_a_log_hears_of_a_sweep_whose_runs_report_nothing(log: io.StringIO, tmp_path: Path) -> None:
    run = made_run("rocr", "1_Albert_Einstein", suite="fb,mmlu")
    with sweep_progress(tmp_path) as callback:
        callback.on_begin([run], [], 1)
        wait_for(log, 3)
        callback.on_progress(run, RunProgress(phase="evaluating", task="blanks", done=4, total=10, since=time.time(), at=0))
        wait_for(log, log.getvalue().count("\n") + 2)
    first, absent, starting, *_, last = log.getvalue().splitlines()
    assert first == f"1 runs in {tmp_path}; 1 to do"
    assert absent == "not asked: mmlu (no retain_mmlu.json)"
    assert starting == f"{tmp_path}: starting"
    assert re.fullmatch(rf"{run.title}: evaluating 40 %: blanks, for \d+ s; time left not known yet", last)
