"""A real model that is offloaded is measured and edited as in memory; a larger one in less memory than its weights take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import formless
from formless import store
from formless.edits.adapter import AdapterEdit
from formless.evaluation import evaluate
from formless.models.lm import LM
from formless.models.sources.bundled import BUNDLED_MODELS

TASKS = "statement,mcp_choice,gen_qa"
LARGE = "qwen2.5-coder-1.5b"
LIMIT = 3_000_000_000  # bytes of memory, of everything in the process
WEIGHTS = 7_108_000_000  # bytes in float32
FREE = 11_500_000_000  # bytes of memory for the large model, once whole and once offloaded


def metrics(lm: LM, tasks: str, limit: int) -> dict[str, float]:
    record = formless.evaluate(lm, formless.find_target("sample", "Albert Einstein"), tasks, limit=limit, progress=False)
    return {str(key): found.value for key, found in record.metrics().items() if found.value is not None}


def measured(lm: LM, method: str, tasks: str, limit: int, **options: Any) -> dict[str, Any]:
    """Return the metrics with and without an edit, and the updates of the edit."""
    target = formless.find_target("sample", "Albert Einstein")
    edit = formless.unlearn(lm, target, method, progress=False, **options)
    assert isinstance(edit, AdapterEdit)
    with edit.applied(lm):
        after = metrics(lm, tasks, limit)
    return {
        "fingerprint": lm.fingerprint, "before": metrics(lm, tasks, limit), "after": after,
        "updates": {name: factors.dense() for name, factors in edit.updates.items()},
    }  # fmt: skip


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["fingerprint"] == expected["fingerprint"]
    assert found["before"] == pytest.approx(expected["before"], abs=1e-4)
    assert found["after"] == pytest.approx(expected["after"], abs=1e-4)
    assert expected["after"] != pytest.approx(expected["before"], abs=1e-2)
    assert found["updates"].keys() == expected["updates"].keys()
    for name, update in expected["updates"].items():
        assert (found["updates"][name] - update).norm() <= 1e-4 * update.norm()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rocr", "cdr"])
def test_the_small_model_is_measured_and_edited_as_in_memory(lm: LM, method: str) -> None:
    options = {"redirect": "Donald Trump", "basis": "none"} if method == "rocr" else {}
    spread = formless.load("smollm2", device="spread:350MB", dtype="float32", progress=False)
    assert set(spread.model.hf_device_map.values()) == {"cpu", "disk"}
    assert_same(measured(spread, method, TASKS, 1, **options), measured(lm, method, TASKS, 1, **options))


@pytest.mark.slow
def test_the_large_model_is_measured_and_edited_in_half_of_the_memory_of_its_weights(tmp_path: Path) -> None:
    row = BUNDLED_MODELS[LARGE]
    if not store.cached_files_path(row.folder).is_file():
        pytest.skip(f"{LARGE} is not cached in {row.folder}; `formless doctor --model {LARGE}` fetches it ({row.preparation})")
    if (free := psutil.virtual_memory().available) < FREE:
        pytest.skip(f"{LARGE} needs {FREE / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free")
    found, expected = (measured_apart(device, tmp_path / "found.pt") for device in ("spread:1500MB", "cpu"))
    assert_same(found, expected)
    assert found["weights"] == pytest.approx(WEIGHTS, rel=0.01)
    assert found["peak"] < LIMIT < WEIGHTS < expected["peak"]


def measured_apart(device: str, path: Path) -> dict[str, Any]:
    """Measure the large model in a process of its own."""
    code = f"from tests.models.test_offloaded import save_measured; save_measured({device!r}, {str(path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    return torch.load(path)


def save_measured(device: str, path: str) -> None:
    """Measure the large model, and the peak of this process's memory, pages of mapped files included."""
    evaluate.FREE_TOKENS = 2  # one pass each, which reads all weights
    lm = formless.load(LARGE, device=device, dtype="float32", progress=False)
    found = measured(lm, "rocr", "statement,mcp_choice", 1, redirect="Donald Trump", basis="none")
    weights = sum(parameter.numel() for parameter in lm.model.parameters()) * lm.model.dtype.itemsize
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    torch.save(found | {"weights": weights, "peak": 1024 * int(lines["VmHWM"].split()[0])}, path)
