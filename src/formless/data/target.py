"""`Target`: a concept to forget, with the files of probes and training texts about it, each read when it is first needed."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

from pydantic import ValidationError

from formless.data.entries import check_entry, hidden_character, read_entries
from formless.data.rows import (
    Aliases,
    Cloze,
    Instruction,
    Intro,
    Item,
    KindItem,
    KindTexts,
    MentionItem,
    Passage,
    Preference,
    Question,
    QuestionAnswer,
    Reasoning,
    Reverse,
    Row,
    Trivia,
    Truthful,
    Verbatim,
)
from formless.errors import DataError, UnknownNameError

FILES: Mapping[str, type[Row]] = {
    "intro": Intro,
    "forget_level1": Cloze,
    "forget_level2": Item,
    "forget_level3": Item,
    "forget_mcp": Item,
    "forget_tf": Item,
    "aliases": Aliases,
    "concepts": Aliases,
    "edit_reverse": Reverse,
    "forget_mentions": MentionItem,
    "forget_reverse": Reverse,
    "kinds": KindTexts,
    "forget_kinds": KindItem,
    "neighbor_level1": Cloze,
    "neighbor_level2": Item,
    "neighbor_mcp": Item,
    "neighbor_tf": Item,
    "neighbor_mentions": MentionItem,
    "neighbor_reverse": Reverse,
    "neighbor_kinds": KindItem,
    "forget_qa": QuestionAnswer,
    "forget_qa_examples": QuestionAnswer,
    "forget_verbatim": Verbatim,
    "forget_choices": Question,
    "neighbor_qa": QuestionAnswer,
    "neighbor_qa_examples": QuestionAnswer,
    "real_authors_qa": QuestionAnswer,
    "world_facts_qa": QuestionAnswer,
    "retain_mmlu": Question,
    "retain_bbh": Reasoning,
    "truthful": Truthful,
    "triviaqa": Trivia,
    "fluency": Instruction,
    "forget_mia": Passage,
    "retain_mia": Passage,
    "holdout_mia": Passage,
    "passage": Passage,
    "positive": Passage,
    "negative": Passage,
    "pair": Preference,
    "pair_reject": Preference,
    "reject": Instruction,
    "counterfact": Instruction,
}
"""The files that a target's folder may hold, `<name>.json`, with the type of their rows."""

QUESTION_SET = (
    "concepts", "forget_qa", "forget_qa_examples", "forget_verbatim", "forget_choices", "neighbor_qa", "neighbor_qa_examples",
    "real_authors_qa", "world_facts_qa", "holdout_mia",
)  # fmt: skip
"""The files that only a question set has."""

RowType = TypeVar("RowType", bound=Row)


@dataclass(frozen=True)
class Target:
    """A concept to forget.

    Args:
        subject: The concept's name as texts spell it.
        folder: The folder with the files of `FILES`; none for a concept that is only a name.
        concept: Of a concept of a question set, how it is named; the folder is then that of the set.

    Examples:
        >>> from formless import Target, find_target
        >>> target = find_target("sample", "Marie Curie")
        >>> target.items("forget_level2")[0].query
        'An element discovered by Marie Curie and her husband was which one?'
        >>> Target("Ada Lovelace").has("forget_level1")
        False
    """

    subject: str
    folder: Path | None = None
    _rows: dict[str, tuple[Row, ...]] = field(default_factory=dict, repr=False, compare=False)
    concept: Aliases | None = field(default=None, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse a name that is blank or not what it looks like.

        Raises:
            DataError: The subject is blank, or holds an invisible or control character.
        """
        if not self.subject.strip():
            raise DataError("the concept has no name", where="--target", remedy="give the name as texts spell it")
        if found := hidden_character(self.subject):
            what = f"the concept's name holds the invisible or control character {found}"
            raise DataError(what, where=ascii(self.subject[:100]), remedy="give the name without it")

    def __repr__(self) -> str:
        place = f", folder={str(self.folder)!r}" if self.folder else ""
        return f"Target({self.subject!r}{place}, {len(self.files)} files)"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{file}</td><td>{count}</td><td>{html.escape(_summary(FILES[file]))}</td></tr>"
            for file, count in ((file, self._row_count(file)) for file in self.files)
        )
        place = f"<p><code>{html.escape(str(self.folder))}</code></p>" if self.folder else ""
        table = f"<table><tr><th>file</th><th>rows</th><th>a row is</th></tr>{rows}</table>" if rows else ""
        return f"<h4>{html.escape(self.subject)}</h4>{place}{table}"

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files that the folder holds, in the order of `FILES`."""
        return tuple(file for file in FILES if self.folder and os.path.lexists(self.folder / f"{file}.json"))

    def has(self, file: str) -> bool:
        """Return whether the folder holds a file, e.g. `forget_level1`, whether it can be read or not."""
        return self.folder is not None and os.path.lexists(self.path(file))

    @cached_property
    def is_question_set(self) -> bool:
        """Whether it is a set of questions, as TOFU's forget01, and not one concept; its subject is then the set's name."""
        return self.concept is None and any(self.has(file) for file in QUESTION_SET)

    @property
    def concepts(self) -> tuple[Target, ...]:
        """The target itself; of a question set the concepts of `concepts.json`, each of which has the files of the set.

        Raises:
            DataError: A question set names no concept, or the file is broken.
        """
        if not self.is_question_set:
            return (self,)
        rows = self.rows("concepts", Aliases) if self.has("concepts") else ()
        if not rows:
            remedy = "name each in concepts.json, in rows as those of aliases.json, or choose a method that trains"
            raise DataError("the question set does not say which concepts it is about", where=self.folder, remedy=remedy)
        return tuple(replace(self, subject=row.name, concept=row) for row in rows)

    @property
    def shared_concept(self) -> str:
        """What its items are about unless they name something else: its subject, and of a question set nothing, `""`."""
        return "" if self.is_question_set else self.subject

    def concept_of(self, item: Item) -> str:
        """Return what an item is about. One of a question set that names nothing is about something of its own."""
        return item.neighbor or self.shared_concept or item.subject or item.query

    def items(self, file: str) -> tuple[Item, ...]:
        """Return the probes of a file such as `forget_level1`, in file order."""
        return self.rows(file, Item)

    def rows(self, file: str, row_type: type[RowType]) -> tuple[RowType, ...]:
        """Return the validated rows of a file; the file is read once.

        Raises:
            UnknownNameError: The name is not in `FILES`.
            TypeError: The file's rows are not of type `row_type`.
            DataError: The file is missing or broken, or a row does not fit its format.
        """
        if file not in FILES:
            raise UnknownNameError("file", file, FILES)
        if not issubclass(FILES[file], row_type):
            raise TypeError(f"{file} holds rows of type {FILES[file].__name__}, not {row_type.__name__}")
        if file not in self._rows:
            self._rows[file] = read_rows(self.path(file), FILES[file])
        return cast(tuple[RowType, ...], self._rows[file])

    def path(self, file: str) -> Path:
        """Return the path of a file, whether it exists or not.

        Raises:
            DataError: The target is only a name, or the file is a link that leaves the data set.
        """
        if self.folder is None:
            raise DataError("the target is only a name and has no files", where=self.subject, remedy="give --data")
        path = self.folder / f"{file}.json"
        try:
            inside = path.resolve().is_relative_to(self.folder.parent.resolve())
        except (OSError, RuntimeError):  # a link to itself
            inside = False
        if not inside:
            raise DataError("the file is a link that leaves its folder", where=path, remedy="put the file itself there")
        return path

    def _row_count(self, file: str) -> str:
        try:
            return f"{len(self.rows(file, Row)):,}"
        except DataError as error:
            return html.escape(f"broken: {error.what}")


def _summary(row_type: type[Row]) -> str:
    """Return the first line of a row type's docstring, without its full stop."""
    return (row_type.__doc__ or "").partition("\n")[0].rstrip(".")


def read_rows(path: Path, row_type: type[Row]) -> tuple[Row, ...]:
    """Read and validate a file, a JSON list of objects.

    Raises:
        DataError: It names the file, and the row (counted from 1) and field where one is concerned.
    """
    return tuple(parse_row(entry, row_type, f"{path}, row {number}") for number, entry in enumerate(read_entries(path), 1))


def parse_row(entry: object, row_type: type[RowType], where: str) -> RowType:
    """Validate one entry.

    Raises:
        DataError: The entry does not fit the row type, or holds what `check_entry` refuses.
    """
    check_entry(entry, where)
    try:
        return row_type.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        place = where + (f", field {name}" if name else "")
        raise DataError("a row does not fit its format", where=place, remedy=first["msg"]) from error
