"""Short hashes of what a run reads, without loading it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from formless.data.target import Row, Target
from formless.evaluation.plan import planned
from formless.methods.registry import METHODS
from formless.models.bundled import BUNDLED_MODELS
from formless.models.settings import BUNDLED, ModelSettings

WHOLE = 2**20
BLOCK, BLOCKS = 4096, 1024


def files_digest(paths: Iterable[Path]) -> str:
    """A hash of files' names and contents, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def place_digest(place: Path) -> str:
    """A hash of a file or of the files in a folder.

    Of files over 1 MB, it takes the size and 1024 evenly spaced blocks of 4 kB: weights of many gigabytes are told apart in
    a moment, unless they differ in less than a thousandth of a file.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(place)}\0{size}\0".encode("utf-8", "surrogateescape"))
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                continue
            for number in range(BLOCKS):
                file.seek(number * (size - BLOCK) // (BLOCKS - 1), os.SEEK_SET)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


def model_digest(settings: ModelSettings, revision: str | None) -> str:
    """What identifies a model before it is loaded: a folder's content, a hub id's revision, the bundled model's version."""
    if settings.source == BUNDLED:
        return BUNDLED_MODELS[settings.name].release
    if Path(settings.source).is_dir():
        return place_digest(Path(settings.source))
    return f"{settings.source}@{revision or 'main'}"


def target_files(target: Target, method: str, suite: str, limit: int | None) -> str:
    """A hash of those of a target's files that a method and a suite read; each is validated on the way."""
    plan = planned(target, suite, limit)
    asked = {file for job in plan.jobs for file in job.rows} | ({"forget_level2"} if plan.questions else set())
    if file := METHODS[method].trains_on:
        target.rows(file, Row)
        asked.add(file)
    return files_digest(target.path(file) for file in asked)
