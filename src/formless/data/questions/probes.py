"""Multiple-choice and true-or-false probes, made from level-1 probes in the published layout; mentions and reverse questions.

Each row of `forget_level1` (`neighbor_level1`) gives one row of `forget_mcp` and one of `forget_tf` (`neighbor_mcp`,
`neighbor_tf`), or is dropped and counted with the reason. Adjacent blanks are one gap. A row with several separate gaps gives
no true-or-false probe. `mentions` makes the files of mentions and `reverse` those of reverse questions; see
`formless.data.questions.mentions`. `kinds` makes paraphrases and other kinds of question from level 2; see
`formless.data.questions.question_kinds`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from formless import store
from formless.data.ort import find_target, own_folder, targets
from formless.data.questions.distractors import COUNT, Dropped, Pool
from formless.data.questions.kinds import GAP, asking_phrase, kind_of
from formless.data.questions.mentions import bundled_aliases, mention_rows, reverse_rows
from formless.data.questions.question_kinds import kind_rows
from formless.data.questions.written_kinds import write_texts
from formless.data.rows import BLANK, SPLITS, Aliases, Item, KindTexts
from formless.data.server import Journal, ReplyError, Server, ServerError, ask_validated, digest, read_object
from formless.data.target import FILES, Target
from formless.errors import DataError, OutputError, UnknownNameError
from formless.progress import Progress

FORMS = ("mcp", "tf", "mentions", "reverse", "kinds")
DEFAULT_FORMS = FORMS[:2]
LETTERS = "ABCD"
JOURNAL = ".forms.jsonl"

Choose = Callable[[Item], tuple[str, ...] | Dropped]
"""A level-1 probe -> three distractors, or the reason why the probe is dropped."""


@dataclass(frozen=True)
class Built:
    """The rows made for a file.

    Args:
        rows: The rows in the order of the file that they are made from.
        dropped: The number of rows that could not be made, by reason.
    """

    rows: tuple[dict[str, Any], ...]
    dropped: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """Return the content of the file."""
        return json.dumps(self.rows, ensure_ascii=False, indent=1) + "\n"


def multiple_choice(items: Iterable[Item], choose: Choose, *, seed: int = 0, name: str = "") -> Built:
    """Make multiple-choice probes with four options; each letter is right equally often, give or take one.

    Args:
        items: Level-1 probes; plain questions are kept as they are.
        choose: Chooses the distractors of a probe.
        seed: Seed for the order of the options.
        name: The file's name; it changes the order too, so that files differ.
    """
    kept: list[tuple[Item, tuple[str, ...]]] = []
    dropped: Counter[str] = Counter()
    for item in items:
        distractors = _unusable(item) or choose(item)
        if isinstance(distractors, Dropped):
            dropped[distractors.reason] += 1
        else:
            kept.append((item, distractors))
    rows = []
    for number, ((item, distractors), letter) in enumerate(zip(kept, _letters(len(kept), seed, name), strict=True)):
        options = _shuffled(distractors, (seed, name, number))
        options.insert(LETTERS.index(letter), item.answer.strip())
        lines = "".join(f"\n{mark}. {option}" for mark, option in zip(LETTERS, options, strict=True))
        rows.append(_row(item, item.query + lines, letter, "multiple choice"))
    return Built(tuple(rows), dropped)


def true_or_false(items: Iterable[Item]) -> Built:
    """Make true-or-false probes: each cloze with its answer filled in. As published, every statement is true."""
    rows = []
    dropped: Counter[str] = Counter()
    for item in items:
        statement = _unusable(item) or statement_of(item)
        if isinstance(statement, Dropped):
            dropped[statement.reason] += 1
        else:
            rows.append(_row(item, statement, "True", "true or false"))
    return Built(tuple(rows), dropped)


def statement_of(item: Item) -> str | Dropped:
    """Return a cloze with its answer filled in, or why there is none; the start is capitalised, full stops are not doubled."""
    gaps = list(GAP.finditer(item.query))
    if len(gaps) != 1:
        return Dropped("several separate blanks" if gaps else "a question without a blank")
    before, after = item.query[: gaps[0].start()], item.query[gaps[0].end() :]
    answer = item.answer.strip()
    if not before.strip(" '\"‘“"):
        answer = answer[0].upper() + answer[1:]
    if answer.endswith(".") and after.startswith("."):
        after = after[1:]
    return f"{before}{answer}{after}"


def build_forms(
    data: str | Path,
    *,
    names: Sequence[str] = (),
    forms: Sequence[str] = DEFAULT_FORMS,
    seed: int = 0,
    force: bool = False,
    server: Server | None = None,
    progress: Progress | None = None,
) -> dict[str, Built]:
    """Make the files of some forms for targets of a data set.

    Args:
        data: The folder of the data set.
        names: Names of targets; all targets by default. Distractors come from all targets in either case.
        forms: Some of `FORMS`.
        seed: Seed for the choice among equally good distractors and for the order of the options.
        force: Replace existing files.
        server: A server that writes the distractors and the texts of kinds in place of the offline rules. Its answers are kept
            in a journal beside the target's files until the run is complete, so that a stopped run can continue.
        progress: Called after each row that a server answered, with the file's name, the rows done and all rows.

    Returns:
        The rows of each file, by `<target's folder>/<file>`.

    Raises:
        UserError: A form or target is unknown, a file is broken, or the data set is the built-in sample.
        OutputError: A file exists already or cannot be written.
        ServerError: The server stopped answering; its answers so far are kept.
    """
    for form in forms:
        if form not in FORMS:
            raise UnknownNameError("form", form, FORMS, where="--forms")
    folder = own_folder(data)
    everything = targets(folder)
    chosen = list({target.folder: target for target in (find_target(folder, name) for name in names)}.values()) or everything
    if not chosen:
        raise DataError("the data folder holds no target", where=folder, remedy="name its folders as in 1_Ada_Lovelace")
    outputs = {target.folder: _outputs(target, forms) for target in chosen}
    if lacking := [target.folder for target in chosen if names and not outputs[target.folder]]:
        raise DataError("the target has no level 1", where=lacking[0], remedy="add forget_level1.json")
    journals = {target.folder: Journal(_folder(target) / JOURNAL) for target in chosen}
    for target in chosen:
        for path, _, _ in outputs[target.folder]:
            _refuse_existing(path, journals[target.folder], force)

    pool, done = Pool.of(everything), {}
    for target in chosen:
        journal = journals[target.folder]
        choose = _chooser(target, pool, seed, server, journal)
        built: dict[Path, Built] = {}
        for path, items, form in outputs[target.folder]:
            name = f"{_folder(target).name}/{path.stem}"
            if form == "tf":
                built[path] = true_or_false(items)
            elif form == "mentions":
                built[path] = _mentions(target, items, path)
            elif form == "kinds":
                built[path] = _kinds(target, path, server, journal, progress)
            elif form == "reverse":
                neighbors = path.stem.startswith("neighbor")
                built[path] = Built(tuple(reverse_rows(_aliases(target), target.subject, neighbors=neighbors)))
            else:
                reporting = _reporting(choose, name, len(items), progress if server else None)
                built[path] = multiple_choice(items, reporting, seed=seed, name=f"{target.subject}/{path.stem}")
        for path, content in built.items():
            journal.add(path.name, sha256=_sha256(content.text().encode()))
            store.write_text(path, content.text())
            done[f"{_folder(target).name}/{path.stem}"] = content
    for journal in journals.values():
        journal.remove()
    return done


def _aliases(target: Target) -> tuple[Aliases, ...]:
    """Return how texts name the subject and the neighbors: as the target's own file says, else as the bundled one does."""
    if target.has("aliases"):
        return target.rows("aliases", Aliases)
    items = [item for split in SPLITS for item in _items(target, f"{split}_level1") + _items(target, f"{split}_level2")]
    known = {target.subject, *(item.neighbor for item in items)}
    return tuple(entry for entry in bundled_aliases(target.subject) if entry.name in known)


def _items(target: Target, file: str) -> tuple[Item, ...]:
    return target.items(file) if target.has(file) else ()


def _kinds(target: Target, path: Path, server: Server | None, journal: Journal, progress: Progress | None) -> Built:
    """Return the rows of kinds of one split; no text may occur in another file of the target."""
    items = _items(target, path.stem.replace("kinds", "level2"))
    naming = _aliases(target)
    texts = list(target.rows("kinds", KindTexts)) if target.has("kinds") else []
    reasons: list[str] = []
    if server is not None:
        asked = [item for item in items if item.query not in {entry.question for entry in texts}]
        shown = partial(progress, f"{_folder(target).name}/{path.stem}") if progress else None
        written, reasons = write_texts(server, asked, naming, target.subject, journal, shown)
        texts += written
    files = [file for file in FILES if issubclass(FILES[file], Item) and not file.endswith("_kinds") and target.has(file)]
    taken = [item.query for file in files for item in target.items(file)]
    rows, dropped = kind_rows(items, naming, texts, target.subject, taken)
    return Built(tuple(rows), dropped + Counter(f"no text from the server: {reason}" for reason in reasons))


def _mentions(target: Target, level1: tuple[Item, ...], path: Path) -> Built:
    level2 = path.stem.replace("mentions", "level2")
    levels = {"cloze": level1, "question": _items(target, level2)}
    rows, dropped = mention_rows(levels, _aliases(target), target.subject)
    return Built(tuple(rows), dropped)


def _outputs(target: Target, forms: Sequence[str]) -> list[tuple[Path, tuple[Item, ...], str]]:
    """Return the files to make: path, the level-1 probes that it is made from, and form."""
    made = []
    for split in SPLITS:
        if target.has(f"{split}_level1"):
            items = tuple(_with_subject(item, target.subject) for item in target.items(f"{split}_level1"))
            made += [(_folder(target) / f"{split}_{form}.json", items, form) for form in FORMS if form in forms]
    return made


def _with_subject(item: Item, subject: str) -> Item:
    return item if item.subject else item.model_copy(update={"subject": subject})


def _refuse_existing(path: Path, journal: Journal, force: bool) -> None:
    """Stop before any work if a file exists that was not written by an earlier, stopped run."""
    written = journal.get(path.name)
    exists = path.is_file() or path.is_symlink()
    if exists and not force and not (written and written.get("sha256") == store.file_sha256(path)):
        raise OutputError("the file exists already", where=path, remedy="add --force, or choose other --forms or --target")
    store.refuse_existing(path, force=True)


def _chooser(target: Target, pool: Pool, seed: int, server: Server | None, journal: Journal) -> Choose:
    if server is None:
        return lambda item: pool.distractors(item, target.subject, seed=seed)
    return lambda item: _ask_server(server, item, target.subject, pool, journal)


class _Reply(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    distractors: list[str]


def _ask_server(server: Server, item: Item, target: str, pool: Pool, journal: Journal) -> tuple[str, ...] | Dropped:
    """Ask a server for distractors, checked by the offline rules. A row in the journal is not asked again."""

    def checked(texts: Sequence[str]) -> tuple[str, ...]:
        stripped = tuple(text.strip() for text in texts)
        faults = [pool.fault(text, item, target, stripped[:place]) for place, text in enumerate(stripped)]
        if len(stripped) != COUNT:
            raise ValueError(f"there must be {COUNT} distractors, not {len(stripped)}")
        if any(faults):
            raise ValueError("; ".join(fault for fault in faults if fault))
        return stripped

    key = digest(server.model, item.query, item.answer, item.subject, item.neighbor)
    known = journal.get(key) or {}
    if isinstance(known.get("dropped"), str):
        return Dropped(known["dropped"])
    try:
        return checked(_Reply.model_validate(known and {"distractors": known.get("distractors")}).distractors)
    except ValueError:  # not in the journal yet, or the line was changed by hand
        pass
    try:
        found = ask_validated(server, _prompt(item), lambda reply: checked(read_object(reply, _Reply).distractors))
    except ReplyError as error:
        journal.add(key, dropped=str(error.remedy))
        return Dropped(str(error.remedy))
    except ServerError as error:
        raise ServerError(error.what, where=error.where, remedy=f"{error.remedy}; finished rows are kept") from None
    journal.add(key, distractors=list(found))
    return found


def _prompt(item: Item) -> str:
    kind = kind_of(item.query, item.answer)
    return (
        f"Write {COUNT} wrong answers for a multiple choice question. Each must be clearly false, of the same kind as the "
        f"right answer (it says {asking_phrase(kind)}), about as long, and different from the others and from all words of the "
        f"question.\n\nQuestion: {item.query}\nRight answer: {item.answer}\n\n"
        'Reply with one JSON object and nothing else: {"distractors": ["...", "...", "..."]}'
    )


def _reporting(choose: Choose, label: str, total: int, progress: Progress | None) -> Choose:
    if progress is None:
        return choose
    done = 0

    def reporting(item: Item) -> tuple[str, ...] | Dropped:
        nonlocal done
        found = choose(item)
        done += 1
        progress(label, done, total)
        return found

    return reporting


def _unusable(item: Item) -> Dropped | None:
    if not item.answer.strip():
        return Dropped("the answer is empty")
    if len(item.answer.strip().splitlines()) > 1 or BLANK in item.answer:
        return Dropped("the answer holds a line break or a blank")
    return None


def _row(item: Item, query: str, answer: str, kind: str) -> dict[str, str]:
    row = {"query": query, "answer": answer, "level": "4", "type": kind, "subject": item.subject}
    return row | ({"neighbor": item.neighbor} if item.neighbor is not None else {})


def _letters(count: int, seed: int, name: str) -> list[str]:
    """Return the right letters of a file in random order; which letters occur once more than others is random too."""
    first = _shuffled(LETTERS, (seed, name, "letters"))
    return _shuffled([first[number % len(LETTERS)] for number in range(count)], (seed, name, "order"))


def _shuffled(values: Sequence[str], salt: object) -> list[str]:
    """Return the values in an order that depends on the arguments only."""
    keyed = [(_sha256(repr((salt, place)).encode("utf-8", "surrogatepass")), value) for place, value in enumerate(values)]
    return [value for _, value in sorted(keyed)]


def _folder(target: Target) -> Path:
    if target.folder is None:
        raise DataError("the target is only a name and has no files", where=target.subject, remedy="give --data")
    return target.folder


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
