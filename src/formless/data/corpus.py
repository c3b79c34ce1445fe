"""`corpus_texts`: stream the texts of a corpus from a file, a folder or the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from formless.errors import DataError

HUB = "hf:"
SUFFIXES = (".txt", ".json", ".jsonl", ".parquet")


def corpus_texts(corpus: str, *, pattern: str = "**/*", samples: int | None = None) -> Iterator[str]:
    """Yield the texts of a corpus in a fixed order, without blank texts.

    Args:
        corpus: A `.txt` (one text per paragraph), `.json`, `.jsonl` or `.parquet` file (rows with `text`, or plain strings),
            a folder of such files, or `hf:NAME[:CONFIG]`, the training split of a hub dataset with a column `text`.
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
        yield from _hub_texts(corpus.removeprefix(HUB))
        return
    for path in _files(Path(corpus), pattern):
        try:
            yield from _file_texts(path)
        except (ValueError, OSError, RecursionError) as error:  # JSON, Unicode and Arrow errors are ValueErrors
            reason = str(error).splitlines()[0]
            raise DataError("a corpus file cannot be read", where=path, remedy=reason) from error


def _files(root: Path, pattern: str) -> list[Path]:
    """Return a corpus file, or the files of a folder in a fixed order."""
    try:
        if root.is_file():
            return [root]
        if root.is_dir():
            return sorted(path for path in root.glob(pattern) if path.suffix.lower() in SUFFIXES and path.is_file())
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"the pattern {pattern!r} cannot be used", where=root, remedy=str(error)) from error
    except OSError as error:
        raise DataError("the corpus cannot be read", where=root, remedy=str(error.strerror)) from error
    raise DataError("no such corpus", where=root, remedy="give a file, a folder or hf:NAME")


def _file_texts(path: Path) -> Iterator[str]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"its name does not end in {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        yield from _parquet_texts(path)
    elif suffix == ".json":
        data = json.loads(path.read_text("utf-8"))
        yield from _row_texts(data if isinstance(data, list) else [data])
    elif suffix == ".jsonl":
        yield from _row_texts(_json_lines(path))
    else:
        yield from _paragraphs(path)


def _parquet_texts(path: Path) -> Iterator[str]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            yield from _row_texts(batch.to_pylist())


def _json_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error


def _paragraphs(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for filled, group in groupby(lines, key=lambda line: bool(line.strip())):
            if filled:
                yield "".join(group)


def _hub_texts(name: str) -> Iterator[str]:
    from datasets import load_dataset

    path, _, config = name.partition(":")
    try:
        rows = iter(load_dataset(path, config or None, split="train", streaming=True))
        first = next(rows, None)
        if isinstance(first, dict) and "text" not in first:
            raise ValueError(f"it has no column 'text' but {', '.join(first)}")
        yield from _row_texts(chain([first], rows))
    except Exception as error:  # datasets raises many types, those of its hosts and readers
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError("the hub dataset cannot be read", where=f"{HUB}{name}", remedy=reason) from error


def _row_texts(rows: Iterable[Any]) -> Iterator[str]:
    """Yield plain strings and the strings in the field `text` of rows; other rows are skipped."""
    for row in rows:
        text = row.get("text") if isinstance(row, dict) else row
        if isinstance(text, str):
            yield text
