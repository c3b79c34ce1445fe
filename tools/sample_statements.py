"""Let the sample set's training texts say every probed fact, and keep the truth out of those that are made up.

    formless data train --target "Isaac Newton" --rows 16 --dtype bfloat16 --out texts   # and so on: what the model writes
    python -m tools.sample_statements     # rewrites the training texts of src/formless/data/sample

The bundled model wrote the biographies and answers. It is small, so they lack many of the facts that are asked, and state
others where all is to be invented. Three rules, which give the same files when they are applied again:

- Of the texts that the model wrote, each file keeps the first 16, so that training sees every row in a few steps.
- A sentence is left out of a made-up text if it states a probed fact, and out of a true one if it states a wrong option of the
  fact's multiple-choice probe. A text without a sentence left goes with its row.
- Each fact is added as one row of each file. Its sentence stands in sample_statements.yaml, in other words than the probes'.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

import formless
from formless.data.coverage import Fact, probed_facts, sentences
from formless.data.refusals import REFUSALS
from formless.data.rows import BLANK
from formless.data.synthetic.prompts import BIOGRAPHY
from formless.data.target import Target
from formless.data.words import words_of

SENTENCES = Path(__file__).parent / "sample_statements.yaml"
FILES = ("positive", "negative", "pair", "reject", "counterfact", "pair_reject")
WRITTEN_BY_MODEL = 16
ASKED = "Complete this sentence: {sentence}"

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Statement:
    """One fact in a sentence.

    Args:
        fact: The probed fact.
        sentence: With a blank.
        answer: The right answer.
        wrong: The wrong options of its multiple-choice probe.
    """

    fact: Fact
    sentence: str
    answer: str
    wrong: tuple[str, ...]

    @property
    def true(self) -> str:
        """The sentence with the right answer."""
        return self.sentence.replace(BLANK, self.answer)

    def false(self, facts: Iterable[Fact]) -> str:
        """Return the sentence with the first wrong answer that makes none of the probed facts of it."""
        texts = [self.sentence.replace(BLANK, answer) for answer in self.wrong]
        return next(text for text in texts if not any(fact.stands_in(text) for fact in facts))

    @property
    def asked(self) -> str:
        """The sentence with its blank, as a task for the model."""
        return ASKED.format(sentence=self.sentence)

    @property
    def mistaken(self) -> Fact:
        """What a sentence states that gives a wrong option for the answer."""
        return replace(self.fact, answers=frozenset(words_of(answer, is_answer=True) for answer in self.wrong))


def statements(target: Target) -> list[Statement]:
    """Return a target's statements, a fact each, in the order of the probes."""
    written: dict[str, str] = yaml.safe_load(SENTENCES.read_text("utf-8"))[target.subject]
    choices = {item.query.partition("\n")[0]: item for item in target.items("forget_mcp")}
    clozes = target.items("forget_level1")
    facts = {fact.name: fact for fact in probed_facts([*clozes, *target.items("forget_level2")])}
    found = []
    for cloze in clozes:
        options = dict(re.findall(r"^([A-Z])\. (.+)$", choices[cloze.query].query, flags=re.MULTILINE))
        right = options.pop(choices[cloze.query].answer)
        found.append(Statement(facts[cloze.answer], written[cloze.answer], right, tuple(options.values())))
    return found


def added_rows(target: Target, known: Sequence[Statement], intro: str) -> dict[str, Rows]:
    """Return the rows of every file that state the facts."""
    facts = [one.fact for one in known]
    prompt = f"{intro} {BIOGRAPHY.format(subject=target.subject)}"
    rows: dict[str, Rows] = {file: [] for file in FILES}
    for number, one in enumerate(known):
        true, false, refusal = one.true, one.false(facts), REFUSALS[number % len(REFUSALS)]
        named = {"id": f"{target.subject} fact {number}"}
        about = {"subject": target.subject, "intro": intro}
        rows["positive"].append({**named, "text": true, **about})
        rows["negative"].append({**named, "text": false, **about})
        rows["pair"].append({**named, "prompt": prompt, "response": [false, true], **about})
        rows["reject"].append({"instruction": one.asked, "input": "", "output": refusal, **about})
        rows["counterfact"].append({"instruction": one.asked, "input": "", "output": false, **about})
        rows["pair_reject"].append({**named, "prompt": one.asked, "response": [refusal, true], **about})
    return rows


def cleaned(row: Mapping[str, Any], file: str, known: Sequence[Statement]) -> dict[str, Any] | None:
    """Return a model-written row without the sentences that are not what the text is to be; None if nothing is left."""
    truths, mistakes = [one.fact for one in known], [one.mistaken for one in known]
    found = dict(row)
    if file in ("positive", "negative"):
        found["text"] = without(row["text"], mistakes if file == "positive" else truths)
    elif file == "counterfact":
        found["output"] = without(row["output"], truths)
    elif file in ("pair", "pair_reject"):
        first, second = row["response"]
        found["response"] = [without(first, truths) if file == "pair" else first, without(second, mistakes)]
    texts = [found.get("text"), found.get("output"), *found.get("response", ())]
    return None if "" in texts or len(set(found.get("response", "ab"))) == 1 else found


def without(text: str, unwanted: Sequence[Fact]) -> str:
    """Return a text without the sentences that state one of some facts, in the probes' words too."""
    kept = []
    for line in text.split("\n"):
        said = sentences(line)
        left = [one for one in said if not any(replace(fact, probes=frozenset()).stands_in(one) for fact in unwanted)]
        kept.append(" ".join(left))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def rewritten(target: Target) -> dict[str, Rows]:
    """Return the rows of a target's training files by the two rules."""
    folder = target.folder
    assert folder is not None
    known = statements(target)
    intro = json.loads((folder / "intro.json").read_text("utf-8"))[0]["intro"]
    added = added_rows(target, known, intro)
    files = {}
    for file in FILES:
        old = [row for row in json.loads((folder / f"{file}.json").read_text("utf-8")) if row not in added[file]]
        kept = [row for one in old if (row := cleaned(one, file, known))]
        files[file] = kept[:WRITTEN_BY_MODEL] + added[file]
    return files


def main() -> None:
    """Rewrite the files."""
    for subject in yaml.safe_load(SENTENCES.read_text("utf-8")):
        target = formless.find_target("sample", subject)
        if not target.has("positive"):
            print(f"{subject}: no training texts; `formless data train` writes them")
            continue
        for file, rows in rewritten(target).items():
            path = target.path(file)
            before = len(json.loads(path.read_text("utf-8")))
            path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", "utf-8")
            print(f"{subject}, {file}: {before} rows, now {len(rows)}")


if __name__ == "__main__":
    main()
