"""`Target`: a concept to forget, with the files of probes and training texts about it, each read when it is first needed."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from formless.data.entries import check_entry, hidden_character, read_entries
from formless.errors import DataError, UnknownNameError

BLANK = "___"
MAX_CHOICES = 10

Split = Literal["forget", "neighbor"]
"""What a probe is about: the concept to forget, or a related concept to keep."""

SPLITS: tuple[Split, ...] = get_args(Split)

Mention = Literal[
    "full name", "lower case", "short name", "initial and surname", "alias", "misspelling", "possessive", "other spelling",
    "description",
]  # fmt: skip
"""How a probe names its concept; `other spelling` is that of another script or language."""

MENTIONS: tuple[Mention, ...] = get_args(Mention)


def _without_hidden(name: str) -> str:
    if found := hidden_character(name):
        raise PydanticCustomError("hidden", f"the name holds the invisible or control character {found}; remove it")
    return name


Name = Annotated[str, AfterValidator(_without_hidden)]
"""A name without invisible and control characters, which would make two spellings of one name."""


class Row(BaseModel):
    """A row of any file; fields that the format does not name are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Item(Row):
    """A probe: a question and its answer.

    Args:
        aliases: Other answers that count as right when a model writes them.
        fact: The fact that it asks, as the answer of its level-1 or level-2 probe says it; the answer unless given.
    """

    query: str = Field(min_length=1)
    answer: str
    level: str = ""
    type: str = ""
    subject: Name = ""
    neighbor: Name | None = None
    aliases: tuple[Name, ...] = ()
    fact: str = ""

    @property
    def fact_key(self) -> str:
        """What items that ask the same fact have in common: the neighbor, if any, and the fact."""
        return ": ".join(" ".join(part.casefold().split()) for part in (self.neighbor, self.fact or self.answer) if part)


class Cloze(Item):
    """A level-1 probe: a statement with a blank.

    About one in forty level-1 probes of RWKU is a plain question; these are accepted. Any other query without a blank is an
    error.
    """

    @model_validator(mode="after")
    def _has_blank(self) -> Cloze:
        if BLANK not in self.query and not self.query.rstrip().endswith("?"):
            raise PydanticCustomError("no_blank", "query: a cloze needs a blank, three underscores")
        return self


class MentionItem(Item):
    """A level-1 or level-2 probe that names its concept by one mention.

    Args:
        mention: How the query names the concept.
        named: The words of the query that name it.
        type: `cloze` or `question`.
    """

    type: Literal["cloze", "question"]
    mention: Mention
    named: str = Field(min_length=1)

    @model_validator(mode="after")
    def _has_blank(self) -> MentionItem:
        if self.type == "cloze" and BLANK not in self.query:
            raise PydanticCustomError("no_blank", "query: a cloze needs a blank, three underscores")
        return self


class Reverse(Item):
    """A question that gives a fact and asks for the concept; each is a fact of its own.

    Args:
        answer: The concept's full name.
        aliases: Other names that count as right.
    """

    @property
    def fact_key(self) -> str:
        """The question: its answer is the same in every row."""
        return " ".join(self.query.casefold().split())


class Aliases(Row):
    """How texts name a concept, the subject or a neighbor; unknown fields are errors.

    Args:
        name: The full name, as the other files spell it.
        person: Whether it is a person, whose given names have initials.
        short: The surname or another short name that nobody else of the file has.
        aliases: Other names and titles, with their article if they need one.
        spellings: Spelling by language, e.g. `{"ru": "Альберт Эйнштейн"}`.
        descriptions: Noun phrases with their article, such as `the author of Hamlet`, that hold no word of the name and fit
            nobody else.
        reverse: Questions whose answer is the concept, which hold no word of its name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = Field(min_length=1)
    person: bool = False
    short: Name | None = None
    aliases: tuple[Name, ...] = ()
    spellings: dict[str, Name] = {}
    descriptions: tuple[str, ...] = ()
    reverse: tuple[str, ...] = ()


class Intro(Row):
    """A sentence that introduces the subject."""

    target: Name
    intro: str


class Question(Row):
    """MMLU: a question with choices and worked examples; the examples have no task."""

    task: str = ""
    question: str
    choices: tuple[str, ...]
    answer: int
    examples: tuple[Question, ...] = ()

    @model_validator(mode="after")
    def _has_a_right_choice(self) -> Question:
        if not 2 <= len(self.choices) <= MAX_CHOICES:
            raise PydanticCustomError("choices", "choices: two to ten are needed")
        if not 0 <= self.answer < len(self.choices):
            raise PydanticCustomError("answer", "answer: give the index of a choice, counted from 0")
        return self


class Reasoning(Row):
    """BBH: a question, and the chain-of-thought examples that precede it."""

    task: str
    question: str
    answer: str
    cot: str


class Choices(Row):
    """Choices of TruthfulQA with their labels: 1 for a true choice, 0 for a false one."""

    choices: tuple[str, ...] = Field(min_length=1)
    labels: tuple[int, ...]

    @model_validator(mode="after")
    def _labels_all(self) -> Choices:
        if len(self.labels) != len(self.choices):
            raise PydanticCustomError("labels", "every choice needs one label, 1 if it is true and 0 if not")
        return self


class Truthful(Row):
    """TruthfulQA: a question with the choices of MC1 and of MC2."""

    question: str
    mc1_targets: Choices
    mc2_targets: Choices


class Trivia(Row):
    """TriviaQA: a question with every accepted answer."""

    question: str
    answers: tuple[str, ...] = Field(min_length=1)


class Instruction(Row):
    """An instruction, with the output to train on where there is one."""

    instruction: str
    input: str = ""
    output: str = ""


class Passage(Row):
    """A text: a Wikipedia passage, a biography written by the model, or a text for membership inference."""

    text: str


class Preference(Row):
    """A prompt with two responses: the chosen one, then the rejected one."""

    prompt: str
    response: tuple[str, str]


FILES: Mapping[str, type[Row]] = {
    "intro": Intro,
    "forget_level1": Cloze,
    "forget_level2": Item,
    "forget_level3": Item,
    "forget_mcp": Item,
    "forget_tf": Item,
    "aliases": Aliases,
    "forget_mentions": MentionItem,
    "forget_reverse": Reverse,
    "neighbor_level1": Cloze,
    "neighbor_level2": Item,
    "neighbor_mcp": Item,
    "neighbor_tf": Item,
    "neighbor_mentions": MentionItem,
    "neighbor_reverse": Reverse,
    "retain_mmlu": Question,
    "retain_bbh": Reasoning,
    "truthful": Truthful,
    "triviaqa": Trivia,
    "fluency": Instruction,
    "forget_mia": Passage,
    "retain_mia": Passage,
    "passage": Passage,
    "positive": Passage,
    "negative": Passage,
    "pair": Preference,
    "pair_reject": Preference,
    "reject": Instruction,
    "counterfact": Instruction,
}
"""The files that a target's folder may hold, `<name>.json`, with the type of their rows."""

RowType = TypeVar("RowType", bound=Row)


@dataclass(frozen=True)
class Target:
    """A concept to forget.

    Args:
        subject: The concept's name as texts spell it.
        folder: The folder with the files of `FILES`; none for a concept that is only a name.

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
