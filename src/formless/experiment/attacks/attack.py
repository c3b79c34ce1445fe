"""`Attack`: a change of an edited model's weights, after which the model is measured again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from formless.data.target import Target
from formless.errors import UserError
from formless.evaluation.record import Record
from formless.experiment.runs import Run
from formless.store import RunFolder

if TYPE_CHECKING:
    from formless.edits.edit import Edit
    from formless.models.lm import LM
    from formless.progress import Progress

EXCLUDED = "excluded_facts"
"""Among the facts of an attack: the concept's facts that its texts hold, which prove nothing when the model says them."""


class UnfitError(UserError):
    """An attack that a run does not allow, for example as its target has too few facts; it is left out with this reason."""


class AttackSettings(BaseModel):
    """How models are fine-tuned by an attack. Attacks without training have no settings.

    Args:
        protocol: `one_epoch` and `two_epochs` are named settings; `custom` where one of the next three differs.
        learning_rate: Peak learning rate; it falls as a cosine to 0.
        num_train_epochs: Passes over the texts.
        per_device_train_batch_size: Texts in one step.
        lora: Whether an adapter of rank 8 is trained instead of all weights.
        points: Number of evaluations during the training run, evenly spaced, the last one at its end.
        seed: Seed of the choice of texts and of their order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["one_epoch", "two_epochs", "custom"]
    learning_rate: float = Field(gt=0, le=1, allow_inf_nan=False)
    num_train_epochs: int = Field(ge=1, le=1000)
    per_device_train_batch_size: int = Field(ge=1, le=1024)
    lora: bool = False
    points: int = Field(default=2, ge=1, le=50)
    seed: int = Field(default=0, ge=0, lt=2**32)

    @property
    def slug(self) -> str:
        """Return them in the name of a file."""
        numbers = f"lr_{self.learning_rate:g}.epochs_{self.num_train_epochs}.batch_{self.per_device_train_batch_size}"
        parts = [numbers if self.protocol == "custom" else self.protocol]
        parts += ["lora"] * self.lora + [f"seed_{self.seed}"] * bool(self.seed)
        return ".".join(parts)


@dataclass(frozen=True)
class Case:
    """A complete run that can be attacked.

    Args:
        run: The run.
        folder: Its folder.
        target: The concept.
        original: The original model's record of the same items, which says what is known.
        whole: The run's own record, before any attack.
    """

    run: Run
    folder: RunFolder
    target: Target
    original: Record
    whole: Record


@dataclass(frozen=True)
class Point:
    """One state of the attacked model that is evaluated.

    Args:
        name: Name of the record's file, without `.json`.
        config: What the record's entry about the attack says of its settings.
        excluded: The facts that prove nothing, see `EXCLUDED`.
        number: Its place among the points of the attack, counted from 1.
        step: Optimizer step, of an attack that trains.
    """

    name: str
    config: Mapping[str, Any]
    excluded: tuple[str, ...] = ()
    number: int = 1
    step: int | None = None


class PointConfig(BaseModel):
    """The settings of a point, as the record's entry about the attack says them."""

    model_config = ConfigDict(frozen=True, extra="allow")


@dataclass(frozen=True)
class Attack:
    """One attack; its entry states everything about it.

    Args:
        name: Short name.
        family: What attacks of a kind are called together.
        title: For people.
        points: From a case and settings to the points; raises `UnfitError` where the case does not allow the attack.
        states: From a model without any edit, the case and its edit (None of the original model) to the attacked model: it
            yields at each wanted point, at which the model is evaluated. Closing it restores the weights bit for bit.
        attacks_original: Whether the original model is attacked too, for comparison.
    """

    name: str
    family: str
    title: str
    points: Callable[[Case, AttackSettings], tuple[Point, ...]]
    states: Callable[[LM, Case, Edit | None, Sequence[Point], AttackSettings, Progress], Generator[Point, None, None]]
    attacks_original: bool = False

    def entry(self, lm: LM, case: Case, point: Point, facts: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Return what records of a point say of the attack, beside the entry of the edit.

        Args:
            lm: The model.
            case: What is attacked.
            point: The point.
            facts: What was measured on the way.
            seconds: Time that the attack took.
        """
        from formless.edits.edit import edit_info

        known = {EXCLUDED: list(point.excluded), **facts}
        config = PointConfig.model_validate(point.config)
        info = edit_info(lm, self.family, case.target.subject, config, seconds, layers=[], facts=known)
        return info.model_copy(update={"attack": self.name}).model_dump(mode="json")
