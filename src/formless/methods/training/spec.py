"""`Recipe`: all that makes a training method, and `Training`, which follows one."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from formless.data.retain import Kept, half_of_the_neighbors, introductions, texts_of_others
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit, edit_info, layer_report
from formless.edits.difference import DifferenceEdit
from formless.edits.edit import Edit, LayerReport
from formless.errors import EditError, UserError
from formless.methods.training import losses
from formless.methods.training.collator import Batch, Objective
from formless.methods.training.config import TrainingConfig
from formless.methods.training.lora import lora_config
from formless.methods.training.monitor import Monitor
from formless.methods.training.preprocessing import Example, TrainingSet, View, question, read_examples, sentence
from formless.methods.training.trainer import Checkpoints, Retention, train
from formless.models.lm import LM
from formless.models.overlay import Difference, Factors, Updates

MONITORED_TOKENS, MONITORED_OTHERS = 64, 2
CHECKPOINT_STEPS = 50

RETAIN_LOSSES: dict[str, Callable[[Batch], Tensor]] = {
    "ce": lambda batch: losses.cross_entropy(batch.policy, batch.labels),
    "kl": lambda batch: losses.divergence(batch.policy, batch.before, batch.labels),
    "activations": lambda batch: losses.squared_distance(batch.policy, batch.before, batch.mask),
}
RETAIN_READS: dict[str, Literal["tokens", "logits", "activations"]] = {
    "ce": "tokens", "kl": "logits", "activations": "activations",
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What makes a training method.

    Args:
        name: As users write it.
        about: One line.
        paper: Where it comes from.
        config: Its settings.
        split: The file of the target that it trains on.
        view: What a row gives.
        loss: From a batch and the settings to a scalar.
        reads: What the loss is of.
        has_reference: Whether the loss compares with the model before training.
        prepared: Fills in settings that depend on the model.
        strength: The settings' factor on what was learnt.
    """

    name: str
    about: str
    paper: str
    config: type[TrainingConfig]
    split: str
    view: View
    loss: Callable[[Batch, Any], Tensor]
    reads: Literal["tokens", "logits", "activations"] = "tokens"
    has_reference: bool = False
    prepared: Callable[[LM, Any], Any] | None = None
    strength: Callable[[Any], float] | None = None

    def __call__(self, config: TrainingConfig) -> Training:
        """The method with its settings."""
        return Training(self, config)


@dataclass(frozen=True)
class Training:
    """A recipe with its settings.

    Args:
        recipe: The recipe.
        config: The settings.
        work: A folder for checkpoints, if the training is to go on after a kill.
        every: Steps between two checkpoints.
    """

    recipe: Recipe
    config: TrainingConfig
    work: Path | None = None
    every: int = CHECKPOINT_STEPS

    def resumable(self, work: Path) -> Training:
        """The same, keeping checkpoints in a folder, from which it goes on after a kill; remove it once the edit is saved."""
        return replace(self, work=work)

    def unlearn(self, lm: LM, target: Target) -> Edit:
        """Train on the target's file; the model itself stays as it is.

        Raises:
            DataError: A file is missing, broken or empty, a row leaves nothing to learn, or there is nothing to retain.
            UserError: The model's layers have no such projections, or there is no such layer.
            EditError: The model has an edit on it, or the training fails (see `trainer.train`).
        """
        start = time.perf_counter()
        recipe, config = self.recipe, self._prepared(lm)
        if lm.edits or not lm.overlay.is_empty:
            raise EditError("the model has an edit on it", where=lm.name, remedy="leave its applied() block first")
        found = read_examples(lm, target, recipe.split, recipe.view, rows=config.rows, cutoff=config.cutoff, seed=config.seed)
        kept = _kept(target, config, len(found.examples))
        objective = Objective(
            lambda batch: recipe.loss(batch, config), recipe.reads, recipe.has_reference, layer=config.layer or 0
        )
        trained = train(
            lm, found.examples, objective, config,
            retention=_retention(lm, kept, config, len(found.examples)), monitor=_monitor(lm, target, found.examples, kept),
            checkpoints=self._checkpoints(lm, found, target, kept),
        )  # fmt: skip
        updates = _scaled(trained.updates, recipe.strength(config) if recipe.strength else 1.0)
        facts = found.facts | trained.curves.facts | ({"retained": kept.source} if kept else {})
        reports = [layer_report(lm, name, change) for name, change in updates.items()]
        seconds = time.perf_counter() - start + trained.curves.seconds
        return _edit(lm, recipe.name, target.subject, config, updates, reports, facts, seconds, kept)

    def _prepared(self, lm: LM) -> TrainingConfig:
        """The settings with those filled in that depend on the model."""
        config: TrainingConfig = self.recipe.prepared(lm, self.config) if self.recipe.prepared else self.config
        if config.layer is not None:
            lm.architecture.layer(lm.model, config.layer)
        elif config.retain == "activations":
            config = config.model_copy(update={"layer": early_layer(lm)})
        if config.full and (config.modules or config.layers):
            raise UserError("full training takes no modules or layers", where="full", remedy="leave them out")
        return config

    def _checkpoints(self, lm: LM, found: TrainingSet, target: Target, kept: Kept | None) -> Checkpoints | None:
        if self.work is None:
            return None
        identity = [self.recipe.name, target.subject, self.config.model_dump(mode="json"), found.digest, lm.fingerprint]
        digest = hashlib.sha256(json.dumps([*identity, str(lm.model.dtype), repr(kept)]).encode()).hexdigest()
        return Checkpoints(self.work, self.every, digest)


def early_layer(lm: LM) -> int:
    """The layer a quarter of the way up, where RMU acts: 7 of 32."""
    return max(0, lm.architecture.depth(lm.model) // 4 - 1)


def _kept(target: Target, config: TrainingConfig, count: int) -> Kept | None:
    if config.retain == "none":
        return None
    if config.retain_rows == "neighbors":
        return half_of_the_neighbors(target, config.seed)
    return texts_of_others(target, count, config.seed)


def _retention(lm: LM, kept: Kept | None, config: TrainingConfig, count: int) -> Retention | None:
    """One text for each row that is trained on; few texts are taken in turn."""
    if kept is None:
        return None
    cutoff = min(config.cutoff, lm.context_length)
    texts = [sentence(lm, text, cutoff) for text in kept.texts]
    texts += [question(lm, *asked, cutoff) for asked in kept.questions]
    texts = [text for text in texts if any(label != losses.IGNORED for label in text.labels[1:])]
    if not texts:
        raise UserError(f"nothing to retain is left within {cutoff} tokens", where="cutoff", remedy="raise the cut-off")
    has_reference = config.retain != "ce"
    objective = Objective(RETAIN_LOSSES[config.retain], RETAIN_READS[config.retain], has_reference, layer=config.layer or 0)
    return Retention([texts[i % len(texts)] for i in range(count)], objective, config.retain_weight)


def _monitor(lm: LM, target: Target, examples: list[Example], kept: Kept | None) -> Monitor:
    """Introductions of the target and of others; without one of the target, the first text that is trained on."""
    forget, retain = introductions(target, MONITORED_OTHERS, kept.texts if kept else ())
    texts = tuple(sentence(lm, text, MONITORED_TOKENS) for text in forget) or (examples[0][-1],)
    return Monitor(texts, tuple(sentence(lm, text, MONITORED_TOKENS) for text in retain))


def _scaled(updates: Updates, strength: float) -> Updates:
    if strength == 1:
        return updates
    return {
        name: Factors(strength * found.up, found.down) if isinstance(found, Factors) else Difference(strength * found.values)
        for name, found in updates.items()
    }


def _edit(
    lm: LM,
    method: str,
    subject: str,
    config: TrainingConfig,
    updates: Updates,
    layers: list[LayerReport],
    facts: dict[str, Any],
    seconds: float,
    kept: Kept | None,
) -> Edit:
    info = edit_info(lm, method, subject, config, seconds, layers=layers, facts=facts, seed=config.seed)
    info.trained_neighbors = kept.neighbors if kept else ()
    if config.full:
        return DifferenceEdit({name: change for name, change in updates.items() if isinstance(change, Difference)}, info)
    # The scale is in the factors.
    adapter = lora_config(lm, modules=config.modules, rank=config.rank, alpha=config.rank, layers=config.layers)
    adapter.inference_mode = True
    return AdapterEdit({name: change for name, change in updates.items() if isinstance(change, Factors)}, info, adapter)
