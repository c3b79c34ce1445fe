"""The methods by name, those of other packages too, and `unlearn`, which finds and runs one. No torch is imported here.

An entry stands in the module of its method; to add one, write it there and name it in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import ValidationError

from formless.data.target import Target
from formless.errors import UserError
from formless.interrupts import without_leftover_hooks
from formless.methods import DEFAULT_METHOD
from formless.methods.base import JointMethod, Method, MethodConfig, MethodEntry, ReportingMethod, ResumableMethod
from formless.methods.direction.config import CDR
from formless.methods.icu import ICU, ORIGINAL
from formless.methods.rocr.config import ROCR
from formless.methods.training.ascent import GA, GA_PASSAGE, GRAD_DIFF, TASK_VECTOR, WGA
from formless.methods.training.distillation import CE_U, UNDIAL
from formless.methods.training.preference import DPO, DPO_REJECT, IDK_DPO, NPO, SIMNPO
from formless.methods.training.refusal import CFT, IDK_NLL, RT
from formless.methods.training.representation import RMU
from formless.models.settings import ModelSettings
from formless.progress import Progress, progress_bar
from formless.registry import Registry

if TYPE_CHECKING:
    from formless.edits.edit import Edit
    from formless.models.lm import LM

Settings = TypeVar("Settings", bound=MethodConfig)

METHODS: Registry[MethodEntry] = Registry(
    kind="method",
    group="formless.methods",
    entry_type=MethodEntry,
    own=(
        CDR, ROCR, GA, GA_PASSAGE, NPO, RT, CFT, DPO, DPO_REJECT, GRAD_DIFF, SIMNPO, IDK_NLL, IDK_DPO, RMU, UNDIAL, CE_U, WGA,
        TASK_VECTOR, ICU, ORIGINAL,
    ),
)  # fmt: skip

MAX_NAMED = 3
"""Most methods that an error names."""


def method_config(model: ModelSettings, name: str, options: dict[str, Any]) -> MethodConfig:
    """Return a method's settings: its defaults, then the model's in configs/models, then `options`.

    Raises:
        UnknownNameError: No method has that name.
        UserError: An option is unknown, has a wrong value, or is given by an old and a new name.
    """
    config = METHODS.get_known(name).config
    return checked_settings(name, config, model.methods.get(name, {}), options)


def checked_settings(name: str, config: type[Settings], *given: Mapping[str, Any]) -> Settings:
    """Return settings from their class: its defaults, then each of `given` in turn.

    Args:
        name: What has these settings, for errors.
        config: The class.
        given: Settings by name; old names are accepted with a warning.

    Raises:
        UserError: A setting is unknown, has a wrong value, or is given by an old and a new name.
    """
    try:
        merged: dict[str, Any] = {}
        for settings in given:
            merged |= config.with_current_names(settings)
        return config.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(config.model_fields) or "none"
        if first["type"] == "extra_forbidden":
            raise UserError(f"{name} has no such setting", where=where, remedy=_instead(where, name, known)) from error
        allowed = config.allowed_range(str(first["loc"][0])) if first["loc"] else None
        reason = first["msg"].removeprefix("Value error, ") + (f"; allowed: {allowed}" if allowed else "")
        raise UserError(f"a setting of {name} is wrong ({reason})", where=where, remedy=f"settings: {known}") from error
    except ValueError as error:
        raise UserError(f"a setting of {name} is wrong", where=str(error), remedy="give it once, by its new name") from error


def _instead(setting: str, method: str, known: str) -> str:
    """Return what to do about a setting that a method lacks: the methods that have it, and the method's own settings."""
    able = [other for other, entry in METHODS.items() if setting in entry.config.model_fields]
    more = " or another that has it" if len(able) > MAX_NAMED else ""
    choose = f"choose the method {' or '.join(able[:MAX_NAMED])}{more}; " if able else ""
    return f"{choose}settings of {method}: {known}"


def build_method(name: str, config: MethodConfig) -> Method:
    """Return the method of that name with its settings."""
    return METHODS.get_known(name).build(config)


def check_request(
    name: str, config: MethodConfig, targets: Sequence[Target], keep: Edit | None, options: Collection[str]
) -> None:
    """Refuse, before a model is loaded, what a method cannot do, and options that have no effect.

    Args:
        name: The method.
        config: Its settings.
        targets: What it is to unlearn.
        keep: An earlier edit that is to become part of the new one.
        options: Names of the settings that the user gave.

    Raises:
        UserError: The method does not take several targets or an earlier edit, they do not fit its settings, a question set
            lacks what it trains on, or an option has no effect.
    """
    entry = METHODS.get_known(name)
    config.refuse_unused(options)
    if keep is not None and not entry.keeps_earlier_edits:
        able = ", ".join(other.name for other in METHODS.values() if other.keeps_earlier_edits)
        raise UserError(f"{name} cannot keep an earlier edit", where="--keep", remedy=f"only {able} can")
    if len(targets) != 1 and not entry.takes_several_targets:
        able = ", ".join(other.name for other in METHODS.values() if other.takes_several_targets)
        raise UserError(f"{name} takes one target", where="--target", remedy=f"give one, or use {able}")
    config.check_targets(targets, keep)
    entry.check_files(targets, config)


def with_checkpoints(name: str, method: Method, folder: Path) -> Method:
    """Return a method that keeps checkpoints in `folder` if it is resumable, else the method itself."""
    return cast(ResumableMethod, method).resumable(folder) if METHODS[name].resumable else method


def with_progress(name: str, method: Method, report: Progress) -> Method:
    """Return a method that reports its progress if it can, else the method itself."""
    return cast(ReportingMethod, method).reporting(report) if METHODS[name].reports_progress else method


def compute_edit(name: str, method: Method, lm: LM, targets: Sequence[Target], keep: Edit | None = None) -> Edit:
    """Compute the edit of targets that `check_request` has accepted; an interrupt leaves the model as it was."""
    entry = METHODS[name]
    with without_leftover_hooks(lm.model):
        if entry.takes_several_targets or entry.keeps_earlier_edits:
            return cast(JointMethod, method).unlearn_together(lm, targets, keep=keep)
        return method.unlearn(lm, targets[0])


def unlearn(
    lm: LM,
    subject_or_target: str | Target | Sequence[str | Target],
    /,
    method: str = DEFAULT_METHOD,
    *,
    keep: Edit | None = None,
    progress: bool | Progress = True,
    **options: Any,
) -> Edit:
    """Compute the edit that makes a model forget one or several concepts.

    Args:
        lm: The model; it stays as it is.
        subject_or_target: The concept's name, or a target with files, which methods that train need; for cdr and rocr also a
            list.
        method: Short name of the method (`formless methods` lists them).
        keep: An earlier edit that becomes part of the new one; rocr alone takes one.
        progress: A callback, or whether a bar is shown in a terminal or a notebook.
        options: Settings of the method, e.g. `budget=0.02` for cdr.

    Raises:
        UserError: The method or a setting is unknown, a setting has no effect, the method cannot compute the edit, or it needs
            layers that are not in memory.

    Examples:
        >>> import formless
        >>> lm = formless.load("smollm2")
        >>> edit = formless.unlearn(lm, "Albert Einstein")
        >>> edit.info.subject
        'Albert Einstein'
        >>> with edit.applied(lm):
        ...     answer = lm.chat("Who was Albert Einstein?")
    """
    given = [subject_or_target] if isinstance(subject_or_target, str | Target) else subject_or_target
    targets = [Target(found) if isinstance(found, str) else found for found in given]
    config = method_config(lm.settings, method, options)
    check_request(method, config, targets, keep, options)
    lm.check_layers(config.needed_layers())
    with progress_bar(progress, method) as report:
        return compute_edit(method, with_progress(method, build_method(method, config), report), lm, targets, keep)
