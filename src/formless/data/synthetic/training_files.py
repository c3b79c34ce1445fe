"""Training files of a target, written by the model that is to unlearn it: biographies, questions, refusals, wrong answers.

Differs from the paper: the openings, prompts and refusals are our own; every text is checked, while the published scripts keep
all of them; and questions that the evaluation asks are left out.
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
from formless.data.rows import SPLITS, Intro
from formless.data.server import Journal
from formless.data.synthetic import prompts
from formless.data.synthetic.rejection_sampling import Sample, Sampler, TextKind, open_journal, sample_texts
from formless.data.synthetic.text_kinds import Concept
from formless.data.target import FILES, Target
from formless.errors import DataError, UnknownNameError, UserError
from formless.progress import Progress

TRAINING_FILES = ("positive", "negative", "pair", "reject", "counterfact", "pair_reject")
JOURNAL = ".training.jsonl"
EXTRA_EVERY = 8
"""One extra question is sampled for every eight rows, since some questions are rejected or get no answer."""

PROBES = tuple(f"{split}_{form}" for split in SPLITS for form in ("level1", "level2", "level3", "mcp", "tf"))

# The files that need each kind of text; a kind may depend on the kinds above it.
NEEDS = {
    "true biographies": {"positive", "pair"},
    "made-up biographies": {"negative", "pair"},
    "questions": {"reject", "counterfact", "pair_reject"},
    "answers": {"counterfact", "pair_reject"},
    "wrong answers": {"counterfact"},
}


@dataclass(frozen=True)
class WrittenFiles:
    """The files that a run wrote.

    Args:
        rows: The number of rows of each file.
        missing: For each kind of text that is the reason for missing rows, the number of rejected texts by reason.
    """

    rows: dict[str, int]
    missing: dict[str, Counter[str]]


def check_output(target: Target, out: Path, files: Sequence[str], *, force: bool = False) -> Path:
    """Check the arguments and the output before a model is loaded.

    Returns:
        The folder for the files.

    Raises:
        UserError: A file is unknown or named twice, the target is only a name, one of its files is broken, or an output exists.
    """
    for file in files:
        if file not in TRAINING_FILES:
            raise UnknownNameError("training file", file, TRAINING_FILES, where="--files")
    if not files or len(set(files)) < len(files):
        remedy = f"choose from {', '.join(TRAINING_FILES)}"
        raise UserError("name at least one file, and each file once", where="--files", remedy=remedy)
    if target.folder is None:
        raise DataError("the target is only a name and has no files", where=target.subject, remedy="give --data")
    concept_of(target, seed=0)
    folder = out / target.folder.name
    # A run that was killed between its files may replace the files that it wrote.
    path = folder / JOURNAL
    announced = (Journal(path).get("written") or {}).get("files", ()) if path.is_file() else ()
    for file in files:
        if file not in announced:
            store.refuse_existing(folder / f"{file}.json", force=force)
    return folder


def write_training(
    target: Target,
    sampler: Sampler,
    out: Path,
    *,
    model: str,
    files: Sequence[str] = TRAINING_FILES,
    rows: int = 64,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> WrittenFiles:
    """Write training files into `out/<N_Name>/`, continuing a run that was killed.

    Args:
        target: The target; no training question repeats one of its probes.
        sampler: Samples from the model.
        out: The folder of the data set.
        model: A fingerprint of the model.
        files: Some of `TRAINING_FILES`.
        rows: The number of rows per file (published: 582 biographies, 300 questions).
        seed: Seed for the sampling and for the order of openings and refusals.
        force: Replace existing files.
        progress: Called with the kind of text, the texts done and all texts.

    Raises:
        UserError: As for `check_output`; an unfinished run with other options is there, or a file would have no rows.
    """
    folder = check_output(target, out, files, force=force)
    concept = concept_of(target, seed=seed)
    journal = open_journal(folder / JOURNAL, _run(concept) | {"model": model})
    sample = partial(sample_texts, sampler=sampler, journal=journal, seed=seed, progress=progress)
    samples = _sample_kinds(concept, range(rows), files, sample)
    texts = {kind: _accepted(found) for kind, found in samples.items()}
    made = {file: _rows(file, concept, texts)[:rows] for file in files}
    journal.add("written", files=list(files))
    for file, entries in made.items():
        store.write_text(folder / f"{file}.json", json.dumps(entries, ensure_ascii=False, indent=1) + "\n")
    journal.remove()
    counts = {file: len(entries) for file, entries in made.items()}
    missing = {
        kind: Counter(sample.rejection for sample in found.values() if sample.text is None) for kind, found in samples.items()
    }
    short = {kind for kind, served in NEEDS.items() if any(counts.get(file, rows) < rows for file in served)}
    return WrittenFiles(counts, {kind: why for kind, why in missing.items() if why and kind in short})


def concept_of(target: Target, *, seed: int) -> Concept:
    """Return the concept of a target: its name, its intro (without RWKU's "Please forget ...") and every probe.

    Raises:
        DataError: A file is broken.
    """
    intros = target.rows("intro", Intro) if target.has("intro") else ()
    intro = intros[0].intro.removeprefix(f"Please forget {target.subject}.").strip() if intros else ""
    queries = [item.query for file in PROBES if file in FILES and target.has(file) for item in target.items(file)]
    # A probe may hold several questions (worked examples), or options after the question.
    parts = [part.strip() for query in queries for part in [query, *re.split(r"\n|Question:|Answer:", query)]]
    return Concept(target.subject, intro, tuple(dict.fromkeys(part for part in parts if part)), seed)


def _run(concept: Concept) -> dict[str, str]:
    """Return everything that the texts depend on besides the model."""
    return {
        "subject": concept.subject,
        "intro": concept.intro,
        "seed": str(concept.seed),
        "wording": _digest([*prompts.WORDING, REFUSALS]),
        "set of probes": _digest(concept.probes),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _sample_kinds(
    concept: Concept, slots: Sequence[int], files: Sequence[str], sample: Callable[[TextKind], dict[int, Sample]]
) -> dict[str, dict[int, Sample]]:
    """Sample every kind of text that the files need, in order.

    Raises:
        UserError: Every text of a kind was rejected.
    """
    samples: dict[str, dict[int, Sample]] = {}
    texts: dict[str, dict[int, str]] = {kind: {} for kind in NEEDS}
    kinds: dict[str, Callable[[], TextKind]] = {
        "true biographies": lambda: concept.true_biographies(slots),
        "made-up biographies": lambda: concept.made_up_biographies(slots),
        "questions": lambda: concept.questions(range(len(slots) + max(1, len(slots) // EXTRA_EVERY))),
        "answers": lambda: concept.answers(texts["questions"]),
        "wrong answers": lambda: concept.wrong_answers(texts["questions"], texts["answers"]),
    }
    for kind in (kind for kind, served in NEEDS.items() if served & set(files)):
        samples[kind] = sample(kinds[kind]())
        texts[kind] = _accepted(samples[kind])
        if not texts[kind]:
            reason, _ = Counter(found.rejection for found in samples[kind].values()).most_common(1)[0]
            raise _no_usable(kind, reason)
    return samples


def _accepted(samples: dict[int, Sample]) -> dict[int, str]:
    return {slot: sample.text for slot, sample in samples.items() if sample.text is not None}


def _rows(file: str, concept: Concept, texts: dict[str, dict[int, str]]) -> list[dict[str, Any]]:
    """Return the rows of a file, one for each slot that has all its texts; the row's id holds the slot's number."""
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
        FILES[file].model_validate(row)
        rows.append(row)
    if not rows:
        raise _no_usable(f"{file}.json", "no row has all the texts that it needs")
    return rows


def _no_usable(what: str, reason: str) -> UserError:
    remedy = "try a larger model or another --seed, or leave out the files that need it with --files"
    return UserError(f"the model wrote no usable {what} ({reason})", remedy=remedy)
