"""`TrainingSpec`: everything that distinguishes one training method from another. No torch is imported here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from formless.methods.base import Method, MethodEntry, ResumableMethod
from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

    from formless.methods.training.collator import Batch
    from formless.models.lm import LM

LossInput = Literal["log_probabilities", "logits", "activations"]


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(MethodEntry):
    """The registry entry of a training method.

    Args:
        config: Class of its settings.
        trains_on: The file of the target that it trains on, without ".json".
        preprocess: Function from a row of that file to tokens with labels.
        loss: Function from a batch and the settings to a scalar.
        loss_input: What the loss is computed from: log-probabilities of labels `[texts, tokens]`, logits
            `[texts, tokens, vocab]`, or activations of a layer `[texts, seq, width]`.
        needs_reference: Whether the loss compares with the model before training.
        prepare: Function that fills in settings which depend on the model.
        scale: Function from the settings to a factor on the learned update.
    """

    config: type[TrainingConfig]
    trains_on: str
    preprocess: Preprocess
    loss: Callable[[Batch, Any], Tensor]
    loss_input: LossInput = "log_probabilities"
    needs_reference: bool = False
    prepare: Callable[[LM, Any], Any] | None = None
    scale: Callable[[Any], float] | None = None
    build: Callable[[Any], Method] = field(init=False, repr=False, compare=False)
    resumable: bool = field(default=True, init=False)
    reports_progress: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        """Build the method that follows this spec."""
        object.__setattr__(self, "build", self._training_method)

    def _training_method(self, config: TrainingConfig) -> ResumableMethod:
        from formless.methods.training.method import TrainingMethod

        return TrainingMethod(self, config)


def default_layer(lm: LM) -> int:
    """Return the layer whose activations are compared by default, a quarter of the way up: 7 of 32, as RMU."""
    return max(0, lm.architecture.depth(lm.model) // 4 - 1)
