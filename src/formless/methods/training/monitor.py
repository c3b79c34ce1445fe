"""Watches a training: stops one that fails, and keeps its curves."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState

from formless import store
from formless.errors import EditError
from formless.methods.training.collator import Forward, Objective, collate
from formless.methods.training.losses import IGNORED
from formless.methods.training.preprocessing import Text
from formless.models.lm import LM

EXPLODED, GROWN = 1e4, 100
MOST_LOSSES, MOST_READINGS = 100, 50
CURVES = "curves.json"


@dataclass(frozen=True)
class Monitor:
    """Texts whose probability is read while a model trains; none of them is trained on.

    Args:
        forget: About what is to be forgotten.
        retain: About what is to be kept.
    """

    forget: tuple[Text, ...]
    retain: tuple[Text, ...]

    def read(self, lm: LM) -> tuple[float | None, float | None]:
        """exp(mean log-probability of a token), mean over texts: of what is forgotten and of what is kept."""
        texts = [*self.forget, *self.retain]
        if not texts:
            return None, None
        forward = Forward(lm, Objective(lambda batch: batch.policy.sum()), collate(lm, texts))
        with torch.no_grad():
            found = forward.read(lm.model).sum(1).tolist()  # [texts]
        counts = [sum(label != IGNORED for label in text.labels[1:]) for text in texts]
        means = [math.exp(total / count) for total, count in zip(found, counts, strict=True)]
        return _mean(means[: len(self.forget)]), _mean(means[len(self.forget) :])


def _mean(numbers: list[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


@dataclass
class Curves:
    """What a training showed.

    Args:
        losses: Mean loss of every step.
        readings: After how many steps, with the probability of what is forgotten and of what is kept.
        seconds: What the stretches before a kill took, up to the checkpoint from which the training went on.
    """

    losses: list[float]
    readings: list[tuple[int, float | None, float | None]]
    seconds: float = 0.0

    @property
    def facts(self) -> dict[str, Any]:
        """What edit.json says about it; of many losses, evenly spread ones."""
        count = len(self.losses)
        shown = min(count, MOST_LOSSES)
        places = [i * (count - 1) // max(shown - 1, 1) for i in range(shown)]
        curve = {
            name: [reading[i] for reading in self.readings]
            for i, name in enumerate(("step", "forget", "retain"))
            if any(reading[i] is not None for reading in self.readings)
        }
        return {
            "steps": count, "first_loss": self.losses[0], "last_loss": self.losses[-1],
            "losses": [self.losses[place] for place in places], "probabilities": curve,
        }  # fmt: skip


class Watch(TrainerCallback):
    """Keeps the curves, also over a kill, and stops a training that fails.

    Args:
        lm: The model.
        monitor: What to read.
    """

    def __init__(self, lm: LM, monitor: Monitor | None) -> None:
        self.curves = Curves([], [])
        self._lm, self._monitor = lm, monitor
        self._batches: list[float] = []
        self._begun = time.perf_counter()

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint's curves."""
        self.curves = Curves(**json.loads((checkpoint / CURVES).read_text("utf-8")))

    def add(self, loss: float) -> None:
        """One more batch.

        Raises:
            EditError: The loss is NaN, infinite or has exploded.
        """
        first = self.curves.losses[0] if self.curves.losses else loss
        if not math.isfinite(loss) or abs(loss) > max(EXPLODED, GROWN * abs(first)):
            what = f"the loss is {loss:.3g} at step {len(self.curves.losses) + 1}"
            remedy = "lower the learning rate, or check the data and the model's weights"
            raise EditError(what, where=self._lm.name, remedy=remedy)
        self._batches.append(loss)

    def on_train_begin(self, *now: Any, **_: Any) -> None:
        """Read the monitor before the first step."""
        state: TrainerState = now[1]
        if not state.global_step:
            self._read(0)

    def on_pre_optimizer_step(self, *_: Any, **now: Any) -> None:
        """Look for a gradient before the first step."""
        if self.curves.losses:
            return
        gradients = [parameter.grad for parameter in now["model"].parameters() if parameter.requires_grad]
        if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            remedy = "choose other modules, or check the data"
            raise EditError("no gradient reaches the trained weights", where=self._lm.name, remedy=remedy)

    def on_step_end(self, *now: Any, **_: Any) -> None:
        """The mean of a step's batches, and a reading of the monitor."""
        self.curves.losses.append(sum(self._batches) / len(self._batches))
        self._batches = []
        state: TrainerState = now[1]
        step = state.global_step
        if step == state.max_steps or step % math.ceil(state.max_steps / MOST_READINGS) == 0:
            self._read(step)

    def on_save(self, *now: Any, **_: Any) -> None:
        """Put the curves beside a checkpoint; they come last, so a checkpoint with curves is whole."""
        arguments, state = now[:2]
        checkpoint = Path(str(arguments.output_dir)) / f"checkpoint-{state.global_step}"
        store.sync_folder(checkpoint)
        seconds = self.curves.seconds + time.perf_counter() - self._begun
        store.write_text(checkpoint / CURVES, json.dumps(vars(self.curves) | {"seconds": seconds}))

    def _read(self, step: int) -> None:
        if self._monitor:
            self.curves.readings.append((step, *self._monitor.read(self._lm)))
