"""Compare edits where the name is the answer: token rows and linear erasure, beside the removal of a direction and ROCR.

The commands are in `COMMANDS`; `measure` resumes, `page` writes docs/results/output_side.json from a folder of measurements.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import yaml

import formless
from formless import provenance
from formless.data.rows import SPLITS, Item, Reverse
from formless.data.target import Target
from formless.errors import EditError
from formless.evaluation.foils import Foils
from formless.evaluation.prompts import short_answer_prompt
from formless.evaluation.task import Query, ScoreAnswer, Source
from formless.evaluation.tasks.question import ask_question, message
from formless.evaluation.tasks.reverse import ask_reverse
from formless.models.lm import LM
from formless.models.scores import Score
from tools.output_edits import At, adapter, linear_erasure, own_tokens, reverse_keys, token_rows
from tools.results import FOLDER, Cell, Column, Result, write_result

COMMANDS = [
    "cp -r src/formless/data/sample people",
    "for n in 1 2 3 4; do formless data edit-questions --data people -t $n --model qwen2.5-coder-1.5b --dtype bfloat16; done",
    "for n in 1 2 3 4; do python -m tools.output_side measure smollm2 people $n runs/output; done",
    "for n in 1 3; do python -m tools.output_side measure qwen2.5-coder-1.5b people $n runs/output --limit 8; done",
    "python -m tools.output_side page runs/output",
]
RETENTION = 0.96
KNOWN_FROM = 0.05
"""The least probability before the edit of an item without foils."""

SHARED: Mapping[str, Mapping[str, str]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))

Asked = tuple[str, str, str, float]
"""An item's group, prompt, answer, and the answer's probability before any edit."""


def known_items(lm: LM, target: Target, limit: int) -> list[Asked]:
    """Return the items that the original model prefers to every foil, or gives `KNOWN_FROM` where there is no foil."""
    foils, asked = Foils(target), list[tuple[str, Query]]()
    for split in SPLITS:
        source = Source(split, split, foils, target)
        asked += [(f"{split} name", ask_question(lm, row, source)) for row in target.rows(f"{split}_level2", Item)[:limit]]
        about = target.rows(f"{split}_reverse", Reverse)[:limit]
        asked += [(f"{split} reverse", ask_reverse(lm, row, source)) for row in about]
    for row in target.rows("forget_reverse", Reverse):
        prompt = short_answer_prompt(lm, message(row) + "Write the answer in lower case letters.\n", "answer:")
        asked.append(("lower case", Query(row.query, (ScoreAnswer(prompt, f" {row.answer.lower()}"),))))
    shared = [Item(query=query, answer=answer) for query, answer in SHARED.get(target.subject, {}).items()]
    asked += [("shared", ask_question(lm, item, Source("", None))) for item in shared]
    scored = [(group, [cast(ScoreAnswer, one) for one in (query.requests[0], *query.foils)]) for group, query in asked]
    pairs = list(dict.fromkeys((one.prompt, one.answer) for _, requests in scored for one in requests))
    found = dict(zip(pairs, probabilities(lm, pairs), strict=True))
    items = []
    for group, requests in scored:
        before, *others = (found[one.prompt, one.answer] for one in requests)
        if before > max(others, default=KNOWN_FROM):
            items.append((group, requests[0].prompt, requests[0].answer, before))
    return items


def probabilities(lm: LM, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return the probability of each answer after its prompt."""
    return [cast(Score, score).probability for score in lm.score(pairs)]


EDITS: Mapping[str, tuple[Sequence[float], Callable[[LM, Target], At]]] = {
    "concept direction removal": ((0.5, 1.0, 1.5, 2.0), lambda lm, target: adapter(lm, target, "cdr", budget=1)),
    "ROCR, before the name too": ((0.5, 1.0, 2.0), reverse_keys),
    "token rows, output": ((1.0,), lambda lm, target: token_rows(lm, target, into=False)),
    "token rows, input and output": ((1.0,), lambda lm, target: token_rows(lm, target, into=True)),
    "linear erasure before the name": ((0.5, 1.0, 1.5, 2.0), lambda lm, target: linear_erasure(lm, target, before_name=True)),
    "linear erasure at the name": ((2.0, 4.0, 6.0, 8.0), lambda lm, target: linear_erasure(lm, target, before_name=False)),
}
"""By title, the strengths that are measured, ascending, and how the edit is computed."""


def measure(model: str, data: str, number: str, out: Path, limit: int) -> None:
    """Measure every edit of a target at each strength, unless that is done."""
    target = next(one for one in formless.targets(data) if one.folder and one.folder.name.split("_")[0] == number)
    path = out / f"{model}-{number}.json"
    lm = formless.load(model, dtype="bfloat16")
    if path.exists():
        kept = json.loads(path.read_text("utf-8"))
    else:
        kept = {"model": model, "subject": target.subject, "limit": limit, "edits": {}}
        kept["tokens"] = lm.tokenizer.convert_ids_to_tokens(own_tokens(lm, target))
        kept["items"] = known_items(lm, target, limit)
    pairs = [(prompt, answer) for _, prompt, answer, _ in kept["items"]]
    for title, (strengths, compute) in EDITS.items():
        done = kept["edits"].setdefault(title, {})
        if missing := [strength for strength in strengths if str(strength) not in done]:
            try:
                at = compute(lm, target)
            except EditError as error:
                print(f"{target.subject}, {title}: {error}")
                continue
            for strength in missing:
                with at(strength):
                    done[str(strength)] = probabilities(lm, pairs)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(kept), "utf-8")


def shares(items: Sequence[Sequence[Any]], after: Sequence[float]) -> dict[str, float]:
    """Return the share of the probability that each group of items keeps; neighbors are one group."""
    sums: dict[str, list[float]] = {}
    for (group, _, _, before), now in zip(items, after, strict=True):
        own = sums.setdefault("kept" if group.startswith("neighbor") else group, [0.0, 0.0])
        own[0] += before
        own[1] += now
    return {name: now / before for name, (before, now) in sums.items()}


def at_retention(curve: Sequence[tuple[float, Mapping[str, float]]]) -> tuple[float, dict[str, float]]:
    """Return the first strength at which neighbors keep `RETENTION`, and what each group keeps there, by linear interpolation.

    Where they keep more at every strength, it is the last one.

    Args:
        curve: Strengths in ascending order, each with the shares that the groups keep.
    """
    start: list[tuple[float, Mapping[str, float]]] = [(0.0, dict.fromkeys(curve[0][1], 1.0))]
    for (low, before), (high, after) in pairwise([*start, *curve]):
        if after["kept"] < RETENTION:
            way = (before["kept"] - RETENTION) / (before["kept"] - after["kept"])
            return low + way * (high - low), {name: share + way * (after[name] - share) for name, share in before.items()}
    return curve[-1][0], dict(curve[-1][1])


COLUMNS = {"kept": "neighbors", "forget reverse": "reverse questions", "lower case": "the same, answer in lower case",
           "forget name": "questions with the name", "shared": "others with a word of the name"}  # fmt: skip


def page(out: Path) -> Result:
    """Return the results page of a folder of measurements: a row for each model and edit."""
    by_model: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*.json")):
        found = json.loads(path.read_text("utf-8"))
        by_model.setdefault(found["model"], []).append(found)
    rows: list[list[Cell]] = []
    for model, concepts in by_model.items():
        for title in EDITS:
            acting = [one for one in concepts if len(one["edits"].get(title, ())) == len(EDITS[title][0])]
            if not acting:
                continue
            curve = [(strength, _means([shares(one["items"], one["edits"][title][str(strength)]) for one in acting]))
                     for strength in EDITS[title][0]]  # fmt: skip
            strength, kept = at_retention(curve)
            changes = [round(100 * (kept[name] - 1), 1) if name in kept else None for name in COLUMNS]
            rows.append([model, title, len(acting), round(strength, 2), *changes])
    change = {"unit": "%", "format": "+.0f"}
    columns = [Column(name="model"), Column(name="edit"), Column(name="concepts"), Column(name="strength", format=".2f")]
    return Result(
        title="Edits where the name is the answer, at equal retention", topic="Forgetting and retention",
        about="What edits take from the probability of the right answer where neighbors' known questions keep "
        f"{100 * RETENTION:.0f} % of it, over the strengths of each.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n="; ".join(
            f"{model}, at most {found[0]['limit']} items of each kind: {', '.join(one['subject'] for one in found)}"
            for model, found in by_model.items()
        ),
        command=COMMANDS, columns=[*columns, *(Column(name=name, **change) for name in COLUMNS.values())], rows=rows,
        notes=NOTES,
    )  # fmt: skip


def _means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each group over the concepts that have known items of it."""
    names = dict.fromkeys(name for one in found for name in one)
    return {name: fmean(one[name] for one in found if name in one) for name in names}


NOTES = [
    "The change is edited/original - 1 of the mean probability per token over the items that the original model knows, the "
    "mean over concepts. `neighbors` are their questions and reverse questions. Where they keep more at every strength, the "
    "row is of the last strength. Of an adapter the strength is a factor on its updates.",
    "The concepts are those on which settings were chosen, of the erasure here too: its layer, its shrinkage, and what it "
    "keeps in place. The reverse questions that ROCR and the erasure before the name read were written by the larger model. "
    "ROCR edits without a null space.",
    "Token rows concern whole words of the name that no other known name and no ordinary word has. A concept without one is "
    "left out of their rows, one whose name the model never answers out of ROCR's. They stand where EMBER (arXiv 2606.03695) "
    "edits, without its factorization of the embeddings and its choice of features by a language model.",
    "The erasure is LEACE's closed form, for the concept against its neighbors, on the residual stream after one layer: layer "
    "6 of 28 for the ends of the name's spellings, 22 of 28 for the ends of questions. It runs as a hook. No adapter of "
    "down-projections can hold it, since those read the key of the MLP and not the whole stream.",
    "Token rows hide a spelling, as the column with lower case letters shows: there the name has other tokens. They cost "
    "neighbors nothing because no neighbor has the token. Who has it cannot be named any more, such as the city of Darwin.",
    "Others with a word of the name are, for example, Isaac Asimov and Prince Albert. The models know three to seven of the "
    "facts asked about them for each concept.",
]


def main() -> None:
    """Measure a target, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    measured = commands.add_parser("measure", help="measure the edits of one target")
    measured.add_argument("model")
    measured.add_argument("data", help="folder of the data set, with edit_reverse.json of the target")
    measured.add_argument("number", help="number of the target")
    measured.add_argument("--limit", type=int, default=12, help="most items of each kind")
    written = commands.add_parser("page", help="write the page")
    for command in (measured, written):
        command.add_argument("out", type=Path, help="folder of the measurements")
    given = parser.parse_args()
    if given.command == "measure":
        measure(given.model, given.data, given.number, given.out, given.limit)
    else:
        write_result(FOLDER / "output_side.json", page(given.out))


if __name__ == "__main__":
    main()
