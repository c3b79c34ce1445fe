"""The benchmark of a GPU runs where there is none, on the CPU and on the fake second device, and its checks are real."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.shapes import random_lm
from tests.devices.fake import fake_device

STEPS = ["edit", "statistics", "scoring", "writing"]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "fake"])
def test_a_dry_run(device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_device() if device == "fake" else nullcontext():
        assert gpu.main(["--dry-run", "--device", device, "--json", str(tmp_path / "gpu.json"), *STEPS]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    assert found["device"] == device
    table = capsys.readouterr().out
    assert [row["what"].split()[0] for row in found["rows"]] == ["ROCR", "ROCR", "ROCR", "statistics", "scoring", "writing"]
    for row in found["rows"]:
        assert f"| {row['what']} | small, float32 |" in table
        assert row["seconds"]
        assert row["peak_bytes"] is None
        assert row["what"].startswith("ROCR") == (row["share"] is None)


@pytest.mark.slow
def test_the_sweep_through_ray() -> None:
    (found,) = gpu.several(random_lm("small"), gpu.DRY)
    assert found.row.checked == "means within 0e+00"


@pytest.mark.slow
def test_one_gpu_has_no_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.several(random_lm("small"), gpu.Work()) == []
    assert "a sweep over several through Ray is left out" in capsys.readouterr().err


@pytest.mark.slow
def test_what_differs_is_not_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "texts", lambda _, prompts, **__: ["another text"] * len(prompts))
    assert gpu.main(["--dry-run", "writing"]) == 1
    assert "writing: results differ: 2 of 2 texts differ" in capsys.readouterr().err


def test_a_wrong_request(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in ((["--dry-run", "dreaming"], "no step is called dreaming"), ([], "no GPU is here")):
        if "GPU" in said and torch.cuda.is_available():
            continue
        with pytest.raises(SystemExit) as stopped:
            gpu.main(arguments)
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err
