"""Relearning: the edited model is fine-tuned on a few of the concept's facts, or on related text, and the others are measured.

What was hidden rather than removed comes back when something near it is trained (arXiv 2406.13356). Facts that the texts hold
are excluded from what is measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from formless.experiment.attacks.attack import Attack, AttackSettings, Case, Point
from formless.experiment.attacks.texts import AttackTexts, fact_texts, related_texts

if TYPE_CHECKING:
    from formless.edits.edit import Edit
    from formless.methods.training.trainer import TrainingResult
    from formless.models.lm import LM
    from formless.progress import Progress

MAX_LENGTH: Final = 512
"""The most tokens of a text."""

PROTOCOLS: Final[Mapping[str, AttackSettings]] = {
    "one_epoch": AttackSettings(protocol="one_epoch", learning_rate=2e-5, num_train_epochs=1, per_device_train_batch_size=32),
    "two_epochs": AttackSettings(protocol="two_epochs", learning_rate=1e-5, num_train_epochs=2, per_device_train_batch_size=1),
}
"""Settings by name. The first has the learning rate and the epoch of OpenUnlearning's relearning test (arXiv 2506.12618), which
trains on everything that was forgotten; the second is ours."""


def relearning(name: str, title: str, facts: int | None) -> Attack:
    """Return an attack that trains on a number of the concept's facts, or on text about its neighbors (None)."""

    def chosen_texts(case: Case, seed: int) -> AttackTexts:
        if facts is None:
            return related_texts(case.target, seed)
        return fact_texts(case.target, case.original, facts, seed)

    def points(case: Case, settings: AttackSettings) -> tuple[Point, ...]:
        found = chosen_texts(case, settings.seed)
        own = settings.model_dump(mode="json", exclude={"points"})
        config = own | {"facts": facts, "texts": len(found.texts), "texts_digest": found.digest}
        return tuple(
            Point(f"{name}.{settings.slug}.step_{step}", config | {"step": step}, found.excluded, number, step)
            for step, number in curve_steps(len(found.texts), settings).items()
        )

    def states(
        lm: LM, case: Case, edit: Edit | None, wanted: Sequence[Point], settings: AttackSettings, progress: Progress
    ) -> Generator[Point, None, None]:
        start, found = time.perf_counter(), chosen_texts(case, settings.seed)
        with edit.applied(lm) if edit else nullcontext():
            result = fine_tune(lm, found, settings, {point.step for point in wanted if point.step}, progress)
            seconds, losses = time.perf_counter() - start, result.curves.losses
            measured = {"trained_facts": list(found.trained), "first_loss": losses[0], "last_loss": losses[-1]}
            for point in wanted:
                updates = result.snapshots[point.step or 0]
                with lm.overlaid(updates, attack.entry(lm, case, point, measured, seconds)):
                    yield point

    attack = Attack(name, "relearning", title, points, states)
    return attack


def curve_steps(texts: int, settings: AttackSettings) -> dict[int, int]:
    """Return the steps after which the model is evaluated, each with its number among the points of the curve.

    They are evenly spaced and end with the last step; of several points at one step, the last one counts.
    """
    total = math.ceil(texts / settings.per_device_train_batch_size) * settings.num_train_epochs
    return {math.ceil(number * total / settings.points): number for number in range(1, settings.points + 1)}


def fine_tune(
    lm: LM, texts: AttackTexts, settings: AttackSettings, steps: Collection[int], progress: Progress
) -> TrainingResult:
    """Fine-tune a model as it is, with its edit, on texts; afterwards it is as before, and the result holds the updates.

    A statement is learned whole, of a question the answer alone. Weight decay is 0 and gradients are clipped to the norm 1.

    Args:
        lm: The model with the edit.
        texts: The texts.
        settings: How it is trained.
        steps: The steps whose updates are wanted.
        progress: Called after every step.

    Raises:
        EditError: The training run fails (see `trainer.train`).
    """
    from formless.methods.training import losses
    from formless.methods.training.collator import Objective
    from formless.methods.training.config import TrainingConfig
    from formless.methods.training.preprocessing import tokenize_answer, tokenize_text
    from formless.methods.training.trainer import train

    config = TrainingConfig(
        learning_rate=settings.learning_rate, num_train_epochs=settings.num_train_epochs,
        per_device_train_batch_size=settings.per_device_train_batch_size, gradient_accumulation_steps=1, warmup_steps=0,
        full=not settings.lora, seed=settings.seed,
    )  # fmt: skip
    length = min(MAX_LENGTH, lm.context_length)
    examples = [
        (tokenize_answer(lm, text.prompt, text.text, length) if text.prompt else tokenize_text(lm, text.text, length),)
        for text in texts.texts
    ]
    objective = Objective(lambda batch: losses.cross_entropy(batch.policy, batch.labels))
    return train(lm, examples, objective, config, snapshots_after=steps, report=progress)
