"""LoRA training of GA, NPO and RT, beside padding to max_length, logits everywhere and a reference pass at every step.

Four rows stand for a file, those in the middle of its quarters by length, and make one batch, so that both ways see the same
batches. RT trains on questions with an answer of one sentence, the other two on biographies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

import formless
from benchmarks.edit import relative
from benchmarks.evaluation import real_target
from benchmarks.plain_training import Loss, plain_training
from benchmarks.timing import Row, Times, check, in_turns, largest_difference
from formless.data.target import Target
from formless.methods.training import losses
from formless.methods.training.ascent import gradient_ascent
from formless.methods.training.collator import Objective
from formless.methods.training.config import TrainingConfig
from formless.methods.training.losses import IGNORED
from formless.methods.training.preference import negative_preference
from formless.methods.training.preprocessing import (
    Example,
    Preprocess,
    load_training_set,
    preprocess_instruction,
    preprocess_text,
)
from formless.methods.training.trainer import TrainingResult, train
from formless.models.lm import LM
from formless.models.overlay import Factors

ROWS, ROUNDS, CLOSE, BETA = 4, 2, 1e-3, 0.0275


@dataclass(frozen=True)
class Method:
    """One of the methods that are timed.

    Args:
        name: Its name.
        file: The training file.
        preprocess: Function from a row to an example.
        epochs: Epochs of one step each, since all rows are one batch.
        ours: The objective.
        plain: The same loss, written plainly.
        limit: What bounds the ratio.
    """

    name: str
    file: str
    preprocess: Preprocess
    epochs: int
    ours: Objective
    plain: Loss
    limit: str


def _mean(found: Tensor, labels: Tensor, _before: Tensor | None) -> Tensor:
    return found.sum() / (labels != IGNORED).sum()


def _preference(found: Tensor, _labels: Tensor, before: Tensor | None) -> Tensor:
    gain = found.sum(1) - (0 if before is None else before.sum(1))
    return -2 / BETA * functional.logsigmoid(-BETA * gain).mean()


METHODS = (
    Method(
        "GA", "positive", preprocess_text, 2, Objective(lambda batch: gradient_ascent(batch.policy, batch.labels)), _mean,
        "every token is a label and most rows reach max_length: only padding is spared",
    ),
    Method(
        "NPO", "positive", preprocess_text, 5,
        Objective(
            lambda batch: negative_preference(
                losses.sequence_log_probabilities(batch.policy), losses.sequence_log_probabilities(batch.reference), BETA
            ),
            needs_reference=True,
        ),
        _preference, "as GA, and the reference scores once in five epochs",
    ),
    Method(
        "RT", "reject", preprocess_instruction, 2, Objective(lambda batch: losses.cross_entropy(batch.policy, batch.labels)),
        lambda *found: -_mean(*found), "rows are short beside max_length",
    ),
)  # fmt: skip


def rows(*, quick: bool = False) -> list[Row]:
    """Seconds of one step, with its share of the reference pass and of putting the adapter in and out."""
    lm, target = formless.load("smollm2", dtype="float32", device="cpu"), real_target()
    return [_row(lm, target, method, quick) for method in METHODS]


def typical(examples: Sequence[Example]) -> list[Example]:
    """The rows in the middle of each quarter by length."""
    ordered = sorted(examples, key=lambda example: len(example[0].ids))
    return [ordered[(2 * part + 1) * len(ordered) // (2 * ROWS)] for part in range(ROWS)]


def _row(lm: LM, target: Target, method: Method, quick: bool) -> Row:
    max_length, epochs = (96, 2) if quick else (512, method.epochs)
    config = TrainingConfig(
        learning_rate=1e-4,
        num_train_epochs=epochs,
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=1,
        warmup_steps=0,
        max_length=max_length,
    )
    examples = typical(
        load_training_set(lm, target, method.file, method.preprocess, max_rows=None, max_length=max_length, seed=0).examples
    )
    texts = [text for (text,) in examples]

    def ours() -> TrainingResult:
        return train(lm, examples, method.ours, config)

    def plain() -> tuple[dict[str, Factors], list[float]]:
        return plain_training(lm, texts, method.plain, config, needs_reference=method.ours.needs_reference)

    trained, (updates, curve) = ours(), plain()
    apart = largest_difference(trained.curves.losses, curve)
    factors = {name: found for name, found in trained.updates.items() if isinstance(found, Factors)}
    error = max(relative(found.dense(), updates[name].dense()) for name, found in factors.items())
    check(apart < CLOSE and error < CLOSE, f"the losses differ by {apart:.1e}, the adapters by {error:.1e} of their norm")
    times = [
        Times(tuple(seconds / epochs for seconds in found.seconds))
        for found in in_turns(ours, plain, rounds=1 if quick else ROUNDS)
    ]
    tokens = sum(len(text.ids) for text in texts)
    note = f"{ROWS} rows of {tokens} tokens, {epochs} epochs; {method.limit}"
    return Row(f"a LoRA training step, {method.name}", times[0], times[1], 1.5, f"losses differ by {apart:.0e}", note)
