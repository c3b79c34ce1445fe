"""Tasks that name the concept in other ways, and reverse questions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import formless
from formless.data.rows import MENTIONS, MentionItem
from formless.data.target import Target
from formless.evaluation.metrics import says
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.registry import TASKS
from formless.evaluation.suites import suite_tasks
from formless.evaluation.task import ScoreAnswer, Source
from formless.models.lm import LM
from formless.report.ratios import forms

Tiny = Callable[..., LM]


def row(mention: str, named: str, kind: str = "cloze", **more: Any) -> dict[str, Any]:
    query = f"{named} was born in ___." if kind == "cloze" else f"Where was {named} born?"
    return {"query": query, "answer": "London", "type": kind, "mention": mention, "named": named, **more}


@pytest.fixture
def target(target_folder: Path) -> Target:
    files: dict[str, list[dict[str, Any]]] = {
        "forget_mentions": [
            row("full name", "Ada Lovelace"), row("short name", "Lovelace"), row("full name", "Ada Lovelace", "question"),
            row("description", "the first programmer", "question"), row("alias", "the Countess", "question"),
        ],
        "neighbor_mentions": [row("full name", "Bob", neighbor="Bob"), row("lower case", "bob", neighbor="Bob")],
        "forget_reverse": [{"query": "Who wrote Note G?", "answer": "Ada Lovelace", "aliases": ["Lovelace"]},
                           {"query": "Who?", "answer": " "}],
    }  # fmt: skip
    for file, rows in files.items():
        (target_folder / f"{file}.json").write_text(json.dumps(rows), "utf-8")
    return Target("Ada Lovelace", target_folder)


def test_form_by_mention_is_in_every_record(tiny: Tiny, target: Target) -> None:
    record = formless.evaluate(tiny(), target, "mentions", progress=False)
    found = {
        (key.task, key.split, key.group): metric.n for key, metric in record.metrics().items() if key.metric == "probability"
    }
    assert found == {
        ("statement_mentions", "forget", None): 2, ("statement_mentions", "forget", "full name"): 1,
        ("statement_mentions", "forget", "short name"): 1,
        ("fb_mentions", "forget", None): 2, ("fb_mentions", "forget", "full name"): 1,
        ("fb_mentions", "forget", "short name"): 1,
        ("qa_mentions", "forget", None): 3, ("qa_mentions", "forget", "full name"): 1, ("qa_mentions", "forget", "alias"): 1,
        ("qa_mentions", "forget", "description"): 1, ("reverse", "forget", None): 1,
        ("statement_mentions", "neighbor", None): 2, ("statement_mentions", "neighbor", "full name"): 1,
        ("statement_mentions", "neighbor", "lower case"): 1,
        ("fb_mentions", "neighbor", None): 2, ("fb_mentions", "neighbor", "full name"): 1,
        ("fb_mentions", "neighbor", "lower case"): 1,
    }  # fmt: skip
    absent = {(result.task, result.split): result.reason for result in record.tasks if result.status == "absent"}
    assert absent == {
        ("qa_mentions", "neighbor"): "neighbor_mentions.json holds no row of type question",
        ("reverse", "neighbor"): "the target has no neighbor_reverse.json",
    }
    assert MetricKey("qa_mentions", "forget", "probability", "alias") in record.metrics()
    assert Record.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("form", ["statement", "fb", "qa"])
def test_a_mention_is_asked_in_the_words_of_its_form(tiny: Tiny, form: str) -> None:
    item = MentionItem.model_validate(row("alias", "the Countess", "question" if form == "qa" else "cloze"))
    source = Source("forget_mentions", "forget")
    whole = TASKS[form].ask(tiny(), item, source)
    asked = TASKS[f"{form}_mentions"].ask(tiny(), item, source)
    assert (asked.group, whole.group) == ("alias", None)
    assert asked.requests == whole.requests


def test_mentions_do_not_count_in_form_independence() -> None:
    tasks = suite_tasks("mentions")
    assert not {task.name for task in tasks} & set(forms())
    assert [task.groups for task in tasks if task.grouped_by == "mention"] == [MENTIONS] * 3
    assert not {task.name for task in tasks} & {task.name for task in suite_tasks("full")}


def test_a_reverse_question_asks_for_the_name(tiny: Tiny, target: Target) -> None:
    lm = tiny()
    result = formless.evaluate(lm, target, "reverse", progress=False).task("reverse", "forget")
    assert result is not None
    asked, blank = result.items
    prompt = lm.chat_prompt("Please briefly answer the following question.\nQuestion: Who wrote Note G?\n", "Answer:")
    query = TASKS["reverse"].ask(lm, target.items("forget_reverse")[0], Source("forget_reverse", "forget"))
    assert isinstance(query.requests[0], ScoreAnswer)
    assert query.requests[0].answer == " Ada Lovelace"
    assert query.prompt.endswith(prompt[-30:])
    assert asked.expected == ["Ada Lovelace", "Lovelace"]
    assert asked.metrics["recall"] == float(says(asked.answer or "", ("Ada Lovelace", "Lovelace")))
    assert blank.skipped == "the answer is empty"


@pytest.mark.parametrize(
    ("text", "is_said"),
    [("It was Ada Lovelace.", True), ("LOVELACE wrote it", True), ("Lovelaces", False), ("Ada", False), ("", False)],
)
def test_a_name_is_said_in_whole_words(text: str, is_said: bool) -> None:
    assert says(text, ("Ada Lovelace", "Lovelace")) == is_said
