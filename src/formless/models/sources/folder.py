"""The folder that a model is read from: its own, or one of the cache, where it is downloaded or converted first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging as transformers_logging

from formless import hub
from formless.models.reading.checkpoint import check_folder
from formless.models.settings import BUNDLED, ModelSettings
from formless.models.sources.bundled import bundled_model
from formless.models.sources.gguf_header import is_gguf
from formless.models.sources.gguf_models import gguf_model
from formless.progress import Progress, progress_bar


def model_source(
    settings: ModelSettings, progress: bool | Progress, revision: str | None, files: hub.Files
) -> tuple[str, str | None]:
    """Return the folder to read, and the commit of a hub id; what is not on this machine yet is downloaded or converted."""
    place = Path(settings.source)
    if settings.source == BUNDLED:
        with transformers_bars(False):
            return str(bundled_model(settings.name, progress=progress)), None
    if is_gguf(place):
        with transformers_bars(False):
            return str(gguf_model(place, progress=progress)), None
    if place.is_dir():
        check_folder(place)
        return settings.source, None
    repository = hub.Repository(settings.source, revision=revision or settings.revision)
    with progress_bar(progress) as report:
        folder = hub.fetch(repository, files, report)
    check_folder(folder)
    return str(folder), folder.name


@contextmanager
def transformers_bars(shown: bool) -> Iterator[None]:
    """Turn the progress bars of transformers off for a while, unless they are to be shown."""
    if shown or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
