"""The methods by name: ONE ENTRY PER METHOD, those of other packages too, and `unlearn`, which finds and runs one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError

from formless.data.target import Target
from formless.edits.edit import Edit
from formless.errors import UnknownNameError, UserError
from formless.methods.base import Method, MethodConfig
from formless.methods.icu import Icu, Original
from formless.methods.rocr.method import Rocr
from formless.methods.rocr.redirect import RocrConfig
from formless.methods.training.recipes import ce_u, cft, dpo, ga, grad_diff, npo, rmu, rt, simnpo, task_vector, undial, wga
from formless.methods.training.spec import Recipe
from formless.models.lm import LM
from formless.models.settings import ModelSettings

GROUP = "formless.methods"
"""The entry points by which other packages add methods."""


@dataclass(frozen=True)
class Entry:
    """A method that users can name.

    Args:
        name: Short name.
        about: One line.
        paper: Where it comes from.
        config: Its settings.
        build: Settings -> method.
        reads: The file of the target that it trains on, if any.
    """

    name: str
    about: str
    paper: str
    config: type[MethodConfig]
    build: Callable[[Any], Method]
    reads: str | None = None


class Methods(Mapping[str, Entry]):
    """Entries by name; other packages are looked for at the first use.

    Args:
        own: Entries and recipes of this package.
    """

    def __init__(self, *own: Entry | Recipe) -> None:
        self._own = {entry.name: _entry(entry) for entry in own}

    @cached_property
    def _all(self) -> dict[str, Entry]:
        found = dict(self._own)
        for point in entry_points(group=GROUP):
            if entry := _loaded(point, found):
                found[entry.name] = entry
        return found

    def __getitem__(self, name: str) -> Entry:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def _entry(found: Entry | Recipe) -> Entry:
    if isinstance(found, Entry):
        return found
    about = f"{found.about}; trains on {found.split}.json"
    return Entry(found.name, about, found.paper, found.config, found, found.split)


def _loaded(point: EntryPoint, known: Mapping[str, Entry]) -> Entry | None:
    """Another package's method; a warning, and nothing, where it cannot be used."""
    package = point.dist.name if point.dist else "an unknown package"
    try:
        found = point.load()
    except Exception as error:  # whatever another package's code raises
        reason = f"it cannot be loaded: {type(error).__name__}: {error}"
    else:
        if not isinstance(found, Entry | Recipe):
            reason = "it is neither an Entry nor a Recipe"
        elif found.name in known:
            reason = "another method has its name"
        else:
            return _entry(found)
    warnings.warn(f"the method {point.name!r} of {package} is left out: {reason}", stacklevel=2)
    return None


METHODS = Methods(
    Entry("rocr", "rank-one redirection of a concept; training-free, seconds", "arXiv 2506.07795", RocrConfig, Rocr),
    ga.GA,
    ga.GA_PASSAGE,
    npo.NPO,
    rt.RT,
    cft.CFT,
    dpo.DPO,
    dpo.DPO_REJECT,
    grad_diff.GRAD_DIFF,
    simnpo.SIMNPO,
    rt.IDK_NLL,
    dpo.IDK_DPO,
    rmu.RMU,
    undial.UNDIAL,
    ce_u.CE_U,
    wga.WGA,
    task_vector.TASK_VECTOR,
    Entry("icu", "in-context unlearning: a line before every message", "arXiv 2506.07795", MethodConfig, Icu),
    Entry("original", "the model as it is, to compare with", "none", MethodConfig, Original),
)


def method_config(model: ModelSettings, name: str, options: dict[str, Any]) -> MethodConfig:
    """A method's settings: its defaults, then the model's in configs/models, then `options`.

    Raises:
        UnknownNameError: No such method.
        UserError: An option is unknown or has a wrong value.
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    merged = model.methods.get(name, {}) | options
    try:
        return METHODS[name].config.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(METHODS[name].config.model_fields) or "none"
        raise UserError(f"a setting of {name} is wrong ({first['msg']})", where=where, remedy=f"settings: {known}") from error


def unlearn(
    lm: LM,
    subject_or_target: str | Target | Sequence[str | Target],
    /,
    method: str = "rocr",
    *,
    keep: Edit | None = None,
    **options: Any,
) -> Edit:
    """Compute the edit that makes a model forget a concept, or several ones together (ROCR).

    Args:
        lm: The model; it stays as it is.
        subject_or_target: The concept's name, or a target with files (methods that train need them); for ROCR also a list.
        method: Its short name (`formless methods` lists them).
        keep: An earlier edit that stays in force and becomes part of the new one (ROCR).
        options: Settings of the method, e.g. `redirect="Donald Trump"` for ROCR.

    Raises:
        UserError: An unknown method or setting, one that has no effect, or the method's own errors.
    """
    given = [subject_or_target] if isinstance(subject_or_target, str | Target) else subject_or_target
    targets = [Target(found) if isinstance(found, str) else found for found in given]
    built = build_method(method, method_config(lm.settings, method, options))
    check(built, method, targets, keep, options)
    return run(built, lm, targets, keep)


def check(built: Method, name: str, targets: Sequence[Target], keep: Edit | None, options: Collection[str]) -> None:
    """Refuse, before a model is loaded, what the method cannot do, and options that have no effect.

    Raises:
        UserError: Several targets, or an edit to keep, for a method that cannot take them, or as `Rocr.check`.
    """
    if isinstance(config := getattr(built, "config", None), MethodConfig):
        config.refuse_idle(options)
    if isinstance(built, Rocr):
        built.check(targets, keep)
    elif keep is not None:
        raise UserError(f"{name} cannot keep an earlier edit", where="--keep", remedy="only rocr can")
    elif len(targets) != 1:
        raise UserError(f"{name} takes one target", where="--target", remedy="give one, or use rocr")


def run(built: Method, lm: LM, targets: Sequence[Target], keep: Edit | None) -> Edit:
    """The edit of what `check` let pass."""
    return built.unlearn_together(lm, targets, keep=keep) if isinstance(built, Rocr) else built.unlearn(lm, targets[0])


def build_method(name: str, config: MethodConfig) -> Method:
    """The method with its settings."""
    return METHODS[name].build(config)
