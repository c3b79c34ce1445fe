"""The methods by name: ONE ENTRY PER METHOD, and `unlearn`, which finds and runs one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from formless.data.target import Target
from formless.errors import UnknownNameError, UserError
from formless.methods import training
from formless.methods.base import Edit, Method, MethodConfig
from formless.methods.hyperparameters import TrainingConfig
from formless.methods.icu import Icu, Original
from formless.methods.rocr.method import Rocr
from formless.methods.rocr.redirect import RocrConfig
from formless.models.lm import LM
from formless.models.settings import ModelSettings


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


def _training(recipe: training.Recipe, about: str, paper: str, config: type[TrainingConfig]) -> Entry:
    return Entry(recipe.name, f"{about}; trains on {recipe.split}.json", paper, config, recipe, recipe.split)


METHODS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("rocr", "rank-one redirection of a concept; training-free, seconds", "arXiv 2506.07795", RocrConfig, Rocr),
        _training(training.GA, "gradient ascent on biographies", "arXiv 2210.01504", training.GradientAscentConfig),
        _training(training.GA_PASSAGE, "gradient ascent on Wikipedia", "arXiv 2406.10890", training.GradientAscentConfig),
        _training(training.NPO, "negative preference optimisation", "arXiv 2404.05868", training.NegativePreferenceConfig),
        _training(training.RT, "refusals as answers", "arXiv 2406.10890", training.RefusalConfig),
        _training(training.CFT, "wrong answers as answers", "arXiv 2506.07795", training.CounterfactualConfig),
        _training(training.DPO, "made-up biographies before true ones", "arXiv 2305.18290", training.DirectPreferenceConfig),
        _training(training.DPO_REJECT, "refusals before true answers", "arXiv 2305.18290", training.DirectPreferenceConfig),
        Entry("icu", "in-context unlearning: a line before every message", "arXiv 2506.07795", MethodConfig, Icu),
        Entry("original", "the model as it is, to compare with", "none", MethodConfig, Original),
    )
}


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


def unlearn(lm: LM, subject_or_target: str | Target, /, method: str = "rocr", **options: Any) -> Edit:
    """Compute the edit that makes a model forget a concept.

    Args:
        lm: The model; it stays as it is.
        subject_or_target: The concept's name, or a target with files (methods that train need them).
        method: Its short name (`formless methods` lists them).
        options: Settings of the method, e.g. `redirect="Donald Trump"` for ROCR.

    Raises:
        UserError: An unknown method or setting, or the method's own errors.
    """
    target = Target(subject_or_target) if isinstance(subject_or_target, str) else subject_or_target
    return build_method(method, method_config(lm.settings, method, options)).unlearn(lm, target)


def build_method(name: str, config: MethodConfig) -> Method:
    """The method with its settings."""
    return METHODS[name].build(config)
