"""`Target`: a concept to forget, with the files that question and teach it, each read only when asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from formless.errors import DataError, UnknownNameError

BLANK = "___"
MOST_CHOICES = 10
MAX_BYTES = 256 * 2**20
MAX_ROW = 2**20


class Row(BaseModel):
    """A row of any file; columns that the format does not name are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Item(Row):
    """A probe: a question and its answer."""

    query: str = Field(min_length=1)
    answer: str
    level: str = ""
    type: str = ""
    subject: str = ""
    neighbor: str | None = None


class Cloze(Item):
    """A level-1 probe; its query holds a blank.

    RWKU asks about one in forty of them as a plain question; those stand, anything else without a blank is a mistake.
    """

    @model_validator(mode="after")
    def _has_blank(self) -> Cloze:
        if BLANK not in self.query and not self.query.rstrip().endswith("?"):
            raise PydanticCustomError("no_blank", "query: a cloze needs a blank, three underscores")
        return self


class Intro(Row):
    """The sentence that presents the subject."""

    target: str
    intro: str


class Question(Row):
    """MMLU: a question with choices and worked examples (examples name no task)."""

    task: str = ""
    question: str
    choices: tuple[str, ...]
    answer: int
    examples: tuple[Question, ...] = ()

    @model_validator(mode="after")
    def _has_a_right_choice(self) -> Question:
        if not 2 <= len(self.choices) <= MOST_CHOICES:
            raise PydanticCustomError("choices", "choices: two to ten are needed")
        if not 0 <= self.answer < len(self.choices):
            raise PydanticCustomError("answer", "answer: it is the place of a choice, counted from 0")
        return self


class Reasoning(Row):
    """BBH: a question after a chain-of-thought prefix."""

    task: str
    question: str
    answer: str
    cot: str


class Choices(Row):
    """TruthfulQA's choices and which of them are true (1)."""

    choices: tuple[str, ...] = Field(min_length=1)
    labels: tuple[int, ...]

    @model_validator(mode="after")
    def _labels_all(self) -> Choices:
        if len(self.labels) != len(self.choices):
            raise PydanticCustomError("labels", "every choice needs one label, 1 if it is true and 0 if not")
        return self


class Truthful(Row):
    """TruthfulQA: one question with both sets of choices."""

    question: str
    mc1_targets: Choices
    mc2_targets: Choices


class Trivia(Row):
    """TriviaQA: a question with every accepted answer."""

    question: str
    answers: tuple[str, ...] = Field(min_length=1)


class Instruction(Row):
    """An instruction, and an output where the row teaches one."""

    instruction: str
    input: str = ""
    output: str = ""


class Passage(Row):
    """A text: Wikipedia, a biography that the model wrote, or a text for membership inference."""

    text: str


class Preference(Row):
    """A prompt with the chosen response, then the rejected one."""

    prompt: str
    response: tuple[str, str]


# One row per file of a target's folder.
SPLITS: Mapping[str, type[Row]] = {
    "intro": Intro,
    "forget_level1": Cloze,
    "forget_level2": Item,
    "forget_level3": Item,
    "forget_mcp": Item,
    "forget_tf": Item,
    "neighbor_level1": Cloze,
    "neighbor_level2": Item,
    "neighbor_mcp": Item,
    "neighbor_tf": Item,
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

RowType = TypeVar("RowType", bound=Row)


@dataclass(frozen=True)
class Target:
    """A concept to forget.

    Args:
        subject: Its name, as texts spell it.
        folder: Where its files are; a bare name to forget has none.
    """

    subject: str
    folder: Path | None = None
    _rows: dict[str, tuple[Row, ...]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a name that no text could hold.

        Raises:
            DataError: The subject is blank.
        """
        if not self.subject.strip():
            raise DataError("the concept has no name", where="--target", remedy="give the name as texts spell it")

    def has(self, split: str) -> bool:
        """Whether the folder holds that file."""
        return self.folder is not None and self.path(split).is_file()

    def items(self, split: str) -> tuple[Item, ...]:
        """The probes of a split such as `forget_level1`, in file order."""
        return self.rows(split, Item)

    def rows(self, split: str, row_type: type[RowType]) -> tuple[RowType, ...]:
        """The validated rows of a file, read once.

        Raises:
            UnknownNameError: No file of the layout has that name.
            TypeError: The split holds other rows than `row_type`.
            DataError: The file is missing or broken, or a row does not hold what the format says.
        """
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
        if not issubclass(SPLITS[split], row_type):
            raise TypeError(f"{split} holds rows of type {SPLITS[split].__name__}, not {row_type.__name__}")
        if split not in self._rows:
            self._rows[split] = read_rows(self.path(split), SPLITS[split])
        return cast(tuple[RowType, ...], self._rows[split])

    def path(self, split: str) -> Path:
        """Where a file lies or would lie; a DataError if it is a link that leaves the data set."""
        if self.folder is None:
            raise DataError("the target is only a name and has no files", where=self.subject, remedy="give --data")
        path = self.folder / f"{split}.json"
        try:
            inside = path.resolve().is_relative_to(self.folder.parent.resolve())
        except (OSError, RuntimeError):  # a link that ends in itself
            inside = False
        if not inside:
            raise DataError("the file is a link that leaves its folder", where=path, remedy="put the file itself there")
        return path


def read_rows(path: Path, row_type: type[Row]) -> tuple[Row, ...]:
    """Read one file: a JSON list of objects; a DataError names the file, and the row (counted from 1) and field if any."""
    return tuple(parse_row(entry, row_type, f"{path}, row {number}") for number, entry in enumerate(read_entries(path), 1))


def read_entries(path: Path) -> list[Any]:
    """The entries of a file, not yet validated; a DataError if it holds no JSON list."""
    data = _read_json(path)
    if not isinstance(data, list):
        raise DataError("the file holds no list of rows", where=path, remedy="write a JSON list of objects")
    return data


def parse_row(entry: object, row_type: type[RowType], where: str) -> RowType:
    """Validate one entry; a DataError if it does not fit, or holds more than `MAX_ROW` characters."""
    if _size(entry) > MAX_ROW:
        raise DataError(f"a row is larger than {MAX_ROW >> 20} MB", where=where, remedy="split its text over several rows")
    try:
        return row_type.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        place = where + (f", field {name}" if name else "")
        raise DataError("a row does not fit its format", where=place, remedy=first["msg"]) from error


def _size(entry: object) -> int:
    """Characters of all texts in an entry, keys too; any other value counts as one."""
    size, rest = 0, [entry]  # no recursion: an entry may nest deeply
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            rest += [*value, *value.values()]
        elif isinstance(value, list):
            rest += value
        else:
            size += len(value) if isinstance(value, str) else 1
    return size


def _read_json(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():
            raise DataError("it is no plain file", where=path, remedy="put a file there")
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"the file is larger than {MAX_BYTES >> 20} MB", where=path, remedy="split it")
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError("the target lacks a file", where=path, remedy="add it, or choose a suite without it") from None
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8", where=path, remedy=f"re-save it as UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}, column {error.colno}"
        raise DataError("the file is not JSON", where=where, remedy=error.msg) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise DataError("the JSON cannot be read", where=path, remedy=reason) from error
    except OSError as error:
        raise DataError("the file cannot be read", where=path, remedy=str(error.strerror)) from error
