"""LoRA training of GA, NPO and RT, beside padding to the cut-off, logits everywhere and a reference pass at every step.

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
from formless.methods.training.collator import Objective
from formless.methods.training.config import TrainingConfig
from formless.methods.training.losses import IGNORED
from formless.methods.training.preprocessing import Example, View, answered, plain_text, read_examples
from formless.methods.training.trainer import Trained, train
from formless.models.lm import LM
from formless.models.overlay import Factors

ROWS, ROUNDS, CLOSE, BETA = 4, 2, 1e-3, 0.0275


@dataclass(frozen=True)
class Method:
    """One of the methods that are timed.

    Args:
        name: Its name.
        split: The file.
        view: What a row gives.
        epochs: Steps, since all rows are one batch.
        ours: The objective.
        plain: The same loss, written plainly.
        limit: What bounds the ratio.
    """

    name: str
    split: str
    view: View
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
        "GA", "positive", plain_text, 2, Objective(lambda batch: losses.gradient_ascent(batch.policy, batch.labels)), _mean,
        "every token is a label and most rows reach the cut-off: only padding is spared",
    ),
    Method(
        "NPO", "positive", plain_text, 5,
        Objective(
            lambda batch: losses.negative_preference(losses.summed(batch.policy), losses.summed(batch.before), BETA),
            has_reference=True,
        ),
        _preference, "as GA, and the reference is read once in five epochs",
    ),
    Method(
        "RT", "reject", answered, 2, Objective(lambda batch: losses.cross_entropy(batch.policy, batch.labels)),
        lambda *found: -_mean(*found), "rows are short beside the cut-off",
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
    cutoff, epochs = (96, 2) if quick else (512, method.epochs)
    config = TrainingConfig(learning_rate=1e-4, epochs=epochs, batch=ROWS, accumulation=1, warmup_steps=0, cutoff=cutoff)
    examples = typical(read_examples(lm, target, method.split, method.view, rows=None, cutoff=cutoff, seed=0).examples)
    texts = [text for (text,) in examples]

    def ours() -> Trained:
        return train(lm, examples, method.ours, config)

    def plain() -> tuple[dict[str, Factors], list[float]]:
        return plain_training(lm, texts, method.plain, config, has_reference=method.ours.has_reference)

    trained, (updates, curve) = ours(), plain()
    apart = largest_difference(trained.curves.losses, curve)
    error = max(relative(found.dense(), updates[name].dense()) for name, found in trained.updates.items())
    check(apart < CLOSE and error < CLOSE, f"the losses differ by {apart:.1e}, the adapters by {error:.1e} of their norm")
    times = [
        Times(tuple(seconds / epochs for seconds in found.seconds))
        for found in in_turns(ours, plain, rounds=1 if quick else ROUNDS)
    ]
    tokens = sum(len(text.ids) for text in texts)
    note = f"{ROWS} rows of {tokens} tokens, {epochs} epochs; {method.limit}"
    return Row(f"a LoRA training step, {method.name}", times[0], times[1], 1.5, f"losses differ by {apart:.0e}", note)
