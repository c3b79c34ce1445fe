import sys
from pathlib import Path

import pytest

from formless.cli.main import main
from tests.report.evaluations import tofu, write
from tests.report.made_runs import fail_run, made_run, write_plan, write_runs


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["formless", "report", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def test_the_page_is_written_into_the_folder_and_written_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    runs = write_runs(tmp_path, ("original", "rocr"), targets=2)
    code, out, _ = run(monkeypatch, capsys, tmp_path)
    assert code == 0
    assert f"report: {tmp_path / 'report.html'}" in out
    failed = made_run("npo", "1_Person_1")
    fail_run(tmp_path, failed)
    write_plan(tmp_path, [*runs, failed])
    code, out, _ = run(monkeypatch, capsys, tmp_path)
    assert code == 0
    assert "tiny, npo: 0 targets (1 runs failed)" in out
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "RuntimeError: boom" in page
    assert f"formless report {tmp_path}" in page


def test_another_file_is_not_replaced_unasked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_runs(tmp_path / "runs", ("original", "rocr"), targets=1)
    page = tmp_path / "mine.html"
    page.write_text("mine")
    code, _, err = run(monkeypatch, capsys, tmp_path / "runs", "--out", page)
    assert code == 2
    assert "the output exists already" in err
    assert page.read_text() == "mine"
    assert run(monkeypatch, capsys, tmp_path / "runs", "--out", page, "--force")[0] == 0
    assert "<!doctype html>" in page.read_text("utf-8")


def test_what_is_no_experiment_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(monkeypatch, capsys, tmp_path)
    assert code == 2
    assert "no experiment was started in this folder" in err.splitlines()[-1]
    write_runs(tmp_path, ("original", "rocr"), targets=1)
    code, _, err = run(monkeypatch, capsys, tmp_path, "--baseline", "rockr")
    assert code == 2
    assert "did you mean rocr?" in err


def test_evaluations_of_open_unlearning_stand_beside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_runs(tmp_path / "runs", ("original", "rocr"), targets=1)
    write(tmp_path / "saves" / "NPO", tofu())
    code, _, err = run(monkeypatch, capsys, tmp_path / "runs", "--beside", tmp_path / "saves")
    assert code == 0, err
    assert "NPO [open-unlearning]" in (tmp_path / "runs" / "report.html").read_text("utf-8")
    code, _, err = run(monkeypatch, capsys, tmp_path / "runs", "--beside", tmp_path / "none")
    assert code == 2
    assert "no evaluations of open-unlearning" in err.splitlines()[-1]
