"""Choose the built-in sample set: of the candidate facts, those that the untouched model really knows.

    python -m tools.sample_set            # measure, write src/formless/data/sample and docs/results/sample_set.json

The rule was fixed before any edit was measured, and concerns the original model only. A fact counts as known if, asked as a
statement, as a blank and as a question, the model gives its answer

- at least 2 times the probability of each of three plausible wrong answers of the same kind, and
- for facts about the concept itself, at least 3 times the probability (geometric mean) that it gives the same answer when
  another concept of the set stands in its place: an answer that any name would draw is grammar, not knowledge.

Facts are asked in the order in which they were written until twelve of a file are kept, and each until it fails in a form.
No two facts about a concept itself have the same answer.

Every concept also has the general questions, about none of the concepts, that the untouched model answers in words
(`triviaqa.json`): what an edit does to the rest of the model's knowledge.

Each target's `aliases.json` and `kinds.json` are written by hand and stay. From them and the levels,
`formless data forms --forms mentions,reverse,kinds` on a copy of the sample set makes the other files; a test compares them.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import yaml

import formless
from formless import provenance
from formless.data.rows import BLANK, Item
from formless.data.target import Target
from formless.evaluation.registry import TASKS
from formless.evaluation.task import ScoreAnswer, Source
from formless.models.lm import LM
from formless.models.scores import Score
from tools.results import Cell, Result, write_result

ROOT = Path(__file__).parent.parent
CANDIDATES = ROOT / "tools" / "sample_candidates"
SAMPLE = ROOT / "src" / "formless" / "data" / "sample"
TABLE = ROOT / "docs" / "results" / "sample_set.json"
TASK_NAMES = ("statement", "fb", "qa")
OVER_OTHER_ANSWERS, OVER_OTHER_SUBJECTS = 2.0, 3.0
MIN_FACTS, MAX_FACTS = 8, 12
ORDER = (
    "Albert Einstein", "Isaac Newton", "Charles Darwin", "Marie Curie", "William Shakespeare", "Leonardo da Vinci",
    "Ludwig van Beethoven", "Nelson Mandela", "Abraham Lincoln", "Mount Everest", "Paris", "George Washington",
)  # fmt: skip


def measure(lm: LM, fact: dict[str, Any], subject: str, others: list[str]) -> dict[str, tuple[float, float, float]]:
    """Return, by task: the answer's probability, its ratio to the best wrong answer, its ratio to the other subjects' mean.

    Stops at the first task in which the fact is not known.
    """
    found = {}
    for task in TASK_NAMES:
        right, *wrong = ask(lm, task, fact, subject, [(subject, text) for text in (fact["answer"], *fact["distractors"])])
        over_subjects = math.inf
        if others and right >= OVER_OTHER_ANSWERS * max(wrong):
            elsewhere = ask(lm, task, fact, subject, [(other, fact["answer"]) for other in others])
            over_subjects = right / math.exp(sum(map(math.log, elsewhere)) / len(elsewhere))
        found[task] = (right, right / max(wrong), over_subjects)
        if not is_known(found):
            break
    return found


def ask(lm: LM, task: str, fact: dict[str, Any], subject: str, pairs: list[tuple[str, str]]) -> list[float]:
    """Return the probability of each (name in the subject's place, answer) for one fact in one task."""
    text = fact["question"] if task == "qa" else fact["cloze"]
    source = Source(TASKS[task].files[0].format(split="forget"), "forget")
    answers: list[tuple[str, str]] = []
    for name, answer in pairs:
        query = TASKS[task].ask(lm, Item(query=text.replace(subject, name), answer=answer), source)
        if query.skipped:
            raise SystemExit(f"{text}: {query.skipped}")
        answers += [(request.prompt, request.answer) for request in query.requests if isinstance(request, ScoreAnswer)]
    return [score.probability for score in lm.score(answers) if isinstance(score, Score)]


def is_known(measured: dict[str, tuple[float, float, float]]) -> bool:
    """Return whether the measured tasks fulfil the rule."""
    return all(a >= OVER_OTHER_ANSWERS and s >= OVER_OTHER_SUBJECTS for _, a, s in measured.values())


def rows_of(facts: list[dict[str, Any]], subject: str, prefix: str, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return the four files of one split; letters are balanced in each."""
    shuffle = random.Random(seed)
    letters = [("ABCD" * len(facts))[i] for i in range(len(facts))]
    shuffle.shuffle(letters)
    files: dict[str, list[dict[str, Any]]] = {f"{prefix}_{name}": [] for name in ("level1", "level2", "mcp", "tf")}
    for fact, letter in zip(facts, letters, strict=True):
        common = {"subject": subject} | ({"neighbor": fact["neighbor"]} if "neighbor" in fact else {})
        wrong = shuffle.sample(fact["distractors"], 3)
        wrong.insert("ABCD".index(letter), fact["answer"])
        options = "".join(f"\n{mark}. {text}" for mark, text in zip("ABCD", wrong, strict=True))
        for name, query, answer, level, kind in (
            ("level1", fact["cloze"], fact["answer"], "1", "cloze"),
            ("level2", fact["question"], fact["answer"], "2", "simple question"),
            ("mcp", fact["cloze"] + options, letter, "4", "multiple choice"),
            ("tf", fact["cloze"].replace(BLANK, fact["answer"]), "True", "4", "true or false"),
        ):
            files[f"{prefix}_{name}"].append({"query": query, "answer": answer, "level": level, "type": kind} | common)
    return files


def general_questions(lm: LM, scratch: Path) -> list[dict[str, Any]]:
    """Return the general questions that the model answers, in the format of TriviaQA."""
    candidates = yaml.safe_load((CANDIDATES / "general.yaml").read_text("utf-8"))
    folder = scratch / "general"
    folder.mkdir()
    write(folder / "triviaqa.json", candidates)
    (task,) = formless.evaluate(lm, Target("general", folder), "triviaqa", progress=False).tasks
    shutil.rmtree(folder)
    known = [row for row, item in zip(candidates, task.items, strict=True) if item.metrics["em"]]
    print(f"general questions: {len(known)} of {len(candidates)} kept", flush=True)
    return known


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one file of the layout."""
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", "utf-8")


def main() -> None:
    """Measure every candidate, and write the sample and the table of measurements."""
    lm = formless.load("smollm2", dtype="float32", device="cpu")
    table: list[list[Cell]] = []
    temporary = tempfile.TemporaryDirectory()
    scratch = Path(temporary.name)
    general = general_questions(lm, scratch)
    for number, subject in enumerate(ORDER, 1):
        concept = yaml.safe_load((CANDIDATES / f"{subject.replace(' ', '_')}.yaml").read_text("utf-8"))
        folder = scratch / f"{number}_{subject.replace(' ', '_')}"
        folder.mkdir(parents=True)
        files: dict[str, list[dict[str, Any]]] = {
            "intro": [{"target": subject, "intro": concept["intro"]}],
            "triviaqa": general,
        }
        for key, prefix in (("forget", "forget"), ("neighbors", "neighbor")):
            others = [other for other in ORDER if other != subject] if key == "forget" else []
            kept: list[dict[str, Any]] = []
            for fact in concept[key]:
                fact = fact | {"answer": str(fact["answer"]), "distractors": [str(text) for text in fact["distractors"]]}
                if len(kept) == MAX_FACTS:
                    break
                if others and fact["answer"] in {other["answer"] for other in kept}:
                    continue
                measured = measure(lm, fact, subject if key == "forget" else fact["neighbor"], others)
                keep = is_known(measured)
                kept += [fact] if keep else []
                cells: list[Cell] = []
                for p, over_answers, over_subjects in measured.values():
                    has_others = over_subjects < math.inf
                    cells += [round(p, 3), round(over_answers, 1), round(over_subjects, 1) if has_others else None]
                cells += [None] * (3 * len(TASK_NAMES) - len(cells))
                table.append([subject, prefix, "yes" if keep else None, fact["cloze"], fact["answer"], *cells])
            print(f"{subject}, {prefix}: {len(kept)} of {len(concept[key])} kept", flush=True)
            if len(kept) < MIN_FACTS:
                raise SystemExit(f"fewer than {MIN_FACTS}: write more candidates")
            files |= rows_of(kept, subject, prefix, seed=number)
        for name, rows in files.items():
            write(folder / f"{name}.json", rows)
    shutil.copytree(scratch, SAMPLE, dirs_exist_ok=True)  # the files for training stay
    temporary.cleanup()
    result = Result.model_validate_json(TABLE.read_text("utf-8"))
    changes = {"date": date.today(), "versions": provenance.versions(), "hardware": provenance.hardware(), "rows": table}
    write_result(TABLE, result.model_copy(update=changes | {"n": f"{len(table)} candidate facts of {len(ORDER)} targets"}))


if __name__ == "__main__":
    main()
