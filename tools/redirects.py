"""Measure ROCR with several redirects: what each takes, what it costs the neighbors, and what the edited model then says.

    python -m tools.redirects measure smollm2 1-4 --out runs/redirects
    python -m tools.redirects measure qwen2.5-coder-1.5b 1 --dtype bfloat16 --limit 4 --out runs/redirects
    python -m tools.redirects page runs/redirects

`measure` resumes: there is one file for each model, concept and redirect. `page` writes docs/results/redirects.json.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from statistics import mean
from typing import Any, cast

import formless
from formless import provenance
from formless.data.refusals import is_ignorance, is_refusal
from formless.data.spellings import named_alone, spellings
from formless.data.target import Target
from formless.evaluation.evaluate import evaluate
from formless.evaluation.metrics import says
from formless.evaluation.record import ItemResult, Record
from formless.experiment.grid import chosen_targets
from formless.methods.keys.candidates import AUTO
from formless.methods.keys.choice import choose_redirects
from formless.methods.registry import method_config
from formless.methods.rocr.config import PUBLISHED_REDIRECT, RocrConfig
from formless.models.lm import LM
from formless.models.scores import Score
from tools.results import FOLDER, Cell, Column, Result, write_result

REJECT = "mode=reject"
"""The row of the refusal mode."""

SETTINGS: dict[str, Any] = {}
"""Other settings of ROCR: none, so those of the model."""

KNOWN = "known.json"

SUITE, FORGET_MOST, NEIGHBOR_MOST, TOKENS = "statement,fb,qa,qa_mentions", 4, 8, 24
"""What is asked of the original model, most known items of each form and mention that are asked again, and of an answer."""

QUESTIONS = ("Who was {}?", "What is {} known for?", "When was {} born?", "Where did {} live?", "Tell me about {}.")
ASKED = ("full name", "other mentions", "neighbors")
KINDS = ("refusal", "does not know", "redirect", "other")


def measure(lm: LM, targets: Sequence[Target], out: Path, limit: int) -> None:
    """Measure each concept with each redirect and with the choice of `auto`, unless that is done."""
    layer = cast(RocrConfig, method_config(lm.settings, "rocr", SETTINGS)).layers[-1]
    choices = dict(zip((each.subject for each in targets), choose_redirects(lm, targets, layer), strict=True))
    for target in targets:
        folder = _folder(lm, target, out)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "auto.json", {"subject": target.subject} | asdict(choices[target.subject]))
        if not (folder / KNOWN).exists():
            _write(folder / KNOWN, list(_known(evaluate(lm, target, SUITE, limit=limit, progress=False))))
    for redirect in (AUTO, *REDIRECTS):
        for target in targets:
            name = choices[target.subject].redirect if redirect == AUTO else redirect
            path = _folder(lm, target, out) / ("redirect_" + re.sub(r"\W+", "_", name) + ".json")
            if not path.exists():
                found = _measured(lm, target, _read(path.with_name(KNOWN)), name)
                _write(path, {"subject": target.subject, "redirect": name} | found)
                print(lm.name, target.subject, name, flush=True)


def _folder(lm: LM, target: Target, out: Path) -> Path:
    return out / lm.name / target.subject.replace(" ", "_")


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _write(path: Path, found: Any) -> None:
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False), "utf-8")


def _known(record: Record) -> Iterator[dict[str, Any]]:
    """Yield the known items that are asked again: about the concept by the full name and by others, and about neighbors."""
    counts: Counter[tuple[Any, ...]] = Counter()
    for task in record.tasks:
        for item in task.items:
            about = _about(task.task, task.split, item)
            counts[key := (task.task, task.split, item.group)] += bool(about)
            if about and counts[key] <= (NEIGHBOR_MOST if about == "neighbors" else FORGET_MOST):
                yield {
                    "about": about, "prompt": item.prompt, "answer": item.expected, "before": item.metrics["probability"],
                }  # fmt: skip


def _about(task: str, split: str | None, item: ItemResult) -> str | None:
    if not item.is_known or (split == "neighbor" and task == "qa_mentions"):
        return None
    if split == "neighbor":
        return "neighbors"
    return "full name" if task != "qa_mentions" or item.group == "full name" else "other mentions"


def _measured(lm: LM, target: Target, items: Sequence[dict[str, Any]], redirect: str) -> dict[str, Any]:
    own = {"mode": "reject"} if redirect == REJECT else {"redirect": redirect}
    edit = formless.unlearn(lm, target, "rocr", progress=False, **SETTINGS | own)
    before = [] if redirect == REJECT else _answers(lm, redirect)
    with edit.applied(lm):
        scores = lm.score([(item["prompt"], item["answer"]) for item in items])
        answers, after = _answers(lm, target.subject), [] if redirect == REJECT else _answers(lm, redirect)
    changes = [
        {"about": item["about"], "before": item["before"], "after": score.probability}
        for item, score in zip(items, scores, strict=True)
        if isinstance(score, Score)
    ]
    return {"seconds": edit.info.seconds, "changes": changes, "answers": answers, "before": before, "after": after}


def _answers(lm: LM, name: str) -> list[str]:
    return lm.generate([lm.chat_prompt(question.format(name)) for question in QUESTIONS], max_new_tokens=TOKENS)


def kind(answer: str, redirect: str) -> str:
    """Return the kind of an answer, one of `KINDS`."""
    if is_refusal(answer):
        return "does not know" if is_ignorance(answer) else "refusal"
    last = redirect.split()[-1]
    names = (*spellings(named_alone(redirect)), *([last] if last[0].isupper() else []))
    return "redirect" if says(answer, names) else "other"


def page(out: Path) -> Result:
    """Return the results page of a folder that `measure` wrote: a row for each model and redirect."""
    percent = {"unit": "%", "format": "+.0f"}
    columns = [Column(name="model"), Column(name="redirect"), Column(name="concepts")]
    columns += [Column(name=name, **percent) for name in ASKED]
    columns += [Column(name=f"answers: {name}", unit="%", format=".0f") for name in KINDS]
    columns += [Column(name="answers about the redirect that change", unit="%", format=".0f"), Column(name="chosen for")]
    models = sorted(out.iterdir(), key=lambda model: -len([*model.glob("*/auto.json")]))
    rows = [row for model in models for row in _rows(model)]
    shown = [place for place in range(len(columns)) if any(row[place] is not None for row in rows)]
    subjects = dict.fromkeys(_read(path)["subject"] for path in sorted(out.glob("*/*/auto.json")))
    return Result(
        title="Redirects of ROCR", topic="Forgetting and retention",
        about="What ROCR with one key takes from known items and costs the neighbors, by the concept that it redirects to, and "
        "what the edited model says about the target.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{', '.join(subjects)}, on which the candidates were chosen; known items only",
        command=[line for line in COMMANDS if "measure" not in line or any(model.name in line for model in models)],
        columns=[columns[place] for place in shown], rows=[[row[place] for place in shown] for row in rows], notes=NOTES,
    )  # fmt: skip


def _rows(model: Path) -> Iterator[list[Cell]]:
    """Yield a row for each redirect that every concept of a model was measured with, and one for the choices of `auto`."""
    folders = [path.parent for path in sorted(model.glob("*/auto.json"))]
    chosen = {folder: _read(folder / "auto.json") for folder in folders}
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        for path in sorted(folder.glob("redirect_*.json")):
            one = _read(path)
            is_chosen = one["redirect"] == chosen[folder]["redirect"]
            for name in (one["redirect"], *([AUTO] if is_chosen else [])):
                found.setdefault(name, []).append(one)
    for redirect in (AUTO, *sorted(found.keys() - {AUTO})):
        cells = found.get(redirect, [])
        if len(cells) < len(folders):
            continue
        said = Counter(kind(answer, one["redirect"]) for one in cells for answer in one["answers"])
        shares: list[Cell] = [round(100 * said[name] / sum(said.values()), 1) for name in KINDS]
        is_whole = all(one["before"] for one in cells)
        own = [pair for one in cells for pair in zip(one["before"], one["after"], strict=True) if is_whole]
        changed = round(100 * mean(before != after for before, after in own), 1) if own else None
        names = ", ".join(each["subject"] for each in chosen.values() if each["redirect"] == redirect)
        yield [model.name, redirect, len(cells), *(_change(cells, about) for about in ASKED), *shares, changed, names or None]


def _change(cells: Sequence[dict[str, Any]], about: str) -> float | None:
    """Return the mean over concepts of the relative change of the mean probability."""
    found = [[change for change in one["changes"] if change["about"] == about] for one in cells]
    changes = [sum(each["after"] for each in own) / sum(each["before"] for each in own) - 1 for own in found if own]
    return round(100 * mean(changes), 1) if changes else None


COMMANDS = [line.strip() for line in __doc__.splitlines() if line.startswith("    ")]
REDIRECTS = (PUBLISHED_REDIRECT, "a person of whom nothing is known", "Zeus", "Cleopatra", "Charles Dickens", REJECT)
NOTES = [
    "The change is edited/original - 1 of the mean probability of the right answer, the mean over concepts. Asked are items "
    "that the original model knows: statements, blanks and questions by the full name, questions by other mentions, and "
    "statements, blanks and questions about the neighbors.",
    "The answers are greedy, 24 tokens long, to five free questions about the target. They are sorted by rules: a refusal, a "
    "refusal that pleads ignorance, one that names the redirect, any other. Nearly all of the others state made-up facts. "
    "The same questions about the redirect have other answers than before, in some word, as often as the last column but one "
    "says.",
    "`auto` takes the candidate that is farthest from the target and its neighbors. On the larger model the two nearest of the "
    "measured candidates, Zeus and the person of whom nothing is known, forget about half as much as the two farthest. On the "
    "small one the distance says hardly anything about the forgetting, which turns on facts that target and redirect happen to "
    "share, and every concept gets the same redirect.",
    "The candidates were chosen on these concepts, so the page is no test of the rule. The larger model was measured on one "
    "concept, with 26 items.",
    "What the mode `reject` takes instead is on [ROCR's modes](rocr_modes.md).",
    "Four concepts differ more among themselves than the redirects do: a difference of ten points says little.",
]


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    measured = commands.add_parser("measure", help="measure what is missing")
    measured.add_argument("model")
    measured.add_argument("targets", help="numbers of the sample set")
    measured.add_argument("--dtype", default="auto")
    measured.add_argument("--limit", type=int, default=12, help="most items of each form before the known ones are chosen")
    measured.add_argument("--out", type=Path, required=True)
    commands.add_parser("page", help="write the page").add_argument("out", type=Path)
    given = parser.parse_args()
    if given.command == "page":
        write_result(FOLDER / "redirects.json", page(given.out))
        return
    lm = formless.load(given.model, dtype=given.dtype)
    measure(lm, chosen_targets("sample", given.targets), given.out, given.limit)


if __name__ == "__main__":
    main()
