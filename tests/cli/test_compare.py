import sys
from pathlib import Path

import pytest

from formless.cli.main import main
from formless.data.rows import Split
from formless.evaluation.record import MetricKey
from formless.report.folders import compare_folders
from tests.report.made_runs import fail_run, keep_run, made_record, made_run, write_plan, write_runs

ADA, BOB, CAT = "1_Ada", "2_Bob", "3_Cat"


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["formless", "compare", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def make(out: Path, *cells: tuple[str, int, float], strength: float = 1.0, digest: str = "d", **keys: object) -> Path:
    """Runs of rocr: target, seed and forget_fb each."""
    runs = []
    for target, seed, value in cells:
        known: dict[tuple[str, Split], float] = {("fb", "forget"): value, ("fb", "neighbor"): 0.5}
        runs.append(made_run("rocr", target, seed, config={"strength": strength, "seed": seed}))
        keep_run(out, runs[-1], made_record(runs[-1], known, digest=digest))
    write_plan(out, runs, **keys)
    return out


def test_shared_runs_are_compared_by_hand(tmp_path: Path) -> None:
    one = make(tmp_path / "a", (ADA, 1, 0.2), (ADA, 2, 0.4), (BOB, 1, 0.1), (CAT, 1, 0.9))
    other = make(tmp_path / "b", (ADA, 1, 0.4), (ADA, 2, 0.6), (BOB, 1, 0.2), (BOB, 2, 0.9))
    found = compare_folders(one, other)
    (shared,) = found.shared
    forget, neighbor = (shared.metrics[MetricKey("fb", split, "probability")] for split in ("forget", "neighbor"))
    assert (shared.targets, shared.runs, shared.unlike) == ((ADA, BOB), 3, 0)
    assert forget.baseline is not None
    assert forget.difference is not None
    assert neighbor.difference is not None
    assert forget.baseline.value == pytest.approx((0.3 + 0.1) / 2)
    assert forget.value.value == pytest.approx((0.5 + 0.2) / 2)
    assert forget.difference.value == pytest.approx(0.15)
    assert forget.difference.values == pytest.approx((0.2, 0.1))
    assert neighbor.difference.value == 0
    assert found.only == ((f"tiny rocr seed 1 {CAT}",), (f"tiny rocr seed 2 {BOB}",))
    assert found.settings == ()


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    one = make(tmp_path / "a", (ADA, 1, 0.2), suite="fb")
    other = make(tmp_path / "b", (ADA, 1, 0.4), strength=2.0, digest="e", suite="fb", limit=3)
    found = compare_folders(one, other)
    assert found.settings == (("limit", "–", "3"), ("tiny, rocr: strength", "1.0", "2.0"))
    assert found.shared[0].unlike == 1


def test_targets_whose_files_changed_are_named(tmp_path: Path) -> None:
    folders = []
    for name, files in (("a", "t"), ("b", "u")):
        inputs = {"model": "w", "target": files}
        runs = [made_run("rocr", ADA, inputs=inputs), made_run("rocr", BOB), made_run(name, CAT, inputs=inputs)]
        write_plan(tmp_path / name, runs)
        folders.append(tmp_path / name)
    found = compare_folders(*folders)
    assert found.settings == (("files", "of 1 targets", f"other ones: {ADA}"),)
    assert found.shared == ()


def test_the_command_shows_all_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make(tmp_path / "a", (ADA, 1, 0.2), (BOB, 1, 0.2))
    other = make(tmp_path / "b", (ADA, 1, 0.4), (BOB, 1, 0.3), strength=2.0, digest="e")
    extra = made_run("npo", ADA)
    fail_run(other, extra)
    write_plan(other, [*(made_run("rocr", target, 1, config={"strength": 2.0, "seed": 1}) for target in (ADA, BOB)), extra])
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(monkeypatch, capsys, "a", "b")
    assert code == 0
    for words in ("tiny, rocr: 2 targets, 2 runs in both", "tiny, rocr: strength", "+0.150", "each: 0.200, 0.100", "+75.0 %"):
        assert words in out
    assert "the same in both: fb.neighbor.probability" in out
    assert "2 of these runs asked other items" in out
    assert f"failed in b: 1 runs: tiny npo seed 0 {ADA}" in out


def test_a_folder_is_like_itself_and_unlike_strangers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_runs(tmp_path / "a", ("original", "rocr"), targets=2)
    write_runs(tmp_path / "b", ("ga",), targets=2)
    code, out, _ = run(monkeypatch, capsys, tmp_path / "a", tmp_path / "a")
    assert code == 0
    assert "no setting differs" in out
    assert "only in" not in out
    code, out, _ = run(monkeypatch, capsys, tmp_path / "a", tmp_path / "b")
    assert code == 0
    assert "they share no complete run" in out
    code, _, err = run(monkeypatch, capsys, tmp_path / "a", tmp_path / "nothing")
    assert code == 2
    assert "no experiment was started in this folder" in err.splitlines()[-1]
