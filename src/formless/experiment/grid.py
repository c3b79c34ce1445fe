"""From an experiment to its runs. Every error in settings and data is found here, before a model is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formless import hub
from formless.data.ort import find_target, targets
from formless.data.questions.edit_questions import FILE as EDIT_QUESTIONS
from formless.data.retain import PROBES, RETAIN_QUESTIONS, TEXTS
from formless.data.rows import Row
from formless.data.spellings import naming
from formless.data.target import Target
from formless.errors import DataError, ModelError, UserError
from formless.evaluation.plan import make_plan
from formless.experiment.config import RETAIN_MODEL, Experiment, MethodChoice, ModelChoice
from formless.experiment.runs import ORIGINAL, Run
from formless.methods.base import MethodConfig
from formless.methods.keys.candidates import AUTO
from formless.methods.registry import METHODS, check_request, method_config
from formless.models.settings import BUNDLED, ModelSettings, find_model
from formless.models.sources.bundled import BUNDLED_MODELS
from formless.models.sources.gguf_header import is_gguf
from formless.models.sources.gguf_models import gguf_digest
from formless.store import read_file

if TYPE_CHECKING:
    from formless.models.meta import MetaModel

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_NAMED = 3  # targets in an error
_WHOLE = 2**20  # bytes; larger files are hashed in part
_BLOCK, _BLOCKS = 4096, 1024


def grid(experiment: Experiment) -> tuple[Run, ...]:
    """Return every run of an experiment, model by model, then target by target, then in the order of the methods.

    The runs of the retain model, if there is one, come last: it is measured without any edit.

    Raises:
        UserError: A model, method, setting, target or suite is unknown, a file is missing or broken, the seed is given twice,
            two methods are the same, or the retain model is of another architecture.
    """
    models = [(choice, find_model(choice.name), experiment.methods) for choice in map(_with_dtype, experiment.models)]
    if experiment.retain_model:
        retain = _with_dtype(experiment.retain_model)
        models.append((retain, find_model(retain.name), (MethodChoice(method=ORIGINAL, label=RETAIN_MODEL),)))
    chosen = chosen_targets(experiment.data, experiment.targets)
    configs = {
        (model, method.label): _configs(settings, method, experiment.seeds, chosen)
        for model, settings, methods in models
        for method in methods
    }
    metas = [_check_model(*entry) for entry in models]
    if experiment.retain_model and metas[-1]:
        _refuse_other_architecture(filter(None, metas[:-1]), metas[-1])
    _refuse_missing(chosen, experiment.methods)
    trained = dict.fromkeys(
        (method.method, _trains_on(config)) for model, _, methods in models for method in methods
        for config, _ in configs[model, method.label]
    )  # fmt: skip
    files = {_name(target): _read_files(target, experiment, trained) for target in chosen}
    has_retain_set = any(_has_retain_set(config) for found in configs.values() for config, _ in found)
    texts = files_digest(_retain_files(experiment.data)) if has_retain_set else ""
    runs = tuple(
        Run(
            model=model, method=method.method, label=method.label, config=config, data=experiment.data,
            target=_name(target), subject=target.subject, suite=experiment.suite, limit=experiment.limit,
            style=experiment.style, save_edit=experiment.save_edits,
            inputs={"model": digest, "target": files[_name(target)][method.method, _trains_on(config)]} | places
            | _retain_digest(target, config, texts) | _names_digest(target, method.method, config)
            | _questions_digest(target, config),
        )
        for model, settings, methods in models
        for digest in [model_digest(settings, model.revision)]
        for target in chosen
        for method in methods
        for config, places in configs[model, method.label]
    )  # fmt: skip
    _refuse_twins(runs)
    return runs


def chosen_targets(data: str, choice: str | int | tuple[str | int, ...]) -> list[Target]:
    """Return the targets that `all`, `1-12`, `1,4,7` or names stand for, in the order of the data set.

    Raises:
        UnknownNameError: The data set lacks a number or name.
        UserError: No target is chosen.
    """
    known = targets(data)
    if not known:
        raise DataError("the data set has no targets", where=data, remedy="give a folder with folders such as 1_Ada_Lovelace")
    if choice == "all":
        return known
    names = {target.subject for target in known} | {_name(target) for target in known}
    parts = (choice,) if isinstance(choice, int) or choice in names else choice
    selected = {_name(find_target(data, part)) for part in _parts(parts.split(",") if isinstance(parts, str) else parts)}
    if not selected:
        raise UserError("no target is chosen", where="targets", remedy="e.g. all, 1-12 or 1,4,7")
    return [target for target in known if _name(target) in selected]


def files_digest(paths: Iterable[Path]) -> str:
    """Return a hash of files' names and contents, in the order of their names.

    Raises:
        DataError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            content = read_file(path)
        except OSError as error:
            raise DataError("a file cannot be read", where=path, remedy=error.strerror or str(error)) from error
        digest.update(f"{path.name}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
        digest.update(content)
    return digest.hexdigest()[:16]


def place_digest(place: Path) -> str:
    """Return a hash of a file or of the files in a folder.

    Of a file over 1 MB, the hash covers the size and 1,024 evenly spaced blocks of 4 kB. It tells apart weights of many
    gigabytes in a moment, unless they differ in less than a thousandth of a file.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(place)}\0{size}\0".encode("utf-8", "surrogateescape"))
        with path.open("rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            for number in range(_BLOCKS):
                file.seek(number * (size - _BLOCK) // (_BLOCKS - 1), os.SEEK_SET)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]


def model_digest(settings: ModelSettings, revision: str | None) -> str:
    """Identify a model before it is loaded: by a folder's or file's content, a hub id's commit or a bundled version.

    Where the hub cannot say the commit, the revision stands for it; the model's runs fail then, with the reason.
    """
    place = Path(settings.source)
    if settings.source == BUNDLED:
        return BUNDLED_MODELS[settings.name].release
    if place.is_dir():
        return place_digest(place)
    if is_gguf(place):
        return gguf_digest(place)[:16]
    repository = hub.Repository(settings.source, revision=revision or settings.revision)
    try:
        return f"{settings.source}@{hub.pinned(repository)}"
    except UserError:
        return f"{settings.source}@{repository.revision or 'main'}"


def target_files(target: Target, method: str, config: Mapping[str, Any], suite: str, limit: int | None) -> str:
    """Return a hash of the target's files that a method with its settings and a suite read; validate the files on the way."""
    plan = make_plan(target, suite, limit)
    files = {file for job in plan.jobs for file, _ in job.rows} | ({"forget_level2"} if plan.questions else set())
    if file := METHODS[method].file_for(target, _trains_on(config)):
        target.rows(file, Row)
        files.add(file)
    return files_digest(target.path(file) for file in files)


def _parts(choice: tuple[str | int, ...] | list[str]) -> Iterator[str]:
    """Yield every number of a range, and anything else as it is."""
    for part in (str(part).strip() for part in choice):
        numbers = _RANGE.fullmatch(part)
        if not numbers or numbers[2] is None:
            yield part
            continue
        if int(numbers[1]) > int(numbers[2]):
            raise UserError(f"{part!r} is not a range", where="targets", remedy="write the smaller number first")
        yield from map(str, range(int(numbers[1]), int(numbers[2]) + 1))


def _name(target: Target) -> str:
    return target.folder.name if target.folder else target.subject


def _check_model(model: ModelChoice, settings: ModelSettings, methods: Sequence[MethodChoice]) -> MetaModel | None:
    """Refuse methods that do not fit a model's configuration, and return the model on the meta device.

    A GGUF file, a bundled model that is not unpacked yet, and a model whose configuration cannot be read are left to their
    runs, so that those of the other models are executed.
    """
    from formless.models.meta import load_meta

    if settings.source == BUNDLED and not BUNDLED_MODELS[settings.name].folder.is_dir():
        return None
    if is_gguf(Path(settings.source)):
        return None
    try:
        meta = load_meta(model.name, dtype=model.dtype, revision=model.revision, trust_remote_code=model.trust_remote_code)
    except ModelError:
        return None
    for method in methods:
        method_config(settings, method.method, method.settings).check_model(meta)
    return meta


def _refuse_other_architecture(models: Iterable[MetaModel], retain: MetaModel) -> None:
    from formless.models.meta import refuse_other_architecture

    for model in models:
        refuse_other_architecture(model, retain)


def _with_dtype(model: ModelChoice) -> ModelChoice:
    """Replace `auto` by float32 on the CPU: elsewhere it is the checkpoint's dtype, and the two give different results."""
    on_cpu = model.device == "cpu" or (model.device.partition(":")[0] in ("auto", "spread") and not _has_accelerator())
    return model.model_copy(update={"dtype": "float32"}) if model.dtype == "auto" and on_cpu else model


def _has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _configs(
    settings: ModelSettings, method: MethodChoice, seeds: tuple[int, ...], chosen: Sequence[Target]
) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """Return a method's settings on one model, once for each seed if it uses one, with hashes of the files that they name."""
    name, given = method.method, method.settings
    config = method_config(settings, name, given)
    for target in chosen:
        check_request(name, config, [target], None, given)
    takes_seeds = bool(seeds) and _takes_seed(name, config, chosen[0])
    if takes_seeds and "seed" in given:
        raise UserError("the seed is given twice", where=f"methods, {method.label}", remedy="give it there or as seeds")
    options = [given | {"seed": seed} for seed in dict.fromkeys(seeds)] if takes_seeds else [given]
    found = [method_config(settings, name, option).model_dump(mode="json") for option in options]
    return [(option, _places(option, type(config))) for option in found]


def _takes_seed(name: str, config: MethodConfig, target: Target) -> bool:
    """Return whether a method with these settings uses a seed."""
    if "seed" not in type(config).model_fields:
        return False
    try:
        check_request(name, config, [target], None, ["seed"])
    except UserError:  # the seed has no effect with these settings
        return False
    return True


def _places(config: dict[str, Any], described: type[MethodConfig]) -> dict[str, str]:
    """Return hashes of the files and folders that settings name: a null space that was computed again is another setting."""
    paths = {}
    for name, field in described.model_fields.items():
        words = field.json_schema_extra.get("place_unless") if isinstance(field.json_schema_extra, dict) else None
        if isinstance(words, list) and config[name] not in words:
            paths[name] = Path(config[name])
    for name, path in paths.items():
        if not (path.is_dir() or path.is_file()):
            remedy = "make it with `formless stats`, or correct the path"
            raise UserError(f"{name}: there is no such file or folder", where=path, remedy=remedy)
    return {f"setting {name}": place_digest(path) for name, path in paths.items()}


def _has_retain_set(config: dict[str, Any]) -> bool:
    """Return whether a training run has a retain loss."""
    return bool(config.get("retain", "none") != "none")


def _retain_files(data: str) -> list[Path]:
    """Return the files that retain sets are taken from."""
    return [target.path(file) for target in targets(data) for file in (*TEXTS, "intro") if target.has(file)]


def _retain_digest(target: Target, config: dict[str, Any], texts: str) -> dict[str, str]:
    """Return a hash of what determines the retain set, if there is one.

    It is of the retain questions of a question set, else of the target's probes and the other targets' texts.
    """
    if not _has_retain_set(config):
        return {}
    if target.is_question_set and config.get("retain_rows") == "targets":
        return {"retained": files_digest([target.path(RETAIN_QUESTIONS)])}
    probes = files_digest(target.path(file) for file in PROBES if target.has(file))
    return {"retained": probes if config.get("retain_rows") == "neighbors" else probes + texts}


def _names_digest(target: Target, method: str, config: dict[str, Any]) -> dict[str, str]:
    """Return a hash of how the target and its neighbors are named, if the method takes keys or its redirect from it."""
    chosen = config.get("mentions", "name") != "name" or config.get("protect", "none") != "none"
    redirected = config.get("redirect") == AUTO and config.get("mode") == "unrelated"
    named = target.has("concepts") and not METHODS[method].trains_on
    if not (METHODS[method].reads_names or chosen or redirected or named):
        return {}
    entries = [entry for concept in target.concepts for entry in naming(concept)]
    names = json.dumps([entry.model_dump(mode="json") for entry in entries], sort_keys=True)
    return {"names": hashlib.sha256(names.encode()).hexdigest()[:16]}


def _questions_digest(target: Target, config: dict[str, Any]) -> dict[str, str]:
    """Return a hash of the questions that a method takes keys from, if it does."""
    return {"questions": files_digest([target.path(EDIT_QUESTIONS)])} if config.get("reverse_layers") else {}


def _refuse_missing(chosen: list[Target], methods: tuple[MethodChoice, ...]) -> None:
    """Refuse targets that lack the file that a method trains on; `check_request` has refused such question sets."""
    for method in methods:
        file = METHODS[method.method].trains_on
        lacking = [_name(target) for target in chosen if file and not (target.is_question_set or target.has(file))]
        if lacking:
            shown = ", ".join(lacking[:_NAMED]) + (" ..." if len(lacking) > _NAMED else "")
            what = f"{method.label} trains on {file}.json, which {len(lacking)} of {len(chosen)} targets lack"
            raise DataError(what, where=shown, remedy="write it with `formless data train`, or choose other targets")


def _trains_on(config: Mapping[str, Any]) -> str:
    return str(config.get("trains_on", "auto"))


def _read_files(target: Target, experiment: Experiment, trained: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return hashes of the files that each method and the suite read, by method and its setting `trains_on`.

    The files are validated on the way.
    """
    target = Target(target.subject, target.folder)  # its rows are freed with it
    return {
        (method, choice): target_files(target, method, {"trains_on": choice}, experiment.suite, experiment.limit)
        for method, choice in trained
    }


def _refuse_twins(runs: tuple[Run, ...]) -> None:
    """Refuse two methods with the same settings."""
    known: dict[str, Run] = {}
    for run in runs:
        twin = known.setdefault(run.id, run)
        if twin is not run:
            what = f"{twin.label} and {run.label} are the same on {run.model.name}: settings, data and all"
            raise UserError(what, where=run.target, remedy="leave one of them out")
