"""From an experiment to its runs: everything that can be wrong is found here, before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from formless import __version__
from formless.data.ort import find_target, targets
from formless.data.retain import PROBES, TEXTS
from formless.data.target import Target
from formless.errors import DataError, UserError
from formless.experiment.config import Experiment, MethodChoice, ModelChoice
from formless.experiment.digests import files_digest, model_digest, place_digest, target_files
from formless.experiment.runs import Run
from formless.methods.base import MethodConfig
from formless.methods.registry import METHODS, check_request, method_config
from formless.models.settings import BUNDLED, ModelSettings, settings_for, unknown_model

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_SHOWN = 3


def grid(experiment: Experiment) -> tuple[Run, ...]:
    """Every run of an experiment, model by model and target by target, in the order of the methods.

    Raises:
        UserError: An unknown model, method, setting, target or suite, a file that lacks or is broken, a seed given twice, or
            two methods that are the same.
    """
    models = [(choice, _settings(choice)) for choice in map(_with_dtype, experiment.models)]
    chosen = chosen_targets(experiment.data, experiment.targets)
    configs = {
        (model, method.label): _configs(settings, method, experiment.seeds, chosen[0])
        for model, settings in models
        for method in experiment.methods
    }
    _refuse_missing(chosen, experiment.methods)
    files = {_name(target): _read_files(target, experiment) for target in chosen}
    keeps = any(_keeps(config) for found in configs.values() for config, _ in found)
    texts = files_digest(_texts(experiment.data)) if keeps else ""
    runs = tuple(
        Run(
            model=model, method=method.method, label=method.label, config=config, data=experiment.data,
            target=_name(target), subject=target.subject, suite=experiment.suite, limit=experiment.limit,
            style=experiment.style, save_edit=experiment.save_edits,
            inputs={"formless": __version__, "model": digest, "target": files[_name(target)][method.label]}
            | places | _retained(target, config, texts),
        )
        for model, settings in models
        for digest in [model_digest(settings, model.revision)]
        for target in chosen
        for method in experiment.methods
        for config, places in configs[model, method.label]
    )  # fmt: skip
    _refuse_twins(runs)
    return runs


def chosen_targets(data: str, choice: str | int | tuple[str | int, ...]) -> list[Target]:
    """The targets that `all`, `1-12`, `1,4,7` or names stand for, in the order of the data set.

    Raises:
        UnknownNameError: A number or name that the data set lacks.
        UserError: Nothing is chosen.
    """
    known = targets(data)
    if not known:
        raise DataError("the data set has no targets", where=data, remedy="give a folder with folders such as 1_Ada_Lovelace")
    if choice == "all":
        return known
    names = {target.subject for target in known} | {_name(target) for target in known}
    parts = (choice,) if isinstance(choice, int) or choice in names else choice
    wanted = {_name(find_target(data, part)) for part in _parts(parts.split(",") if isinstance(parts, str) else parts)}
    if not wanted:
        raise UserError("no target is chosen", where="targets", remedy="e.g. all, 1-12 or 1,4,7")
    return [target for target in known if _name(target) in wanted]


def _parts(choice: tuple[str | int, ...] | list[str]) -> Iterator[str]:
    """Every number of a range; anything else as it is."""
    for part in (str(part).strip() for part in choice):
        numbers = _RANGE.fullmatch(part)
        if not numbers or numbers[2] is None:
            yield part
            continue
        if int(numbers[1]) > int(numbers[2]):
            raise UserError(f"{part!r} is no range", where="targets", remedy="write the smaller number first")
        yield from map(str, range(int(numbers[1]), int(numbers[2]) + 1))


def _name(target: Target) -> str:
    return target.folder.name if target.folder else target.subject


def _settings(model: ModelChoice) -> ModelSettings:
    settings = settings_for(model.name)
    if settings.source != BUNDLED and not Path(settings.source).is_dir() and settings.source.count("/") != 1:
        raise unknown_model(model.name)
    return settings


def _with_dtype(model: ModelChoice) -> ModelChoice:
    """`auto` is float32 on the CPU and the checkpoint's own elsewhere: figures of both must not be mixed."""
    on_cpu = model.device == "cpu" or (model.device == "auto" and not _has_accelerator())
    return model.model_copy(update={"dtype": "float32"}) if model.dtype == "auto" and on_cpu else model


def _has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _configs(
    settings: ModelSettings, method: MethodChoice, seeds: tuple[int, ...], target: Target
) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """A method's settings on one model, once for each seed where that matters, with the hashes of the places they name."""
    name, given = method.method, method.settings
    config = method_config(settings, name, given)
    check_request(name, config, [target], None, given)
    takes_seeds = bool(seeds) and _takes_seed(name, config, target)
    if takes_seeds and "seed" in given:
        raise UserError("the seed is given twice", where=f"methods, {method.label}", remedy="give it there or as seeds")
    options = [given | {"seed": seed} for seed in dict.fromkeys(seeds)] if takes_seeds else [given]
    found = [method_config(settings, name, option).model_dump(mode="json") for option in options]
    return [(option, _places(option, type(config))) for option in found]


def _takes_seed(name: str, config: MethodConfig, target: Target) -> bool:
    """Whether a method with these settings draws numbers."""
    if "seed" not in type(config).model_fields:
        return False
    try:
        check_request(name, config, [target], None, ["seed"])
    except UserError:  # it has a seed, of no effect here
        return False
    return True


def _places(config: dict[str, Any], described: type[MethodConfig]) -> dict[str, str]:
    """Hashes of the files and folders that settings name: a null space made anew is another setting."""
    paths = {}
    for name, field in described.model_fields.items():
        words = field.json_schema_extra.get("place_unless") if isinstance(field.json_schema_extra, dict) else None
        if isinstance(words, list) and config[name] not in words:
            paths[name] = Path(config[name])
    return {f"setting {name}": place_digest(path) for name, path in paths.items() if path.exists()}


def _keeps(config: dict[str, Any]) -> bool:
    """Whether a training keeps in mind texts besides the target's."""
    return bool(config.get("retain", "none") != "none")


def _texts(data: str) -> list[Path]:
    """Files that such texts are taken from."""
    return [target.path(split) for target in targets(data) for split in (*TEXTS, "intro") if target.has(split)]


def _retained(target: Target, config: dict[str, Any], texts: str) -> dict[str, str]:
    """A hash of what decides which texts a training keeps, if it keeps any: the target's probes, and the others' texts."""
    if not _keeps(config):
        return {}
    probes = files_digest(target.path(split) for split in PROBES if target.has(split))
    return {"retained": probes if config.get("retain_rows") == "neighbors" else probes + texts}


def _refuse_missing(chosen: list[Target], methods: tuple[MethodChoice, ...]) -> None:
    """Stop where targets lack the file that a method trains on."""
    for method in methods:
        file = METHODS[method.method].trains_on
        lacking = [_name(target) for target in chosen if file and not target.has(file)]
        if lacking:
            shown = ", ".join(lacking[:_SHOWN]) + (" ..." if len(lacking) > _SHOWN else "")
            what = f"{method.label} trains on {file}.json, which {len(lacking)} of {len(chosen)} targets lack"
            raise DataError(what, where=shown, remedy="write it with `formless data train`, or choose other targets")


def _read_files(target: Target, experiment: Experiment) -> dict[str, str]:
    """Hashes of a target's files by method, of those that the method and the suite read; each is validated on the way."""
    target = Target(target.subject, target.folder)  # its rows are let go with it
    return {
        method.label: target_files(target, method.method, experiment.suite, experiment.limit) for method in experiment.methods
    }


def _refuse_twins(runs: tuple[Run, ...]) -> None:
    known: dict[str, Run] = {}
    for run in runs:
        twin = known.setdefault(run.id, run)
        if twin is not run:
            what = f"{twin.label} and {run.label} are the same on {run.model.name}: settings, data and all"
            raise UserError(what, where=run.target, remedy="leave one of them out")
