"""`TrainingSpec`: everything that distinguishes one training method from another. No torch is imported here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from formless.data.retain import check_retain_questions
from formless.data.rows import Passage
from formless.data.target import FILES, Target
from formless.errors import DataError
from formless.methods.base import Method, MethodConfig, MethodEntry, ResumableMethod
from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import Preprocess, PreprocessQuestion

if TYPE_CHECKING:
    from torch import Tensor

    from formless.methods.training.collator import Batch
    from formless.models.lm import LM

QUESTIONS = "forget_qa"
"""The file that every method can train on where the target is a question set."""

PASSAGES = "passage"

LossInput = Literal["log_probabilities", "logits", "activations"]


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(MethodEntry):
    """The registry entry of a training method.

    Args:
        config: Class of its settings.
        trains_on: The file of the target that it trains on, without ".json".
        preprocess: Function from a row of that file to tokens with labels.
        on_questions: Function from a question with its answer to the same, where the target is a question set without that
            file; None if the method cannot train on questions.
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
    on_questions: PreprocessQuestion | None = None
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

    def file_for(self, target: Target, choice: str = "auto") -> str:
        """Return the file that the method trains on: its own one; of a question set without it passages, else questions."""
        takes_passages = target.is_question_set and FILES[self.trains_on] is Passage
        texts = [file for file in (self.trains_on, *([PASSAGES] if takes_passages else [])) if target.has(file)]
        if self.on_questions and (choice == "questions" or (choice == "auto" and not texts and target.has(QUESTIONS))):
            return QUESTIONS
        return texts[0] if texts else self.trains_on

    def check_files(self, targets: Sequence[Target], config: MethodConfig) -> None:
        """Refuse question sets without the rows that the method trains on, and retains by default.

        Raises:
            DataError: Such rows are missing.
        """
        choice = getattr(config, "trains_on", "auto")
        for target in targets:
            file = self.file_for(target, choice)
            if choice == "questions" and file != QUESTIONS:
                what, remedy = f"{self.name} cannot train on questions", "leave trains_on out, or choose another method"
                raise DataError(what, where="setting trains_on", remedy=remedy)
            if not target.has(file) and (target.is_question_set or (choice == "questions" and target.folder)):
                known = [f"{self.trains_on}.json"] * (choice != "questions") + [f"{QUESTIONS}.json"] * (choice != "texts")
                what = f"{self.name} trains on {' or '.join(known)}, which the target lacks"
                remedy = "write questions with `formless data import`, or choose another method or target"
                raise DataError(what, where=target.folder, remedy=remedy)
            if isinstance(config, TrainingConfig) and config.retains_questions(target):
                check_retain_questions(target)

    def _training_method(self, config: TrainingConfig) -> ResumableMethod:
        from formless.methods.training.method import TrainingMethod

        return TrainingMethod(self, config)


def default_layer(lm: LM) -> int:
    """Return the layer whose activations are compared by default, a quarter of the way up: 7 of 32, as RMU."""
    return max(0, lm.architecture.depth(lm.model) // 4 - 1)
