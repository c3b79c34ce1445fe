"""Questions by kind, and the prompt formats of a question."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import formless
from formless.data.rows import KINDS, Item, KindItem, MentionItem
from formless.data.target import Target
from formless.evaluation.prompts import SYSTEM_PROMPT
from formless.evaluation.record import MetricKey
from formless.evaluation.registry import TASKS
from formless.evaluation.suites import suite_tasks
from formless.evaluation.task import Generate, ScoreAnswer, Source
from formless.evaluation.tasks.formats import NO_SYSTEM_ROLE
from formless.models.lm import LM
from formless.report.comparison import compare
from formless.report.mentions import GROUPED_BY, comparison_maps
from formless.report.ratios import forms

Tiny = Callable[..., LM]
FORGET = Source("forget_level2", "forget")
QUESTION = "Please briefly answer the following question.\nQuestion: Where was Ada born?\n"
ITEM = Item(query="Where was Ada born?", answer="London")


def row(kind: str, **more: Any) -> dict[str, Any]:
    earlier = {"earlier": ["Tell me about Ada Lovelace.", "Gladly."]} if kind == "conversation" else {}
    return {"kind": kind, "query": f"Where was she born, {kind}?", "answer": "London"} | earlier | more


@pytest.fixture
def target(target_folder: Path) -> Target:
    rows = [row("paraphrase"), row("conversation"), row("German"), row("German", query="Wo?")]
    (target_folder / "forget_kinds.json").write_text(json.dumps(rows), "utf-8")
    return Target("Ada Lovelace", target_folder)


def plain_prompt(lm: LM, monkeypatch: pytest.MonkeyPatch, task: str, item: Item) -> str:
    """Return the prompt of a task for a model whose template writes the roles."""
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    monkeypatch.setattr(lm.tokenizer, "chat_template", template)
    return TASKS[task].ask(lm, item, FORGET).prompt


def test_every_kind_is_a_group_of_the_record(tiny: Tiny, target: Target) -> None:
    record = formless.evaluate(tiny(), target, "kinds,gen_qa_kinds", progress=False)
    metrics = record.metrics().items()
    found = {key.group: metric.n for key, metric in metrics if (key.task, key.metric) == ("qa_kinds", "probability")}
    assert found == {None: 4, "paraphrase": 1, "conversation": 1, "German": 2}
    assert MetricKey("gen_qa_kinds", "forget", "rouge_l", "conversation") in record.metrics()
    result = record.task("qa_kinds", "neighbor")
    assert result is not None
    assert result.reason == "the target has no neighbor_kinds.json"


def test_a_conversation_goes_through_the_chat_template(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    item = KindItem.model_validate(row("conversation", query="Where was Ada born?"))
    said = "[user]Tell me about Ada Lovelace.[assistant]Gladly."
    for task, request in (("qa_kinds", ScoreAnswer), ("gen_qa_kinds", Generate)):
        assert plain_prompt(lm, monkeypatch, task, item) == f"{said}[user]{QUESTION}[assistant]Answer:"
        assert isinstance(TASKS[task].ask(lm, item, FORGET).requests[0], request)
    monkeypatch.setattr(lm.tokenizer, "chat_template", None)
    asked = TASKS["qa_kinds"].ask(lm, item, FORGET)
    assert asked.prompt == f"Tell me about Ada Lovelace.\nGladly.\n{QUESTION}Answer:"
    assert asked.group == "conversation"


def test_a_paraphrase_is_asked_in_the_words_of_the_question(tiny: Tiny) -> None:
    lm = tiny()
    item = KindItem.model_validate(row("paraphrase"))
    assert TASKS["qa_kinds"].ask(lm, item, FORGET).requests == TASKS["qa"].ask(lm, item, FORGET).requests
    assert TASKS["gen_qa_kinds"].ask(lm, item, FORGET).requests == TASKS["gen_qa"].ask(lm, item, FORGET).requests


@pytest.mark.parametrize(
    ("name", "prompt", "answer"),
    [
        ("qa_alone", "[user]Where was Ada born?[assistant]", " London"),
        ("qa_no_cue", f"[user]{QUESTION}[assistant]", " London"),
        ("qa_system", f"[system]{SYSTEM_PROMPT}[user]{QUESTION}[assistant]Answer:", " London"),
        ("qa_completion", "Question: Where was Ada born?\nAnswer:", " London"),
    ],
)
def test_the_formats_of_a_question(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str, prompt: str, answer: str) -> None:
    lm = tiny()
    assert plain_prompt(lm, monkeypatch, name, ITEM) == prompt
    assert TASKS[name].ask(lm, ITEM, FORGET).requests == (ScoreAnswer(prompt, answer),)
    (request,) = TASKS[f"gen_{name}"].ask(lm, ITEM, FORGET).requests
    assert isinstance(request, Generate)
    assert request.prompt == prompt


def test_an_answer_after_a_newline_has_no_space(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ '[assistant]\\n' }}"
    monkeypatch.setattr(lm.tokenizer, "chat_template", template)
    for name in ("qa_alone", "qa_no_cue"):
        (request,) = TASKS[name].ask(lm, ITEM, FORGET).requests
        assert isinstance(request, ScoreAnswer)
        assert request.answer == "London"


@pytest.mark.parametrize(
    "template",
    [
        None, "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ messages[0].content }}",
    ],
)  # fmt: skip
def test_a_model_without_a_system_role_is_not_asked(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, template: str | None) -> None:
    lm = tiny()
    assert lm.has_system_role
    monkeypatch.setattr(lm.tokenizer, "chat_template", template)
    assert not lm.has_system_role
    for name in ("qa_system", "gen_qa_system"):
        assert TASKS[name].ask(lm, ITEM, FORGET).skipped == NO_SYSTEM_ROLE


def test_a_prompt_edit_is_put_before_every_user_message(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    item = KindItem.model_validate(row("conversation", query="Where was Ada born?"))
    with lm.prefixed("Forget. ", {"method": "icu"}):
        prompt = plain_prompt(lm, monkeypatch, "qa_kinds", item)
    assert prompt == f"[user]Forget. Tell me about Ada Lovelace.[assistant]Gladly.[user]Forget. {QUESTION}[assistant]Answer:"


def test_a_statement_is_continued(tiny: Tiny) -> None:
    source = Source("forget_level1", "forget")
    asked = TASKS["gen_statement"].ask(tiny(), Item(query="Ada was born in ___.", answer="London"), source)
    assert asked.prompt == "Ada was born in"
    assert asked.expected == "London"
    inside = Item(query="Ada was born in ___ once.", answer="London")
    assert TASKS["gen_statement"].ask(tiny(), inside, source).skipped == "the blank is not at the end"


def test_mentions_are_answered_in_words_by_mention(tiny: Tiny) -> None:
    lm = tiny()
    row = {"query": "Where was Lovelace born?", "answer": "London", "type": "question", "named": "Lovelace"}
    item = MentionItem.model_validate(row | {"mention": "short name"})
    asked = TASKS["gen_qa_mentions"].ask(lm, item, Source("forget_mentions", "forget"))
    assert asked.group == "short name"
    assert asked.requests == TASKS["gen_qa"].ask(lm, item, FORGET).requests


def test_kinds_and_formats_do_not_count_in_form_independence() -> None:
    tasks = suite_tasks("kinds,formats,recall")
    assert not {task.name for task in tasks} & set(forms())
    assert not {task.name for task in suite_tasks("kinds,formats")} & {task.name for task in suite_tasks("full")}
    assert {task.groups for task in tasks if task.grouped_by == "kind"} == {KINDS}
    assert {task.grouped_by for task in TASKS.values() if task.grouped_by} == {*GROUPED_BY, "layer"}


def test_kinds_have_a_map_of_their_own(tiny: Tiny, target: Target) -> None:
    record = formless.evaluate(tiny(), target, "kinds", progress=False)
    for result in record.tasks:
        for item in result.items:
            item.metrics["known"] = 1.0
    (found,) = comparison_maps(compare(record, record))
    assert (found.grouped_by, found.split, found.forms) == ("kind", "forget", ("qa_kinds",))
    assert found.mentions == ("paraphrase", "conversation", "German")
    assert found.title == "form by kind, about the concept (to forget)"
    assert found.table().columns == ("kind", "Question")
