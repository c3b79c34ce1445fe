"""The methods that train: each is a file of the target, a view of its rows, a loss and settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from torch import Tensor

from formless.data.target import Target
from formless.errors import EditError
from formless.methods import losses
from formless.methods.adapter import AdapterEdit, edit_info, layer_report
from formless.methods.hyperparameters import TrainingConfig
from formless.methods.lora import lora_config
from formless.methods.trainer import Batch, Objective, train
from formless.methods.views import View, answered, plain_text, preferred, read_examples
from formless.models.lm import LM


class GradientAscentConfig(TrainingConfig):
    """Settings of GA; the defaults are the paper's for Llama-3-8B."""

    learning_rate: float = Field(default=2e-5, gt=0, le=1)


class NegativePreferenceConfig(TrainingConfig):
    """Settings of NPO; the defaults are the paper's for Llama-3-8B.

    Args:
        beta: Usually 0.01 to 0.1; towards 0 it is gradient ascent.
    """

    learning_rate: float = Field(default=5e-5, gt=0, le=1)
    beta: float = Field(default=0.0275, gt=0)


class RefusalConfig(TrainingConfig):
    """Settings of RT; the defaults are the paper's for Llama-3-8B."""

    learning_rate: float = Field(default=5e-5, gt=0, le=1)
    accumulation: int = Field(default=1, ge=1)


class CounterfactualConfig(TrainingConfig):
    """Settings of CFT; the defaults are the published ones for Llama-3-8B."""

    learning_rate: float = Field(default=3e-5, gt=0, le=1)
    accumulation: int = Field(default=1, ge=1)


class DirectPreferenceConfig(TrainingConfig):
    """Settings of DPO; the defaults are those published for Llama-3-8B and refusals, or chosen after them for pairs.

    Args:
        beta: Usually 0.1 to 0.5.
    """

    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    batch: int = Field(default=4, ge=1)
    beta: float = Field(default=0.1, gt=0)


@dataclass(frozen=True)
class Recipe:
    """What makes a training method.

    Args:
        name: As in the registry.
        split: The file of the target that it trains on.
        view: What a row gives.
        loss: From a batch and the settings to a scalar.
        has_reference: Whether the loss compares with the model before training.
    """

    name: str
    split: str
    view: View
    loss: Callable[[Batch, Any], Tensor]
    has_reference: bool = False

    def __call__(self, config: TrainingConfig) -> Training:
        """The method with its settings."""
        return Training(self, config)


@dataclass(frozen=True)
class Training:
    """A recipe with its settings."""

    recipe: Recipe
    config: TrainingConfig

    def unlearn(self, lm: LM, target: Target) -> AdapterEdit:
        """Train an adapter on the target's file; the model itself stays as it is.

        Raises:
            DataError: The file is missing, broken or empty, or a row leaves nothing to learn.
            UserError: The model's layers have no such projections.
            EditError: The model has an edit on it, or the training fails (see `trainer.train`).
        """
        start = time.perf_counter()
        recipe, config = self.recipe, self.config
        if lm.edits or not lm.overlay.is_empty:
            raise EditError("the model has an edit on it", where=lm.name, remedy="leave its applied() block first")
        found = read_examples(lm, target, recipe.split, recipe.view, rows=config.rows, cutoff=config.cutoff, seed=config.seed)
        objective = Objective(lambda batch: recipe.loss(batch, config), recipe.has_reference)
        trained = train(lm, found.examples, objective, config)
        reports = [layer_report(lm, name, factors) for name, factors in trained.updates.items()]
        adapter = lora_config(lm, modules=config.modules, rank=config.rank, alpha=config.rank)  # the scale is in the factors
        adapter.inference_mode = True
        info = edit_info(
            lm, recipe.name, target.subject, config, time.perf_counter() - start, layers=reports,
            facts=found.facts | trained.facts, seed=config.seed,
        )  # fmt: skip
        return AdapterEdit(trained.updates, adapter, info)


def _ascent(batch: Batch, _config: TrainingConfig) -> Tensor:
    return losses.gradient_ascent(batch.log_probabilities, batch.labels)


def _descent(batch: Batch, _config: TrainingConfig) -> Tensor:
    return losses.cross_entropy(batch.log_probabilities, batch.labels)


def _negative(batch: Batch, config: NegativePreferenceConfig) -> Tensor:
    return losses.negative_preference(losses.summed(batch.log_probabilities), losses.summed(_reference(batch)), config.beta)


def _direct(batch: Batch, config: DirectPreferenceConfig) -> Tensor:
    policy, reference = (losses.summed(found).view(2, -1) for found in (batch.log_probabilities, _reference(batch)))
    return losses.direct_preference(policy, reference, config.beta)


def _reference(batch: Batch) -> Tensor:
    if batch.reference is None:
        raise TypeError("the objective has no reference")
    return batch.reference


GA = Recipe("ga", "positive", plain_text, _ascent)
GA_PASSAGE = Recipe("ga_passage", "passage", plain_text, _ascent)
NPO = Recipe("npo", "positive", plain_text, _negative, has_reference=True)
RT = Recipe("rt", "reject", answered, _descent)
CFT = Recipe("cft", "counterfact", answered, _descent)
DPO = Recipe("dpo", "pair", preferred, _direct, has_reference=True)
DPO_REJECT = Recipe("dpo_reject", "pair_reject", preferred, _direct, has_reference=True)
