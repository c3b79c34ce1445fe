"""A training run that was killed goes on from its checkpoint to the very same result."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from formless.models.lm import LM

PROGRAM = """
import json, os, pathlib, signal, sys
from dataclasses import replace
import formless, transformers
from formless.data.target import Target
from formless.methods.registry import build_method, method_config
from formless.methods.training.monitor import MonitorCallback

model, data, work, method, out, kill_at, settings = sys.argv[1:]
transformers.utils.logging.disable_progress_bar()
lm = formless.load(model, dtype="float32", device="cpu")
end_of_step = MonitorCallback.on_step_end

def killed(watch, *now, **more):
    end_of_step(watch, *now, **more)
    if now[1].global_step == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)

MonitorCallback.on_step_end = killed
training = build_method(method, method_config(lm.settings, method, json.loads(settings))).resumable(pathlib.Path(work))
edit = replace(training, save_steps=2).unlearn(lm, Target("Ada", pathlib.Path(data)))
weights = {name: str(change) + str([part.tolist() for part in vars(change).values()]) for name, change in edit.updates.items()}
facts = {name: edit.info.facts[name] for name in ("steps", "losses", "probabilities")}
pathlib.Path(out).write_text(json.dumps({"weights": weights, "facts": facts}))
"""
STEPS = {
    "learning_rate": 0.01,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "warmup_steps": 1,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "1_Ada"
    folder.mkdir(parents=True)
    (folder / "positive.json").write_text(json.dumps([{"text": f"Ada wrote {n} programs."} for n in range(8)]))
    return folder


class TrainingRuns:
    """Runs training runs of one tiny model in processes of their own."""

    def __init__(self, model: Path, data: Path) -> None:
        self.model, self.data = model, data

    def run(
        self, work: Path, method: str, out: Path, *, kill_at: int = 0, **settings: object
    ) -> "subprocess.CompletedProcess[str]":
        """Train; the process kills itself after a step, if one is named."""
        command = [sys.executable, "-c", PROGRAM, *map(str, (self.model, self.data, work, method, out, kill_at))]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command.append(json.dumps(STEPS | settings))
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def training_runs(tiny: Callable[..., LM], data: Path, tmp_path: Path) -> TrainingRuns:
    lm = tiny()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    return TrainingRuns(tmp_path / "model", data)


@pytest.mark.parametrize(("method", "settings"), [("npo", {}), ("ga", {"full": True})], ids=["adapter", "all weights"])
def test_a_killed_training_goes_on_to_the_same_result(
    training_runs: TrainingRuns, tmp_path: Path, method: str, settings: dict[str, object]
) -> None:
    undisturbed = training_runs.run(tmp_path / "undisturbed", method, tmp_path / "whole.json", **settings)
    assert (undisturbed.returncode, undisturbed.stderr) == (0, "")
    work = tmp_path / "work"
    for step in (3, 5, 10):  # 12 steps, a checkpoint after every second one
        killed = training_runs.run(work, method, tmp_path / "never.json", kill_at=step, **settings)
        assert killed.returncode == -signal.SIGKILL
    (work / "checkpoint-8" / "curves.json").unlink()  # as if a kill had come before the checkpoint was whole
    resumed = training_runs.run(work, method, tmp_path / "resumed.json", **settings)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert json.loads((tmp_path / "resumed.json").read_text()) == json.loads((tmp_path / "whole.json").read_text())
    assert (work / "checkpoint-12").is_dir()  # until the caller has saved the edit
    assert not (tmp_path / "never.json").exists()


def test_checkpoints_of_another_training_run_are_refused(training_runs: TrainingRuns, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert training_runs.run(work, "ga", tmp_path / "out.json", kill_at=3).returncode == -signal.SIGKILL
    for other in (
        training_runs.run(work, "ga", tmp_path / "out.json", seed=7),
        training_runs.run(work, "npo", tmp_path / "out.json"),
    ):
        assert f"an unfinished training run of something else is in the way [{work}]: repeat its settings" in other.stderr
    assert (work / "checkpoint-2").is_dir()


@pytest.mark.parametrize(
    "name",
    ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "curves.json"],
)
def test_a_damaged_checkpoint_is_named(training_runs: TrainingRuns, tmp_path: Path, name: str) -> None:
    work = tmp_path / "work"
    assert training_runs.run(work, "ga", tmp_path / "out.json", kill_at=3).returncode == -signal.SIGKILL
    (work / "checkpoint-2" / name).write_bytes(b"[1")
    resumed = training_runs.run(work, "ga", tmp_path / "out.json")
    assert "EditError: the checkpoint cannot be read: " in resumed.stderr.splitlines()[-1]
    assert f"[{work / 'checkpoint-2'}]: delete it" in resumed.stderr.splitlines()[-1]
    assert not (tmp_path / "out.json").exists()
