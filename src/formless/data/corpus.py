"""`corpus_texts`: stream the texts of a corpus from a file, a folder or the hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from formless import hub
from formless.data.table_files import json_lines, lines_of, parquet_rows
from formless.errors import DataError
from formless.store import read_file
from formless.strict_json import load_json

HUB = "hf:"
MAX_JSON = 2**32  # bytes of a .json file, which is read as a whole
SUFFIXES = (".txt", ".json", ".jsonl", ".parquet")


def corpus_texts(corpus: str, *, pattern: str = "**/*", samples: int | None = None) -> Iterator[str]:
    """Yield the texts of a corpus in a fixed order, without blank texts.

    Args:
        corpus: A `.txt` (one text per paragraph), `.json`, `.jsonl` or `.parquet` file (rows with `text`, or plain strings),
            a folder of such files, or `hf:NAME[@REVISION][:CONFIG]`, the training split of a hub dataset with a column `text`.
        pattern: A glob for the files of a folder.
        samples: The most texts to yield.

    Raises:
        DataError: There is no such corpus, or it holds no text.
    """
    texts = (text.strip() for text in _all_texts(corpus, pattern))
    found = islice((text for text in texts if text), samples)
    first = next(found, None)
    if first is None:
        raise DataError("the corpus holds no text", where=corpus, remedy="rows need a field 'text'; see --pattern for folders")
    yield first
    yield from found


def _all_texts(corpus: str, pattern: str) -> Iterator[str]:
    if corpus.startswith(HUB):
        yield from _hub_texts(corpus)
        return
    for path in _files(Path(corpus), pattern):
        try:
            yield from _file_texts(path)
        except (ValueError, OSError, MemoryError) as error:  # JSON, Unicode and Arrow errors are ValueErrors
            reason = (getattr(error, "strerror", None) or str(error) or "memory runs out").splitlines()[0]
            raise DataError("a corpus file cannot be read", where=path, remedy=reason) from error


def _files(root: Path, pattern: str) -> list[Path]:
    """Return a corpus file, or the files of a folder in a fixed order."""
    try:
        if root.is_file():
            return [root]
        if root.is_dir():
            found = sorted(path for path in root.glob(pattern) if path.suffix.lower() in SUFFIXES and not path.is_dir())
            if odd := next((path for path in found if not path.is_file()), None):
                raise DataError("a corpus file is no plain file", where=odd, remedy="remove it, or leave it out with --pattern")
            return found
    except DataError:
        raise
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"the pattern {pattern!r} cannot be used", where=root, remedy=str(error)) from error
    except OSError as error:
        raise DataError("the corpus cannot be read", where=root, remedy=str(error.strerror)) from error
    raise DataError("no such corpus", where=root, remedy="give a file, a folder, hf:NAME or sampled")


def _file_texts(path: Path) -> Iterator[str]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"its name does not end in {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        yield from _row_texts(parquet_rows(path))
    elif suffix == ".json":
        data = load_json(read_file(path, limit=MAX_JSON))
        yield from _row_texts(data if isinstance(data, list) else [data])
    elif suffix == ".jsonl":
        yield from _row_texts(json_lines(path))
    else:
        yield from _paragraphs(path)


def _paragraphs(path: Path) -> Iterator[str]:
    for filled, group in groupby(lines_of(path), key=lambda line: bool(line.strip())):
        if filled:
            yield "".join(group)


def pinned_corpus(corpus: str) -> str:
    """Return the name of a corpus with the commit that its revision stands for now; names of files and folders as they are.

    Offline, where `datasets` reads what it has in its cache, a hub dataset keeps its name too.

    Raises:
        DataError: The hub has no such dataset or revision, or cannot be asked.
    """
    if not corpus.startswith(HUB) or _is_offline():
        return corpus
    repository, config = hub_name(corpus)
    return f"{HUB}{repository.name}@{hub.pinned(repository)}{f':{config}' if config else ''}"


def hub_name(corpus: str) -> tuple[hub.Repository, str | None]:
    """Return the repository and the configuration of `hf:NAME[@REVISION][:CONFIG]`."""
    name, _, config = corpus.removeprefix(HUB).partition(":")
    name, _, revision = name.partition("@")
    return hub.Repository(name, "dataset", revision or None), config or None


def _is_offline() -> bool:
    from huggingface_hub import constants

    return constants.is_offline_mode()


def _hub_texts(corpus: str) -> Iterator[str]:
    from datasets import config as datasets_config
    from datasets import load_dataset

    # Each request is repeated for half a minute already; datasets would do that twenty times.
    datasets_config.STREAMING_READ_MAX_RETRIES = datasets_config.STREAMING_OPEN_MAX_RETRIES = 1
    datasets_config.STREAMING_READ_RETRY_INTERVAL = datasets_config.STREAMING_OPEN_RETRY_INTERVAL = 0
    repository, config = hub_name(pinned_corpus(corpus))
    try:
        rows = iter(load_dataset(repository.name, config, split="train", streaming=True, revision=repository.revision))
        first = next(rows, None)
        if isinstance(first, dict) and "text" not in first:
            raise ValueError(f"it has no column 'text' but {', '.join(first)}")
        yield from _row_texts(chain([first], rows))
    except Exception as error:  # datasets raises many types, those of its hosts and readers
        if known := hub.explain(error, repository):
            raise known from error
        reason = hub.public_text(str(error) or type(error).__name__).splitlines()[0]
        raise DataError("the hub dataset cannot be read", where=corpus, remedy=reason) from error


def _row_texts(rows: Iterable[Any]) -> Iterator[str]:
    """Yield plain strings and the strings in the field `text` of rows.

    Raises:
        ValueError: A row has no text; null counts as an empty one.
    """
    for number, row in enumerate(rows, 1):
        text = row.get("text", row) if isinstance(row, dict) else row
        if not isinstance(text, str | None):
            raise ValueError(f"row {number} has no text: write a string, or an object with a string as text")
        yield text or ""
