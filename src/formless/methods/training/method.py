"""`TrainingMethod`: a training spec with its settings, from the target's file to the edit."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from formless.data.retain import (
    RETAIN_QUESTIONS,
    RetainSet,
    half_of_the_neighbors,
    introductions,
    retain_questions,
    texts_of_others,
)
from formless.data.rows import QuestionAnswer
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit
from formless.edits.difference import DifferenceEdit
from formless.edits.edit import Edit, EditInfo, edit_info, layer_report, refuse_applied_edits
from formless.errors import UserError
from formless.methods.training import losses
from formless.methods.training.collator import Batch, Objective
from formless.methods.training.config import TrainingConfig
from formless.methods.training.lora import lora_config
from formless.methods.training.monitor import MonitoredTexts
from formless.methods.training.preprocessing import Example, TrainingSet, load_training_set, tokenize_answer, tokenize_text
from formless.methods.training.spec import QUESTIONS, LossInput, TrainingSpec, default_layer
from formless.methods.training.trainer import Checkpoints, RetainLoss, train
from formless.models.lm import LM
from formless.models.overlay import Difference, Factors, Updates
from formless.progress import Progress

MONITORED_TOKENS, MONITORED_OTHERS = 64, 2
CHECKPOINT_STEPS = 50

RETAIN_LOSSES: dict[str, tuple[LossInput, Callable[[Batch], Tensor]]] = {
    "ce": ("log_probabilities", lambda batch: losses.cross_entropy(batch.policy, batch.labels)),
    "kl": ("logits", lambda batch: losses.kl_divergence(batch.policy, batch.reference, batch.labels)),
    "activations": ("activations", lambda batch: losses.squared_distance(batch.policy, batch.reference, batch.mask)),
}
"""By the setting `retain`: what the loss is computed from, and the loss."""


@dataclass(frozen=True)
class TrainingMethod:
    """A training method with its settings.

    Args:
        spec: What distinguishes the method.
        config: The settings.
        work: Folder for checkpoints, from which a killed training run continues; None for no checkpoints.
        save_steps: Steps between two checkpoints.
        report: Progress callback; None for none.
    """

    spec: TrainingSpec
    config: TrainingConfig
    work: Path | None = None
    save_steps: int = CHECKPOINT_STEPS
    report: Progress | None = None

    def resumable(self, folder: Path) -> TrainingMethod:
        """Return the same method with checkpoints in a folder, from which it continues after a kill.

        The caller removes the folder once the edit is saved.
        """
        return replace(self, work=folder)

    def reporting(self, report: Progress) -> TrainingMethod:
        """Return the same method, which reports its steps."""
        return replace(self, report=report)

    def unlearn(self, lm: LM, target: Target) -> Edit:
        """Train on the target's file, or on the questions of a question set; the model itself stays as it is.

        Raises:
            DataError: A file is missing, broken or empty, a row has nothing to learn, or the retain set is empty.
            UserError: The model's layers have no such projections, or there is no such layer.
            EditError: The model has an edit on it, or the training run fails (see `trainer.train`).
        """
        start = time.perf_counter()
        spec, config = self.spec, self._prepared(lm)
        refuse_applied_edits(lm)
        file = spec.file_for(target, config.trains_on)
        preprocess = spec.preprocess
        if spec.on_questions and file == QUESTIONS:
            preprocess = partial(spec.on_questions, seed=config.seed)
        training_set = load_training_set(
            lm, target, file, preprocess,
            max_rows=config.max_rows, max_length=config.max_length, seed=config.seed,
        )  # fmt: skip
        examples = training_set.examples
        # Of a question set, each epoch takes other retain questions, as its benchmarks do.
        wanted = len(examples) * (config.num_train_epochs if config.retains_questions(target) else 1)
        retain_set = _retain_set(target, config, wanted)
        objective = Objective(
            lambda batch: spec.loss(batch, config), spec.loss_input, spec.needs_reference, layer=config.layer or 0
        )
        result = train(
            lm, examples, objective, config,
            retain_loss=_retain_loss(lm, retain_set, config, len(examples), wanted),
            # What is subtracted has no curves.
            monitored=None if spec.scale else _monitored_texts(lm, target, config.max_length, examples, retain_set),
            checkpoints=self._checkpoints(lm, training_set, target, retain_set), report=self.report,
        )  # fmt: skip
        updates = _scaled(result.updates, spec.scale(config) if spec.scale else 1.0)
        facts = training_set.facts | result.curves.facts | ({"retain_set": retain_set.source} if retain_set else {})
        reports = [layer_report(lm, name, change) for name, change in updates.items()]
        seconds = time.perf_counter() - start + result.curves.seconds
        info = edit_info(
            lm, spec.name, target.subject, config, seconds, layers=reports, facts=facts, seed=config.seed,
            trained_neighbors=retain_set.neighbors if retain_set else (),
        )  # fmt: skip
        return _edit(lm, config, updates, info)

    def _prepared(self, lm: LM) -> TrainingConfig:
        """Fill in the settings that depend on the model."""
        config: TrainingConfig = self.spec.prepare(lm, self.config) if self.spec.prepare else self.config
        if config.layer is None and config.retain == "activations":
            config = config.model_copy(update={"layer": default_layer(lm)})
        config.check_model(lm)
        return config

    def _checkpoints(
        self, lm: LM, training_set: TrainingSet, target: Target, retain_set: RetainSet | None
    ) -> Checkpoints | None:
        if self.work is None:
            return None
        settings = self.config.model_dump(mode="json")
        identity = [self.spec.name, target.subject, settings, training_set.digest, lm.fingerprint]
        digest = hashlib.sha256(json.dumps([*identity, str(lm.model.dtype), repr(retain_set)]).encode()).hexdigest()
        return Checkpoints(self.work, self.save_steps, digest)


def _retain_set(target: Target, config: TrainingConfig, count: int) -> RetainSet | None:
    if config.retain == "none":
        return None
    if config.retains_questions(target):
        return retain_questions(target, count, config.seed)
    if config.retain_rows == "neighbors":
        return half_of_the_neighbors(target, config.seed)
    return texts_of_others(target, count, config.seed)


def _retain_loss(lm: LM, retain_set: RetainSet | None, config: TrainingConfig, count: int, wanted: int) -> RetainLoss | None:
    """Tokenize at least one retain text for each training row, and at most those wanted; fewer texts are repeated in turn."""
    if retain_set is None:
        return None
    max_length = min(config.max_length, lm.context_length)
    texts = [tokenize_text(lm, text, max_length) for text in retain_set.texts]
    texts += [tokenize_answer(lm, question, answer, max_length) for question, answer in retain_set.questions]
    texts = [text for text in texts if text.is_learnable]
    if not texts:
        what = f"the retain set has nothing to learn within {max_length} tokens"
        raise UserError(what, where="max_length", remedy="raise max_length")
    loss_input, loss = RETAIN_LOSSES[config.retain]
    objective = Objective(loss, loss_input, config.retain != "ce", layer=config.layer or 0)
    shown = [texts[i % len(texts)] for i in range(max(count, min(wanted, len(texts))))]
    return RetainLoss(shown, objective, config.retain_weight)


def _monitored_texts(
    lm: LM, target: Target, max_length: int, examples: list[Example], retain_set: RetainSet | None
) -> MonitoredTexts:
    """Take introductions of the target and of others; without one of the target, the first training text.

    Of a question set, take the first question to forget and the first ones to retain, with their answers.
    """
    if target.has(QUESTIONS):
        asked = [target.rows(file, QuestionAnswer) if target.has(file) else () for file in (QUESTIONS, RETAIN_QUESTIONS)]
        length = min(max_length, lm.context_length)
        own, others = (
            tuple(tokenize_answer(lm, row.question, row.answer, length) for row in rows[:most])
            for rows, most in zip(asked, (1, MONITORED_OTHERS), strict=True)
        )
        return MonitoredTexts(*(tuple(text for text in found if text.is_learnable) for found in (own, others)))
    forget, retain = introductions(target, MONITORED_OTHERS, retain_set.texts if retain_set else ())
    texts = tuple(tokenize_text(lm, text, MONITORED_TOKENS) for text in forget) or (examples[0][-1],)
    return MonitoredTexts(texts, tuple(tokenize_text(lm, text, MONITORED_TOKENS) for text in retain))


def _scaled(updates: Updates, scale: float) -> Updates:
    return {name: found.scaled(scale) for name, found in updates.items()}


def _edit(lm: LM, config: TrainingConfig, updates: Updates, info: EditInfo) -> Edit:
    if config.full:
        return DifferenceEdit({name: change for name, change in updates.items() if isinstance(change, Difference)}, info)
    # The scale is in the factors, so that lora_alpha equals r.
    adapter = lora_config(lm, target_modules=config.target_modules, r=config.r, lora_alpha=config.r, layers=config.layers)
    adapter.inference_mode = True
    return AdapterEdit({name: change for name, change in updates.items() if isinstance(change, Factors)}, info, adapter)
