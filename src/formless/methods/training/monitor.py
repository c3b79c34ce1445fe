"""Monitoring of a training run: its curves, and a callback that stops it when it fails."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState

from formless import store
from formless.errors import EditError
from formless.methods.training.collator import ForwardPass, Objective, pad_texts
from formless.methods.training.losses import IGNORED
from formless.methods.training.preprocessing import TokenizedText
from formless.methods.training.weights import Weights
from formless.models.lm import LM
from formless.models.overlay import Updates
from formless.progress import Progress

# A loss beyond both, absolutely and over the first loss, has exploded.
EXPLODED, GROWN = 1e4, 100
MAX_LOSSES, MAX_MEASUREMENTS = 100, 50


@dataclass(frozen=True)
class MonitoredTexts:
    """Texts whose probability is measured during training; none but those of a question set is trained on.

    Args:
        forget: Texts about the target.
        retain: Texts about other concepts.
    """

    forget: tuple[TokenizedText, ...]
    retain: tuple[TokenizedText, ...]

    def probabilities(self, lm: LM) -> tuple[float | None, float | None]:
        """Compute exp(mean log-probability of a token), mean over the forget texts and over the retain texts."""
        texts = [*self.forget, *self.retain]
        if not texts:
            return None, None
        forward = ForwardPass(lm, Objective(lambda batch: batch.policy.sum()), pad_texts(lm, texts))
        with torch.no_grad():
            found = forward.run(lm.model).sum(1).tolist()  # [texts]
        counts = [sum(label != IGNORED for label in text.labels[1:]) for text in texts]
        means = [math.exp(total / count) for total, count in zip(found, counts, strict=True)]
        return _mean(means[: len(self.forget)]), _mean(means[len(self.forget) :])


def _mean(numbers: list[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


@dataclass
class TrainingCurves:
    """Losses and probabilities during a training run.

    Args:
        losses: Mean loss of every step.
        probabilities: Number of steps, and the probabilities of forget and retain texts after them.
        seconds: Time before the checkpoint from which the training run was resumed.
    """

    losses: list[float]
    probabilities: list[tuple[int, float | None, float | None]]
    seconds: float = 0.0

    @property
    def facts(self) -> dict[str, Any]:
        """What edit.json says about them; of many losses, evenly spaced ones."""
        count = len(self.losses)
        shown = min(count, MAX_LOSSES)
        places = [i * (count - 1) // max(shown - 1, 1) for i in range(shown)]
        curve = {
            name: [row[i] for row in self.probabilities]
            for i, name in enumerate(("step", "forget", "retain"))
            if any(row[i] is not None for row in self.probabilities)
        }
        return {
            "steps": count, "first_loss": self.losses[0], "last_loss": self.losses[-1],
            "losses": [self.losses[place] for place in places], "probabilities": curve,
        }  # fmt: skip


class MonitorCallback(TrainerCallback):
    """Records the curves, also across a kill, and stops a training run that fails.

    Args:
        lm: The model.
        texts: The texts whose probability is measured.
        report: Progress callback, called after every step.
    """

    def __init__(self, lm: LM, texts: MonitoredTexts | None, report: Progress | None = None) -> None:
        self.curves = TrainingCurves([], [])
        self._lm, self._texts, self._report = lm, texts, report
        self._batches: list[float] = []
        self._begun = time.perf_counter()

    def resume(self, checkpoint: Path) -> None:
        """Continue the curves of a checkpoint, whose files must be those that were saved.

        Raises:
            EditError: A file is missing or has changed, or the curves cannot be read.
        """
        path, remedy = store.CheckpointsFolder.curves(checkpoint), f"delete {checkpoint}"
        try:
            content = store.read_document(path, 1)
            files: dict[str, str] = content.pop("files")
            self.curves = TrainingCurves(**content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EditError(f"the checkpoint cannot be read: {error}", where=path, remedy=remedy) from error
        for name, saved in files.items():
            if not (checkpoint / name).is_file() or store.file_sha256(checkpoint / name) != saved:
                what = "the checkpoint is damaged: a file is not what was saved"
                raise EditError(what, where=checkpoint / name, remedy=remedy)

    def add_loss(self, loss: float) -> None:
        """Record the loss of one batch.

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
        """Measure the probabilities before the first step."""
        state: TrainerState = now[1]
        if not state.global_step:
            self._measure(0)

    def on_pre_optimizer_step(self, *_: Any, **now: Any) -> None:
        """Check before the first step that a gradient reaches the weights."""
        if self.curves.losses:
            return
        gradients = [parameter.grad for parameter in now["model"].parameters() if parameter.requires_grad]
        if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            remedy = "choose other target_modules, or check the data"
            raise EditError("no gradient reaches the trained weights", where=self._lm.name, remedy=remedy)

    def on_step_end(self, *now: Any, **_: Any) -> None:
        """Record the mean loss of a step's batches, and measure the probabilities."""
        self.curves.losses.append(sum(self._batches) / len(self._batches))
        self._batches = []
        state: TrainerState = now[1]
        step = state.global_step
        if step == state.max_steps or step % math.ceil(state.max_steps / MAX_MEASUREMENTS) == 0:
            self._measure(step)
        if self._report:
            self._report("training", step, state.max_steps)

    def on_save(self, *now: Any, **_: Any) -> None:
        """Write the curves into a checkpoint, with the hashes of its files; they come last: with curves, it is complete."""
        arguments, state = now[:2]
        checkpoint = store.CheckpointsFolder(Path(str(arguments.output_dir))).checkpoint(state.global_step)
        with store.output_errors(checkpoint):
            store.sync_folder(checkpoint)
        seconds = self.curves.seconds + time.perf_counter() - self._begun
        files = {path.name: store.file_sha256(path) for path in sorted(checkpoint.iterdir()) if path.is_file()}
        content = vars(self.curves) | {"seconds": seconds, "files": files}
        store.write_document(store.CheckpointsFolder.curves(checkpoint), content)

    def _measure(self, step: int) -> None:
        if self._texts:
            self.curves.probabilities.append((step, *self._texts.probabilities(self._lm)))


class SnapshotCallback(TrainerCallback):
    """Keeps what has been learned after some steps.

    Args:
        weights: The weights in training.
        steps: The steps.
    """

    def __init__(self, weights: Weights, steps: Collection[int]) -> None:
        self.found: dict[int, Updates] = {}
        self._weights, self._steps = weights, frozenset(steps)

    def on_step_end(self, *now: Any, **_: Any) -> None:
        """Copy the updates if the step is one of those."""
        state: TrainerState = now[1]
        if state.global_step in self._steps:
            self.found[state.global_step] = self._weights.updates()
