"""What a method is: its settings, its registry entry, and the object that computes an `Edit`. Nothing here imports torch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Protocol, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

if TYPE_CHECKING:
    from formless.data.target import Target
    from formless.edits.edit import Edit
    from formless.methods.keys.names import Names
    from formless.models.lm import LM
    from formless.models.meta import MetaModel
    from formless.progress import Progress

Cost = Literal["none", "seconds", "minutes"]
MAX_LAYER: Final = 9_999


def _in_ascending_order(layers: tuple[int, ...]) -> tuple[int, ...]:
    if not layers or list(layers) != sorted(set(layers)):
        raise ValueError(f"the layers {list(layers)} are not in ascending order, each once, e.g. 4,5,6")
    return layers


def _listed(value: Any) -> Any:
    """Read `4,5,6` and `4`, as other options take layers, as a list."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    return value.split(",") if isinstance(value, str) and re.fullmatch(r"\d+(,\d+)*", value) else value


Layers = Annotated[
    tuple[Annotated[int, Field(ge=0, le=MAX_LAYER)], ...], BeforeValidator(_listed), AfterValidator(_in_ascending_order)
]
"""Decoder layers: at least one, each once, in ascending order; a text such as `4,5,6` is read too."""


class MethodConfig(BaseModel):
    """The base of every method's settings: frozen, and an unknown name is an error.

    Every number is finite, and true or false is no number. A setting that is a number states its smallest and largest value.

    A subclass that renames settings lists them in `renamed` (old name -> new name): the old names are still accepted, with a
    warning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    renamed: ClassVar[Mapping[str, str]] = {}

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_true_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false, which pydantic would read as 1 and 0, unless the setting is a switch."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        is_switch = bool in (annotation, *get_args(annotation))
        found = value if isinstance(value, list | tuple | set) else (value,)
        if not is_switch and any(isinstance(each, bool) for each in found):
            raise ValueError("true and false are not values of this setting")
        return value

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, settings: Any) -> Any:
        return cls.with_current_names(settings) if isinstance(settings, Mapping) else settings

    @classmethod
    def with_current_names(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings with old names replaced by the current ones; each replacement warns.

        Raises:
            ValueError: A setting is given by both names.
        """
        found: dict[str, Any] = {}
        for name, value in settings.items():
            current = cls.renamed.get(name, name)
            if current != name:
                if current in settings:
                    raise ValueError(f"{current} is given twice, once by its old name {name}")
                warnings.warn(f"the setting {name} is now called {current}", FutureWarning, stacklevel=2)
            found[current] = value
        return found

    @classmethod
    def allowed_range(cls, name: str) -> str | None:
        """Return the range of a setting that is a number, e.g. "greater than 0, at most 10"; None for other settings."""
        words = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
        constraints = cls.model_fields[name].metadata if name in cls.model_fields else []
        found = [
            f"{text} {getattr(constraint, kind):,.10g}"
            for kind, text in words.items()
            for constraint in constraints
            if hasattr(constraint, kind)
        ]
        return ", ".join(found) or None

    def refuse_unused(self, given: Collection[str]) -> None:
        """Refuse settings that the user gave but that have no effect beside the others.

        Args:
            given: Names of the settings.

        Raises:
            UserError: A setting has no effect; the error names it.
        """

    def check_targets(self, targets: Sequence[Target], keep: Edit | None) -> None:
        """Refuse targets, or an earlier edit, that do not fit these settings; called before a model is loaded.

        Raises:
            UserError: They do not fit.
        """

    def edited_names(self, targets: Sequence[Target]) -> tuple[Sequence[Names], Collection[str]]:  # noqa: ARG002 - methods with keys use it
        """Return which spellings of each target get a key, and whose names stay in place; neither for a method without keys.

        Raises:
            UserError: As `check_targets`.
        """
        return (), ()

    def needed_layers(self) -> int | None:
        """Return how many layers, from the first on, an edit is computed from; None if it needs the whole model."""
        return None

    def check_model(self, model: LM | MetaModel) -> None:
        """Refuse a model that does not fit these settings; called before its weights are loaded, and again with them.

        Raises:
            UserError: It does not fit.
        """


class Method(Protocol):
    """A method with its settings.

    An entry promises more by its fields: `ResumableMethod` where `MethodEntry.resumable` is true, `ReportingMethod` where
    `reports_progress` is true, `JointMethod` where
    `takes_several_targets` or `keeps_earlier_edits` is true.
    """

    def unlearn(self, lm: LM, target: Target) -> Edit:
        """Compute the edit that makes a model forget a target; the model itself stays as it is."""
        ...


class ResumableMethod(Method, Protocol):
    """A method that can continue after its process was killed."""

    def resumable(self, folder: Path) -> Method:
        """Return the same method with checkpoints in `folder`, from which it continues.

        The caller removes the folder once the edit is saved.
        """
        ...


class ReportingMethod(Method, Protocol):
    """A method that takes long and says how far it is."""

    def reporting(self, report: Progress) -> Method:
        """Return the same method, which calls `report` as it proceeds."""
        ...


class JointMethod(Method, Protocol):
    """A method that solves several targets together and can keep an earlier edit."""

    def unlearn_together(self, lm: LM, targets: Sequence[Target], *, keep: Edit | None = None) -> Edit:
        """Compute one edit of all targets, which also holds the earlier edit `keep`."""
        ...


@dataclass(frozen=True)
class TunedSetting:
    """The number beside `layers` that says how much an edit takes away; `formless tune` tries values of it.

    Args:
        name: The setting.
        values: Usual values, from that of the weakest edit to that of the strongest.
    """

    name: str
    values: tuple[float, ...]

    def weakest_first(self, value: float) -> float:
        """Return a key that sorts values from that of the weakest edit to that of the strongest."""
        return value if self.values[0] < self.values[-1] else -value


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One entry of the registry of methods: what users name, and what the method can do.

    Args:
        name: Short name.
        about: One line.
        paper: Source, e.g. "arXiv 2404.05868".
        config: Class of its settings.
        build: Function from the settings to the method. It imports torch inside, so that a list of methods does not need it.
        trains_on: The file of the target that it trains on, without ".json"; None if it does not train.
        takes_several_targets: Whether it solves several targets together.
        keeps_earlier_edits: Whether an earlier edit can become part of the new one.
        resumable: Whether it continues from checkpoints after a kill.
        reports_progress: Whether it reports its progress.
        reads_names: Whether it always takes keys from how a target and its neighbors are named.
        edits_weights: Whether the edit changes weights, so that it can be merged into the model.
        tuned: What `formless tune` tries beside windows of `layers`; None if it cannot tune the method.
        cost: Rough time for one target and a model of some billion parameters on one GPU.
    """

    name: str
    about: str
    paper: str
    config: type[MethodConfig]
    build: Callable[[Any], Method]
    trains_on: str | None = None
    takes_several_targets: bool = False
    keeps_earlier_edits: bool = False
    resumable: bool = False
    reports_progress: bool = False
    reads_names: bool = False
    edits_weights: bool = True
    tuned: TunedSetting | None = None
    cost: Cost = "minutes"

    def file_for(self, target: Target, choice: str = "auto") -> str | None:  # noqa: ARG002 - training specs use them
        """Return the file of a target that the method trains on, whether it is there or not; None if it does not train.

        Args:
            target: The target.
            choice: The setting `trains_on` of a training method.
        """
        return self.trains_on

    def check_files(self, targets: Sequence[Target], config: MethodConfig) -> None:
        """Refuse question sets without the rows that the method trains on; called before a model is loaded.

        Raises:
            DataError: Such rows are missing.
        """
