"""Texts of a corpus, streamed: from a file, a folder, or the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from formless.errors import DataError

HUB = "hf:"
SUFFIXES = (".txt", ".json", ".jsonl", ".parquet")


def corpus_texts(corpus: str, *, pattern: str = "**/*", samples: int | None = None) -> Iterator[str]:
    """The texts of a corpus in a fixed order, without blank ones.

    Args:
        corpus: A `.txt` (one text per paragraph), `.json`, `.jsonl` or `.parquet` file (rows with `text`, or plain strings),
            a folder of such files, or `hf:NAME[:CONFIG]`, the training split of a hub dataset with a column `text`.
        pattern: Which files of a folder, as a glob.
        samples: At most so many texts.

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
    root = Path(corpus)
    if not root.exists():
        raise DataError("no such corpus", where=corpus, remedy="give a file, a folder or hf:NAME")
    files = [root] if root.is_file() else sorted(p for p in root.glob(pattern) if p.suffix in SUFFIXES and p.is_file())
    for path in files:
        try:
            yield from _file_texts(path)
        except (UnicodeDecodeError, json.JSONDecodeError, OSError) as error:
            raise DataError("a corpus file cannot be read", where=path, remedy=str(error)) from error


def _file_texts(path: Path) -> Iterator[str]:
    if path.suffix == ".parquet":
        from datasets import load_dataset

        yield from _row_texts(load_dataset("parquet", data_files=str(path), split="train", streaming=True))
    elif path.suffix == ".json":
        data = json.loads(path.read_text("utf-8"))
        yield from _row_texts(data if isinstance(data, list) else [data])
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as lines:
            yield from _row_texts(json.loads(line) for line in lines if line.strip())
    else:
        paragraph: list[str] = []
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    paragraph.append(line.rstrip("\n"))
                elif paragraph:
                    yield "\n".join(paragraph)
                    paragraph = []
        yield "\n".join(paragraph)


def _hub_texts(name: str) -> Iterator[str]:
    from datasets import load_dataset

    path, _, config = name.partition(":")
    try:
        rows = load_dataset(path, config or None, split="train", streaming=True)
    except Exception as error:  # datasets passes on whatever its hosts and readers raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError("the hub dataset cannot be read", where=f"{HUB}{name}", remedy=reason) from error
    yield from _row_texts(rows)


def _row_texts(rows: Iterable[Any]) -> Iterator[str]:
    """The texts of plain strings and of rows with a string field `text`; other rows are passed over."""
    for row in rows:
        text = row.get("text") if isinstance(row, dict) else row
        if isinstance(text, str):
            yield text
