"""`check_data`: find what is missing, broken, duplicated, leaked or unbalanced in a data set.

- missing: a file that every evaluation needs, or a file without rows. A file that only some suites need is `absent`, a note; a
  target without any file about neighbors is `unprotected`, a warning.
- broken: a folder name, file or row that cannot be read, a probe with a blank answer or whose mention is not of its concept,
  or a question of another kind that asks no fact of level 2.
- duplicated: a number or subject of two folders; a probe that occurs in two rows, even with different answers: among the level
  files (forget and neighbor together), among the multiple-choice files, among the true-or-false files, or among the files of
  mentions or of reverse questions; a question of another kind that any other file asks; an alias that also names another
  concept of the target.
- leaked: a probe whose question contains the answer in whole words (unless the question lists answers to choose from); a
  neighbor that is the subject; a training question that is a probe; a description or reverse question that holds a word of
  the name, or a description that gives the answer away; a question of another kind, or a turn before it, that gives the answer
  away, and one of a conversation that holds the name.
- unbalanced: multiple-choice options that are not lettered from A, repeat, or lack the answer; a letter that is right too
  often; a true-or-false answer that is neither; texts for membership inference on one side only.

Texts are compared by their words; case, white space and punctuation are ignored.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import exp, lgamma, log
from pathlib import Path
from typing import cast

from formless.data.entries import hidden_character, read_entries
from formless.data.ort import data_folder, subject_of
from formless.data.questions.mentions import alias_faults, bundled_aliases, mention_fault
from formless.data.questions.question_kinds import asked_words, facts_of, kind_fault
from formless.data.rows import Aliases, Instruction, Item, KindItem, MentionItem, Preference, QuestionAnswer, Row
from formless.data.target import FILES, QUESTION_SET, Target, parse_row
from formless.data.words import Words, holds, words_of
from formless.errors import DataError

KINDS = ("missing", "broken", "duplicated", "leaked", "unbalanced", "unprotected", "absent")
REQUIRED = ("forget_level1", "forget_level2", "neighbor_level1", "neighbor_level2")
LEVELS = ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")
CHOICES = ("forget_mcp", "neighbor_mcp")
MENTIONS = ("forget_mentions", "neighbor_mentions")
ASKED = ("forget_kinds", "neighbor_kinds")
REVERSE = ("forget_reverse", "neighbor_reverse", "edit_reverse")
VERDICTS = ("forget_tf", "neighbor_tf")
TEXTS = ("forget_mia", "retain_mia")
TRAINING = ("reject", "pair_reject", "counterfact", "pair")
WHOLE = "all targets"
# A letter is right too often if it has over twice its share, with a probability under one in a thousand by chance.
TOO_OFTEN, BY_CHANCE = 2.0, 1e-3

Rows = Mapping[int, Row]

_NUMBER = re.compile(r"(\d+)_")
_OPTION = re.compile(r"([A-Z])[.)](?:\s+(.*))?$")


@dataclass(frozen=True)
class Finding:
    """A problem of a data set.

    Args:
        target: The name of the target's folder, or `all targets`.
        file: The file, e.g. `forget_level1`, if the problem concerns one.
        row: The row, counted from 1, if the problem concerns one.
        kind: One of `KINDS`.
        what: What is wrong, a clause.
    """

    target: str
    file: str | None
    row: int | None
    kind: str
    what: str

    @property
    def is_serious(self) -> bool:
        """Whether the data set should be corrected; an absent file is only a note, missing neighbors are a warning."""
        return self.kind not in ("absent", "unprotected")


def check_data(data: str | Path) -> list[Finding]:
    """Return all problems of a data set or of one target's folder, sorted by target, file and row.

    Raises:
        DataError: There is no such folder, or it holds no target.
    """
    folders, letters = target_folders(data), {file: list[tuple[str, int]]() for file in CHOICES}
    findings = list(_check_names([folder.name for folder in folders]))
    for folder in folders:
        files: dict[str, dict[int, Row]] = {}
        findings += _read(folder, files)
        findings += _check_target(folder.name, files)
        for file in CHOICES:
            letters[file] += _letters(files.get(file, {}))
    if len(folders) > 1:
        for file in CHOICES:
            findings += _check_letters(WHOLE, file, letters[file])
    return sorted(set(findings), key=_order)


def target_folders(data: str | Path) -> list[Path]:
    """Return the folders of a data set's targets, whatever is wrong with them, or one target's folder itself.

    Raises:
        DataError: There is no such folder, or it holds no target.
    """
    root = data_folder(data).resolve()
    folders = [root] if _has_files(root) else sorted(path for path in root.iterdir() if _is_target(path))
    if not folders:
        raise DataError(
            "no targets in the folder", where=data, remedy="give folders <N>_<Name> with files such as forget_level1.json"
        )
    return folders


def _is_target(folder: Path) -> bool:
    """Return whether a folder has a number in its name, or files of a target."""
    return folder.is_dir() and not folder.name.startswith(".") and (bool(_NUMBER.match(folder.name)) or _has_files(folder))


def _has_files(folder: Path) -> bool:
    return any((folder / f"{file}.json").exists() for file in FILES)


def _check_names(names: list[str]) -> Iterator[Finding]:
    numbers: dict[int, str] = {}
    subjects: dict[Words, str] = {}
    for name in names:
        number = _NUMBER.match(name)
        if not (number and subject_of(name).strip()):
            yield Finding(name, None, None, "broken", "the folder's name is not <N>_<Name>")
            continue
        if character := hidden_character(name):
            yield Finding(name, None, None, "broken", f"the folder's name holds the invisible or control character {character}")
            continue
        first = numbers.setdefault(int(number[1]), name)
        if first != name:
            yield Finding(name, None, None, "duplicated", f"{first} has the same number")
        first = subjects.setdefault(words_of(subject_of(name)), name)
        if first != name:
            yield Finding(name, None, None, "duplicated", f"{first} has the same subject")


def _read(folder: Path, files: dict[str, dict[int, Row]]) -> Iterator[Finding]:
    """Put the valid rows of every file into `files`, and yield the problems of the others."""
    target = Target("any", folder)  # for its paths only
    try:
        has_neighbors = any(path.name.startswith("neighbor_") for path in folder.iterdir())
    except OSError:  # each file below says so
        has_neighbors = True
    if not has_neighbors:
        what = "no file asks about neighbors, so nothing shows what an edit costs them"
        yield Finding(folder.name, None, None, "unprotected", what)
    for file, row_type in FILES.items():
        found = partial(Finding, folder.name, file)
        place = str(folder / f"{file}.json")
        try:
            path = target.path(file)
            if not path.exists():
                if file not in QUESTION_SET or target.is_question_set:
                    is_required = file in REQUIRED and (has_neighbors or not file.startswith("neighbor"))
                    is_required = is_required and not target.is_question_set
                    yield found(None, "missing" if is_required else "absent", "the file is not there")
                continue
            entries = read_entries(path)
        except DataError as error:
            yield found(None, "broken", _reason(error, place))
            continue
        except OSError as error:
            yield found(None, "broken", f"the file cannot be read: {error.strerror}")
            continue
        if not entries:
            yield found(None, "unbalanced" if file in TEXTS else "missing", "the file holds no rows")
        files[file] = {}
        for number, entry in enumerate(entries, 1):
            try:
                files[file][number] = parse_row(entry, row_type, place)
            except DataError as error:
                yield found(number, "broken", _reason(error, place))


def _reason(error: DataError, place: str) -> str:
    """Return an error's text without the place, which the finding names already."""
    detail = str(error.where).removeprefix(place).lstrip(", ")
    return ": ".join(" ".join(part.split()) for part in (error.what, detail, error.remedy) if part)


def _check_target(name: str, files: Mapping[str, Rows]) -> Iterator[Finding]:
    found = partial(Finding, name)
    probes = {file: cast(Mapping[int, Item], files.get(file, {})) for file in (*LEVELS, *CHOICES, *VERDICTS, *REVERSE)}
    for file, rows in probes.items():
        for number, item in rows.items():
            for kind, what in probe_faults(file, item, subject_of(name)):
                yield found(file, number, kind, what)
    for group in (LEVELS, CHOICES, VERDICTS, REVERSE):
        yield from _check_repeats(name, {file: probes[file] for file in group})
    for file in CHOICES:
        yield from _check_letters(name, file, _letters(probes[file]))
    sides = [file for file in TEXTS if file in files]
    if len(sides) == 1 and not ("forget_mia" in sides and "holdout_mia" in files):
        yield found(sides[0], None, "unbalanced", f"membership inference needs {' and '.join(TEXTS)}")
    yield from _check_mentions(name, files)
    yield from _check_kinds(name, files)
    yield from _check_training(name, files, probes)


def probe_faults(file: str, item: Item, subject: str) -> Iterator[tuple[str, str]]:
    """Yield the problems of one probe of a file, as kind and clause."""
    if not item.answer.strip():
        yield "broken", "the answer is blank"
    if item.neighbor and words_of(item.neighbor) == words_of(subject):
        yield "leaked", f"the neighbor {_quote(item.neighbor)} is the subject"
    if file in CHOICES:
        yield from (("unbalanced", what) for what in _check_options(item))
    elif file in VERDICTS:
        if item.answer not in ("True", "False"):
            yield "unbalanced", f"the answer {_quote(item.answer)} is neither True nor False"
    elif file != "forget_level3" and _completes_name(item, subject):
        yield "leaked", f"the answer {_quote(item.answer)} is the rest of a name in the question"
    elif _contains_answer(item):
        yield "leaked", f"the answer {_quote(item.answer)} occurs in its question {_quote(item.query)}"


def _completes_name(item: Item, subject: str) -> bool:
    """Return whether a question asks for a part of its subject's name and contains the rest: `___ da Vinci`."""
    name, answer, question = words_of(item.neighbor or subject), words_of(item.answer), words_of(item.query)
    rest = [word for word in name if word not in answer]
    return holds(name, answer) and bool(rest) and all(word in question for word in rest)


def _contains_answer(item: Item) -> bool:
    """Return whether a question contains its answer in whole words without listing answers to choose from."""
    question, answer = words_of(item.query), words_of(item.answer)
    if item.type == "multiple choice" or answer in (("yes",), ("no",)):
        return False
    is_offered = "___" not in item.query and (holds(question, (*answer, "or")) or holds(question, ("or", *answer)))
    return holds(question, answer) and not is_offered


def _check_options(item: Item) -> Iterator[str]:
    _, options = _split_options(item.query)
    letters = [letter for letter, _ in options]
    texts = Counter(" ".join(text.split()).casefold() for _, text in options)
    if len(options) < 2:
        yield "the question has fewer than two options"
        return
    if letters != [chr(ord("A") + place) for place in range(len(letters))]:
        yield f"the options are lettered {', '.join(letters)}, not from A on"
    for text, times in texts.items():
        if times > 1:
            yield f"the option {_quote(text)} occurs {times} times"
    if item.answer.strip() not in letters:
        yield f"the answer {_quote(item.answer)} is not among the options {', '.join(letters)}"


def _check_repeats(name: str, group: Mapping[str, Mapping[int, Item]]) -> Iterator[Finding]:
    first: dict[Words, tuple[str, int, str]] = {}
    for file, rows in group.items():
        for number, item in rows.items():
            question, answer = item.query, item.answer.strip()
            if file in CHOICES:  # the order of the options is ignored
                question, options = _split_options(item.query)
                answer = dict(options).get(answer, answer)
            other, row, said = first.setdefault(words_of(question), (file, number, answer))
            if (other, row) == (file, number):
                continue
            where = f"row {row}" if other == file else f"{other}, row {row}"
            if words_of(answer, is_answer=True) == words_of(said, is_answer=True):
                what = f"the same probe as {where}: {_quote(question)}"
            else:
                what = (
                    f"the same question as {where} with another answer, {_quote(answer)} for {_quote(said)}: {_quote(question)}"
                )
            yield Finding(name, file, number, "duplicated", what)


def _check_mentions(name: str, files: Mapping[str, Rows]) -> Iterator[Finding]:
    """Yield the problems of the aliases, and of the probes that name their concept in other ways."""
    subject = subject_of(name)
    probes = [cast(Item, row) for file in (*LEVELS, *CHOICES, *VERDICTS) for row in files.get(file, {}).values()]
    neighbors = {item.neighbor for item in probes if item.neighbor} | _subjects(files, "neighbor_qa")
    for file, known in (("aliases", neighbors), ("concepts", _subjects(files, "forget_qa"))):
        for number, kind, what in alias_faults(cast(Mapping[int, Aliases], files.get(file, {})), subject, known):
            yield Finding(name, file, number, kind, what)
    entries = _entries(subject, files)
    first: dict[tuple[str, str], tuple[str, int]] = {}
    for file in MENTIONS:
        for number, item in cast(Mapping[int, MentionItem], files.get(file, {})).items():
            concept = _concept(item, subject, files)
            fault = mention_fault(item, entries.get(concept, Aliases(name=concept)))
            if fault:
                yield Finding(name, file, number, *fault)
            other, row = first.setdefault((item.query, item.type), (file, number))
            if (other, row) != (file, number):
                yield Finding(name, file, number, "duplicated", f"the same probe as {other}, row {row}: {_quote(item.query)}")


def _entries(subject: str, files: Mapping[str, Rows]) -> dict[str, Aliases]:
    """Return how texts name each concept: as the target's own file says, else as the bundled one does."""
    own = cast(Mapping[int, Aliases], files["aliases"]).values() if "aliases" in files else bundled_aliases(subject)
    concepts = cast(Mapping[int, Aliases], files.get("concepts", {})).values()
    return {entry.name: entry for entry in (*own, *concepts)}


def _concept(item: Item, subject: str, files: Mapping[str, Rows]) -> str:
    """Return what an item is about; in a question set, each forget item names its own concept."""
    return item.neighbor or ("forget_qa" in files and item.subject) or subject


def _subjects(files: Mapping[str, Rows], file: str) -> set[str]:
    """Return the concepts that the questions of a file are about, as far as they are told."""
    return {row.subject for row in cast(Mapping[int, QuestionAnswer], files.get(file, {})).values() if row.subject}


def _check_kinds(name: str, files: Mapping[str, Rows]) -> Iterator[Finding]:
    """Yield the problems of the questions that ask the facts of level 2 in other ways."""
    subject = subject_of(name)
    entries = _entries(subject, files)
    first: dict[Words, tuple[str, int]] = {}
    for file in (*LEVELS, *MENTIONS, *REVERSE):
        for number, item in cast(Mapping[int, Item], files.get(file, {})).items():
            first.setdefault(words_of(item.query), (file, number))
    for file in ASKED:
        level2 = cast(Mapping[int, Item], files.get(file.replace("kinds", "level2"), {}))
        for number, item in cast(Mapping[int, KindItem], files.get(file, {})).items():
            concept = _concept(item, subject, files)
            if fault := kind_fault(item, facts_of(level2, item), entries.get(concept, Aliases(name=concept))):
                yield Finding(name, file, number, *fault)
            other, row = first.setdefault(asked_words(item), (file, number))
            if (other, row) != (file, number):
                yield Finding(name, file, number, "duplicated", f"the same probe as {other}, row {row}: {_quote(item.query)}")


def _letters(rows: Rows) -> list[tuple[str, int]]:
    """Return the right letter and the number of options of each multiple-choice probe."""
    items = cast(Iterable[Item], rows.values())
    return [(item.answer.strip(), len(options)) for item in items if len(options := _split_options(item.query)[1]) > 1]


def _check_letters(name: str, file: str, letters: list[tuple[str, int]]) -> Iterator[Finding]:
    total = len(letters)
    share = sum(1 / options for _, options in letters) / max(total, 1)
    for letter, times in sorted(Counter(letter for letter, _ in letters).items()):
        if times > TOO_OFTEN * share * total and _at_least(times, total, share) < BY_CHANCE:
            what = f"{_quote(letter)} is right in {times} of {total} rows; balanced would be {share * total:.0f}"
            yield Finding(name, file, None, "unbalanced", what)


def _at_least(times: int, total: int, share: float) -> float:
    """Return the binomial probability of `times` or more out of `total`."""
    return sum(
        exp(lgamma(total + 1) - lgamma(k + 1) - lgamma(total - k + 1) + k * log(share) + (total - k) * log(1 - share))
        for k in range(times, total + 1)
    )


def _check_training(name: str, files: Mapping[str, Rows], probes: Mapping[str, Mapping[int, Item]]) -> Iterator[Finding]:
    """Yield training questions that are probes; texts about the subject may contain what a probe asks."""
    probe_places: dict[Words, str] = {}
    for file, items in probes.items():
        for number, item in items.items():
            probe_places.setdefault(words_of(item.query), f"{file}, row {number}")
    for file in TRAINING:
        for number, row in files.get(file, {}).items():
            text = f"{row.instruction} {row.input}" if isinstance(row, Instruction) else cast(Preference, row).prompt
            if probe := probe_places.get(words_of(text)):
                yield Finding(name, file, number, "leaked", f"the probe of {probe} is trained on: {_quote(text)}")


def _split_options(query: str) -> tuple[str, list[tuple[str, str]]]:
    """Return a multiple-choice question and its options (letter, text): the last lines that begin with a letter."""
    lines = query.rstrip().split("\n")
    start = len(lines)
    while start > 1 and _OPTION.match(lines[start - 1]):
        start -= 1
    matches = [match for line in lines[start:] if (match := _OPTION.match(line))]
    return "\n".join(lines[:start]), [(match[1], match[2] or "") for match in matches]


def _quote(text: str) -> str:
    """Return a text on one line, shortened."""
    text = " ".join(text.split())
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _order(finding: Finding) -> tuple[object, ...]:
    number = _NUMBER.match(finding.target)
    return (
        finding.target == WHOLE,
        int(number[1]) if number else 0,
        finding.target,
        list(FILES).index(finding.file) if finding.file else -1,
        finding.row or 0,
        KINDS.index(finding.kind),
        finding.what,
    )
