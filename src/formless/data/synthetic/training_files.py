"""Training files of a target, written by the model that shall unlearn it: biographies, questions, refusals and wrong answers.

Differs from the paper: the openings, instructions and refusals are our own; what the published scripts take as it comes is
checked here, and questions that the evaluation asks are left out.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from formless import store
from formless.data.refusals import REFUSALS
from formless.data.server import Journal
from formless.data.target import SPLITS, Intro, Target
from formless.data.training import openings
from formless.data.training.assignments import Concept
from formless.data.training.drafts import Draft, Progress, Stage, Write, open_journal, write_stage
from formless.errors import DataError, UnknownNameError, UserError

FILES = ("positive", "negative", "pair", "reject", "counterfact", "pair_reject")
JOURNAL = ".training.jsonl"
SPARE = 8
"""For so many rows one more question is asked for, since some cannot be had or get no answer."""

PROBES = tuple(f"{split}_{form}" for split in ("forget", "neighbor") for form in ("level1", "level2", "level3", "mcp", "tf"))

# Which files need which texts; each kind of text may need those above it.
NEEDS = {
    "true biographies": {"positive", "pair"},
    "made-up biographies": {"negative", "pair"},
    "questions": {"reject", "counterfact", "pair_reject"},
    "answers": {"counterfact", "pair_reject"},
    "wrong answers": {"counterfact"},
}


@dataclass(frozen=True)
class Outcome:
    """What a run wrote.

    Args:
        rows: How many rows each file has.
        missing: For each kind of text that files lack rows for, how many could not be had, by reason.
    """

    rows: dict[str, int]
    missing: dict[str, Counter[str]]


def check_output(target: Target, out: Path, files: Sequence[str], *, force: bool = False) -> Path:
    """Refuse what can be refused before a model is loaded.

    Returns:
        The folder that gets the files.

    Raises:
        UserError: An unknown file or one named twice, a bare name as target, a broken file of its, or an output in the way.
    """
    for file in files:
        if file not in FILES:
            raise UnknownNameError("training file", file, FILES, where="--files")
    if not files or len(set(files)) < len(files):
        raise UserError("each file is wanted once", where="--files", remedy=f"choose from {', '.join(FILES)}")
    if target.folder is None:
        raise DataError("the target is only a name and has no files", where=target.subject, remedy="give --data")
    concept_of(target, seed=0)
    folder = out / target.folder.name
    # A run that died between its files may replace those that it wrote.
    path = folder / JOURNAL
    announced = (Journal(path).get("written") or {}).get("files", ()) if path.is_file() else ()
    for file in files:
        if file not in announced:
            store.refuse_existing(folder / f"{file}.json", force=force)
    return folder


def write_training(
    target: Target,
    write: Write,
    out: Path,
    *,
    model: str,
    files: Sequence[str] = FILES,
    rows: int = 64,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Write training files into `out/<N_Name>/`; goes on where a killed run stopped.

    Args:
        target: The target; its probes are kept out of the questions.
        write: The model.
        out: The data set that gets the folder.
        model: What distinguishes the model from others (a fingerprint).
        files: Which of `FILES`.
        rows: How many rows each file shall have (published: 582 biographies, 300 questions).
        seed: Of the sampling, and of the order of openings and refusals.
        force: Replace existing files.
        progress: Called with the kind of text, how many are done and how many are wanted.

    Raises:
        UserError: As `check_output`; an unfinished run with other options is there, or a file would have no row at all.
    """
    folder = check_output(target, out, files, force=force)
    concept = concept_of(target, seed=seed)
    journal = open_journal(folder / JOURNAL, _run(concept) | {"model": model})
    draft = partial(write_stage, write=write, journal=journal, seed=seed, progress=progress)
    drafts = _write_texts(concept, range(rows), files, draft)
    texts = {kind: _texts(found) for kind, found in drafts.items()}
    made = {file: _rows(file, concept, texts)[:rows] for file in files}
    journal.add("written", files=list(files))
    for file, entries in made.items():
        store.write_text(folder / f"{file}.json", json.dumps(entries, ensure_ascii=False, indent=1) + "\n")
    journal.remove()
    counts = {file: len(entries) for file, entries in made.items()}
    missing = {
        kind: Counter(draft.objection for draft in found.values() if draft.text is None) for kind, found in drafts.items()
    }
    short = {kind for kind, served in NEEDS.items() if any(counts.get(file, rows) < rows for file in served)}
    return Outcome(counts, {kind: why for kind, why in missing.items() if why and kind in short})


def concept_of(target: Target, *, seed: int) -> Concept:
    """What a target's texts are about: its intro (without RWKU's "Please forget ...") and every probe.

    Raises:
        DataError: A file is broken.
    """
    intros = target.rows("intro", Intro) if target.has("intro") else ()
    intro = intros[0].intro.removeprefix(f"Please forget {target.subject}.").strip() if intros else ""
    queries = [item.query for split in PROBES if split in SPLITS and target.has(split) for item in target.items(split)]
    # A probe may hold several questions (worked examples), or options after its question.
    parts = [part.strip() for query in queries for part in [query, *re.split(r"\n|Question:|Answer:", query)]]
    return Concept(target.subject, intro, tuple(dict.fromkeys(part for part in parts if part)), seed)


def _run(concept: Concept) -> dict[str, str]:
    """What the texts depend on, beside the model."""
    return {
        "subject": concept.subject,
        "intro": concept.intro,
        "seed": str(concept.seed),
        "wording": _digest([*openings.WORDING, REFUSALS]),
        "set of probes": _digest(concept.probes),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _write_texts(
    concept: Concept, slots: Sequence[int], files: Sequence[str], write: Callable[[Stage], dict[int, Draft]]
) -> dict[str, dict[int, Draft]]:
    """Every kind of text that some files need, in order.

    Raises:
        UserError: The model wrote no usable text of some kind.
    """
    drafts: dict[str, dict[int, Draft]] = {}
    texts: dict[str, dict[int, str]] = {kind: {} for kind in NEEDS}
    stages: dict[str, Callable[[], Stage]] = {
        "true biographies": lambda: concept.true_biographies(slots),
        "made-up biographies": lambda: concept.made_up_biographies(slots),
        "questions": lambda: concept.questions(range(len(slots) + max(1, len(slots) // SPARE))),
        "answers": lambda: concept.answers(texts["questions"]),
        "wrong answers": lambda: concept.wrong_answers(texts["questions"], texts["answers"]),
    }
    for kind in (kind for kind, served in NEEDS.items() if served & set(files)):
        drafts[kind] = write(stages[kind]())
        texts[kind] = _texts(drafts[kind])
        if not texts[kind]:
            reason, _ = Counter(draft.objection for draft in drafts[kind].values()).most_common(1)[0]
            raise _nothing(kind, reason)
    return drafts


def _texts(drafts: dict[int, Draft]) -> dict[int, str]:
    return {slot: draft.text for slot, draft in drafts.items() if draft.text is not None}


def _rows(file: str, concept: Concept, texts: dict[str, dict[int, str]]) -> list[dict[str, Any]]:
    """The rows of a file, one for each slot whose texts are all there; the slot's number is in the row's id."""
    true, made_up, questions, answers, wrong = (texts.get(kind, {}) for kind in NEEDS)
    order = random.Random(f"{concept.seed}|refusals").sample(REFUSALS, len(REFUSALS))
    refusals = {slot: order[slot % len(order)] for slot in questions}
    fields: dict[str, dict[int, dict[str, Any]]] = {
        "positive": {slot: {"text": text} for slot, text in true.items()},
        "negative": {slot: {"text": text} for slot, text in made_up.items()},
        "pair": {
            slot: {"prompt": concept.prompt, "response": [made_up[slot], text]}
            for slot, text in true.items()
            if made_up.get(slot, text) != text
        },
        "reject": {slot: {"instruction": text, "input": "", "output": refusals[slot]} for slot, text in questions.items()},
        "counterfact": {slot: {"instruction": questions[slot], "input": "", "output": text} for slot, text in wrong.items()},
        "pair_reject": {
            slot: {"prompt": questions[slot], "response": [refusals[slot], text]} for slot, text in answers.items()
        },
    }
    named = file not in ("reject", "counterfact")
    rows = []
    for slot, found in fields[file].items():
        row = ({"id": f"{concept.subject} {slot}"} if named else {}) | found
        row |= {"subject": concept.subject, "intro": concept.intro}
        SPLITS[file].model_validate(row)
        rows.append(row)
    if not rows:
        raise _nothing(f"{file}.json", "its texts were had for different rows only")
    return rows


def _nothing(what: str, reason: str) -> UserError:
    remedy = "try a larger model or another --seed, or leave out with --files what needs them"
    return UserError(f"the model wrote no usable {what} ({reason})", remedy=remedy)
