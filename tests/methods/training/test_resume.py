"""A training run that was killed resumes from its checkpoint and ends with the very same result."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from formless.data.target import Target
from formless.errors import EditError
from formless.methods.registry import build_method, method_config
from formless.methods.training.monitor import MonitorCallback
from formless.models.lm import LM

STEPS = {
    "learning_rate": 0.01,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "warmup_steps": 1,
}
Train = Callable[..., dict[str, Any]]


class Killed(BaseException):
    """Passes every `except Exception`, as a kill does."""


@pytest.fixture
def train(tiny: Callable[..., LM], tmp_path: Path) -> Train:
    """Train one tiny model, with a checkpoint after every second step; `kill_at` names the step after which it is killed."""
    folder = tmp_path / "data" / "1_Ada"
    folder.mkdir(parents=True)
    (folder / "positive.json").write_text(json.dumps([{"text": f"Ada wrote {n} programs."} for n in range(8)]))
    for file, count in (("forget_qa", 8), ("neighbor_qa", 20)):
        asked = [{"question": f"Question {n}?", "answer": f"Answer {n}."} for n in range(count)]
        (folder / f"{file}.json").write_text(json.dumps(asked))
    lm = tiny()

    def run(work: Path, method: str, *, kill_at: int = 0, **settings: object) -> dict[str, Any]:
        end_of_step = MonitorCallback.on_step_end

        def killed(watch: MonitorCallback, *now: Any, **more: Any) -> None:
            end_of_step(watch, *now, **more)
            if now[1].global_step == kill_at:
                raise Killed

        built: Any = build_method(method, method_config(lm.settings, method, STEPS | settings))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MonitorCallback, "on_step_end", killed)
            edit = replace(built.resumable(work), save_steps=2).unlearn(lm, Target("Ada", folder))
        weights = {
            name: str(change) + str([part.tolist() for part in vars(change).values()]) for name, change in edit.updates.items()
        }
        return {"weights": weights} | {name: edit.info.facts[name] for name in ("steps", "losses", "probabilities")}

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("npo", {}),
        ("ga", {"full": True}),
        ("ga", {"trains_on": "questions", "retain": "ce"}),
    ],
    ids=["adapter", "all weights", "other retain questions in each epoch"],
)
def test_a_killed_training_run_ends_with_the_same_result(
    train: Train, tmp_path: Path, method: str, settings: dict[str, object]
) -> None:
    undisturbed = train(tmp_path / "undisturbed", method, **settings)
    work = tmp_path / "work"
    for step in (3, 5, 10):  # 12 steps, a checkpoint after every second one
        with pytest.raises(Killed):
            train(work, method, kill_at=step, **settings)
    (work / "checkpoint-8" / "curves.json").unlink()  # as if a kill had come before the checkpoint was whole
    assert train(work, method, **settings) == undisturbed
    assert (work / "checkpoint-12").is_dir()  # until the caller has saved the edit


def test_checkpoints_of_another_training_run_are_refused(train: Train, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with pytest.raises(Killed):
        train(work, "ga", kill_at=3)
    for method, settings in (("ga", {"seed": 7}), ("npo", {})):
        with pytest.raises(EditError, match=f"of something else is in the way .{work}.: repeat its settings"):
            train(work, method, **settings)
    assert (work / "checkpoint-2").is_dir()
    (work / "training.json").unlink()  # as if a kill had come while the folder was removed: whose is the checkpoint?
    with pytest.raises(EditError, match="of something else is in the way"):
        train(work, "ga")


@pytest.mark.parametrize(
    "name",
    ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "curves.json"],
)
def test_a_damaged_checkpoint_is_named(train: Train, tmp_path: Path, name: str) -> None:
    work = tmp_path / "work"
    with pytest.raises(Killed):
        train(work, "ga", kill_at=3)
    (work / "checkpoint-2" / name).write_bytes(b"[1")
    with pytest.raises(
        EditError, match=rf"the checkpoint .*\[{work / 'checkpoint-2' / name}\]: delete {work / 'checkpoint-2'}$"
    ):
        train(work, "ga")
