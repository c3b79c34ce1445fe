"""RWKU's configurations as tables: from the hub, or from a local copy of the dataset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from formless.errors import DataError

HUB = "jinzhuoran/RWKU"
LISTING = "forget_target"
SUFFIXES = (".json", ".jsonl", ".parquet")  # of a local copy; other formats may hold code

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SECRET = re.compile(r"(?<=://)[^\s/@]*@|(?<=\w)\?[^\s'\")]*=[^\s'\")]*")  # the user, and the query, of an address


class Tables:
    """The configurations of the hub dataset or of a local copy.

    Args:
        folder: The copy.
        cache: Where a copy's tables are unpacked; those of the hub go to its own cache.
    """

    def __init__(self, folder: Path | None, cache: str) -> None:
        self.where = str(folder) if folder else HUB
        self.revisions: set[str] = set()
        self._folder, self._cache = folder, cache if folder else None
        self._configurations: set[str] = set()
        with self._reading(None):
            if folder is None or (folder / "README.md").is_file():
                from datasets import get_dataset_config_names

                self._configurations = set(get_dataset_config_names(str(folder or HUB)))
        if folder and LISTING not in self._configurations and not self._files(LISTING):
            remedy = "give folders <N>_<Name>, or a copy of the hub dataset with its README.md"
            raise DataError("the folder holds no data set", where=folder, remedy=remedy)

    def load(self, configuration: str) -> Any:
        """The rows of all splits as one `datasets.Dataset`, or None where the source lacks the configuration.

        Raises:
            DataError: It cannot be read.
        """
        from datasets import concatenate_datasets, load_dataset_builder

        with self._reading(configuration):
            if LISTING not in self._configurations and self._folder:  # no README lists them: a folder each
                if not (files := self._files(configuration)):
                    return None
                builder = load_dataset_builder("parquet", data_files=files, cache_dir=self._cache)
            elif configuration in self._configurations or LISTING not in self._configurations:
                # Out of reach, the hub's cache does not list its configurations: then each must be there.
                builder = load_dataset_builder(str(self._folder or HUB), configuration, cache_dir=self._cache)
            else:
                return None
            self._refuse_strangers(builder.config.data_files, configuration)
            builder.download_and_prepare()
            if not self._folder and _COMMIT.fullmatch(builder.hash or ""):
                self.revisions.add(builder.hash)
            return concatenate_datasets(list(builder.as_dataset().values()))

    def _files(self, configuration: str) -> list[str]:
        return sorted(str(path) for path in (self._folder or Path()).joinpath(configuration).rglob("*.parquet"))

    def _refuse_strangers(self, files: Mapping[str, Sequence[str]] | None, configuration: str) -> None:
        """A copy's README names its own files; links stay allowed, since the hub's cache of a snapshot is made of them."""
        for file in (file for split in (files or {}).values() for file in split if self._folder):
            path = Path(os.path.normpath(file))
            if not (path.is_relative_to(self._folder or path) and path.suffix in SUFFIXES):
                remedy = f"name files inside it that end in {', '.join(SUFFIXES)}"
                raise DataError(f"the copy names another file, {file}", where=f"{self.where}, {configuration}", remedy=remedy)

    @contextmanager
    def _reading(self, configuration: str | None) -> Iterator[None]:
        """One error for whatever datasets, its hosts and its readers raise."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # datasets passes on whatever its hosts and readers raise
            cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
            reason = _SECRET.sub("", (str(cause) or type(cause).__name__).splitlines()[0])
            where = f"{self.where}, {configuration}" if configuration else self.where
            raise DataError("the data set cannot be read", where=where, remedy=reason) from error
