"""MUSE (arXiv 2407.06460): MUSE-Books and MUSE-News, read from the hub or from a copy of their files.

The layout is that of the dataset cards of `muse-bench/MUSE-Books` and `muse-bench/MUSE-News`: a configuration is a folder and a
split a Parquet file in it. The code of muse_bench keeps the same names as JSON files.

- `knowmem`: question, answer. `forget_qa`, `forget_qa_icl`, and `retain2_qa`, `retain2_qa_icl`, or without the 2.
- `verbmem`: prompt, gt. `forget`.
- `privleak`: text. `forget`, `holdout`, and `retain2` or `retain`.
- `raw` and `train`: text. `forget`: four books, or 889 articles.

A card can name the retain splits with or without the 2: News does without it since 2024, Books has it. Each set is one target.
The raw text becomes training texts of at most `PASSAGE` characters, since one row of Books is a whole book. The splits of
`retain1`, and the configurations `scal` and `sust`, are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from formless.data.benchmarks.question_rows import add_question_set
from formless.data.benchmarks.tables import Tables
from formless.data.ort import folder_name
from formless.data.rows import Passage, QuestionAnswer, Verbatim
from formless.errors import DataError

if TYPE_CHECKING:
    from formless.data.formats import Prepared, Selection

NAMES = ("MUSE-Books", "MUSE-News")
PASSAGE = 2000
"""The most characters of a training text, about 450 tokens of English."""

# A training text ends at the end of a paragraph, else of a sentence, else of a word.
_ENDS = tuple(re.compile(pattern) for pattern in (r"\n", r"[.!?…][\"'”’)]*\s", r"\s"))

FORGET_QA = ("knowmem/forget_qa", "forget_qa")
RETAIN_QA = ("knowmem/retain2_qa", "knowmem/retain_qa", "retain2_qa", "retain_qa")
EXAMPLES = {
    "forget_qa_examples": ("knowmem/forget_qa_icl", "forget_qa_icl"),
    "neighbor_qa_examples": ("knowmem/retain2_qa_icl", "knowmem/retain_qa_icl", "retain2_qa_icl", "retain_qa_icl"),
}
VERBATIM = ("verbmem/forget",)
TEXTS = {
    "forget_mia": ("privleak/forget",),
    "retain_mia": ("privleak/retain2", "privleak/retain"),
    "holdout_mia": ("privleak/holdout",),
}
RAW = ("raw/forget", "train/forget")


def is_muse(folder: Path, name: str) -> bool:
    """Return whether a folder holds the questions of MUSE, and its name is that of the set.

    A folder that says neither counts as the first set; `write_muse` then calls it MUSE.
    """
    is_target = re.match(r"\d+_", folder.name)  # a prepared target has a forget_qa.json too
    return not is_target and Tables(folder).has(*FORGET_QA) and name == (_named(folder) or NAMES[0])


def write_muse(source: Path | None, prepared: Prepared, selection: Selection, name: str) -> None:
    """Write one of the sets as a target.

    Raises:
        DataError: The source cannot be read, or has a row that does not fit; or the forget set is empty or shares rows with the
            retain set.
    """
    if source is None:
        wanted = [
            *FORGET_QA,
            *RETAIN_QA,
            *VERBATIM,
            *RAW[:1],
            *(table for names in (EXAMPLES | TEXTS).values() for table in names),
        ]
        tables, commit = Tables.of_hub(f"muse-bench/{name}", wanted, selection.progress)
        prepared.revisions.add(commit)
    else:
        tables, name = Tables(source), _named(source) or "MUSE"
    selection.choose([1], tables.where)
    forget = tables.rows(QuestionAnswer, *FORGET_QA)
    if not forget:
        raise DataError(
            "the forget set is empty", where=f"{tables.where}, {FORGET_QA[0]}", remedy="give the file with its rows"
        )
    target = folder_name(1, name, where=tables.where)
    prepared.add_target(target)
    add_question_set(prepared, target, forget, tables.rows(QuestionAnswer, *RETAIN_QA))
    for file, names in EXAMPLES.items():
        prepared.add_rows(target, file, [row for _, row in tables.rows(QuestionAnswer, *names)])
    prepared.add_rows(target, "forget_verbatim", [row for _, row in tables.rows(Verbatim, *VERBATIM)])
    for file, names in TEXTS.items():
        prepared.add_rows(target, file, [row for _, row in tables.rows(Passage, *names)])
    prepared.add_rows(target, "passage", [Passage(text=text) for raw in _raw(tables) for text in passages(raw)])
    if selection.progress:
        selection.progress(name, 1, 1)


def passages(text: str) -> Iterator[str]:
    """Yield a text in parts of at most `PASSAGE` characters, in order; white space between two parts is left out."""
    rest = text.strip()
    while len(rest) > PASSAGE:
        window = rest[: PASSAGE + 1]
        ends = (max((match.end() for match in pattern.finditer(window)), default=0) for pattern in _ENDS)
        end = next((place for place in ends if place), PASSAGE)
        yield rest[:end].strip()
        rest = rest[end:].lstrip()
    if rest:
        yield rest


def _raw(tables: Tables) -> Iterator[str]:
    """Yield the raw texts; a whole book is larger than a row may be, so that only its parts are rows."""
    for where, row in tables.entries(*RAW):
        if not (isinstance(row, dict) and isinstance(row.get("text"), str)):
            raise DataError("a row does not fit its format", where=f"{where}, field text", remedy="give the text as a string")
        yield row["text"]


def _named(folder: Path) -> str | None:
    """Return the set that a folder's name says."""
    words = folder.name.casefold()
    return next((name for name in NAMES if name.split("-")[1].casefold() in words), None)
