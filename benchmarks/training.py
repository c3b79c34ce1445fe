"""LoRA training of GA, NPO and RT, beside padding to max_length, logits everywhere and a reference pass at every step.

The limit counts a pass forward and one back through the frozen weights, with the head where labels are.

Four rows stand for a file, those in the middle of its quarters by length, and make one batch, so that both ways see the same
batches. RT trains on questions with an answer of one sentence, the other two on biographies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from benchmarks.edit import relative
from benchmarks.evaluation import real_target
from benchmarks.limit import find_limit, needed
from benchmarks.models import first_model, label, other_models
from benchmarks.plain_training import Loss, plain_training
from benchmarks.timing import Row, Times, check, in_turns, largest_difference, repeated
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
    TokenizedText,
    load_training_set,
    preprocess_instruction,
    preprocess_text,
)
from formless.methods.training.trainer import TrainingResult, train
from formless.models.lm import LM
from formless.models.overlay import Factors

ROWS, ROUNDS, CLOSE, BETA, GOAL = 4, 2, 1e-3, 0.0275, 0.6


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
    lm, target = first_model(), real_target()
    found = [_row(lm, target, method, quick, beside=True) for method in METHODS]
    for other in () if quick else other_models():
        # NPO's five steps of the larger model take many minutes, and are those of GA.
        chosen = METHODS if other.name == lm.name else [method for method in METHODS if method.name != "NPO"]
        found += [_row(other, target, method, quick, beside=False) for method in chosen]
    return found


def typical(examples: Sequence[Example]) -> list[Example]:
    """The rows in the middle of each quarter by length."""
    ordered = sorted(examples, key=lambda example: len(example[0].ids))
    return [ordered[(2 * part + 1) * len(ordered) // (2 * ROWS)] for part in range(ROWS)]


def _row(lm: LM, target: Target, method: Method, quick: bool, *, beside: bool) -> Row:
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

    if beside:
        trained, (updates, curve) = ours(), plain()
        apart = largest_difference(trained.curves.losses, curve)
        factors = {name: found for name, found in trained.updates.items() if isinstance(found, Factors)}
        error = max(relative(found.dense(), updates[name].dense()) for name, found in factors.items())
        check(apart < CLOSE and error < CLOSE, f"the losses differ by {apart:.1e}, the adapters by {error:.1e} of their norm")
    rounds = 1 if quick else ROUNDS
    steps = [
        Times(tuple(seconds / epochs for seconds in found.seconds))
        for found in (in_turns(ours, plain, rounds=rounds) if beside else [repeated(ours, rounds=rounds)])
    ]
    tokens = sum(len(text.ids) for text in texts)
    return Row(
        f"a LoRA training step, {method.name}", steps[0], steps[1] if beside else None, 1.5 if beside else None,
        f"losses differ by {apart:.0e}" if beside else "", f"{ROWS} rows of {tokens} tokens, {epochs} epochs; {method.limit}",
        label(lm), limit(lm, texts, method, epochs), GOAL,
    )  # fmt: skip


def limit(lm: LM, texts: Sequence[TokenizedText], method: Method, epochs: int) -> float:
    """Seconds that a step needs at least: forward, back, and its share of the reference pass."""
    places = [(text.ids[:-1], next(i for i, label in enumerate(text.labels) if label != IGNORED) - 1) for text in texts]
    passes = 2 + (1 / epochs if method.ours.needs_reference else 0)
    return find_limit(lm).seconds(needed((ids, max(first, 0)) for ids, first in places), passes=passes)
