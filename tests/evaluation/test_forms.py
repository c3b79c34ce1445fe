import dataclasses
from collections.abc import Callable

import pytest

from formless.data.target import Item
from formless.evaluation.forms import FORMS, Query
from formless.evaluation.suites import SUITES, suite_forms
from formless.models.lm import LM, Unscored
from formless.models.settings import PromptStyle, default_style

CLOZE = Item(query="Ada Lovelace was born in ___.", answer="New York")
QUESTION = Item(query="Where was Ada Lovelace born?", answer="New York")
CHOICE = Item(query="Ada was born in ___.\nA. Rome\nB. London\nC. Bonn\nD. Oslo", answer="B")
Tiny = Callable[..., LM]


@pytest.fixture
def llama(tiny: Tiny) -> LM:
    return tiny("llama")


@pytest.fixture
def mistral(tiny: Tiny) -> LM:
    return tiny("mistral")


def render(form: str, item: Item, lm: LM) -> tuple[str, str]:
    query = FORMS[form].render(item, lm)
    assert isinstance(query, Query)
    return query.prompt, query.answer


@pytest.mark.parametrize(
    ("form", "item", "message", "answer"),
    [
        (
            "fb",
            CLOZE,
            "Please complete the blank in the following question.\nQuestion: Ada Lovelace was born in ___.\n",
            " New York",
        ),
        (
            "qa",
            QUESTION,
            "Please briefly answer the following question.\nQuestion: Where was Ada Lovelace born?\n",
            " New York",
        ),
        (
            "mcp",
            CHOICE,
            "Please answer the following multiple choice question. Just provide the letter of the correct answer.\n"
            "Question: Ada was born in ___.\nA. Rome\nB. London\nC. Bonn\nD. Oslo\n",
            " B",
        ),
    ],
)
def test_the_benchmarks_wording(llama: LM, mistral: LM, form: str, item: Item, message: str, answer: str) -> None:
    assert render(form, item, llama) == (f"[user]{message}[assistant]Answer:", answer)
    line = "Please provide direct answers without any explanations or additional content.\n"
    assert render(form, item, mistral) == (f"[user]{line}{message}[assistant]Answer:", answer)


def test_letter_by_letter(llama: LM, mistral: LM) -> None:
    message = "Please briefly answer the following question.\nQuestion: Where was Ada Lovelace born?\n"
    letters = "N\ne\nw\nY\no\nr\nk\n"
    prompt, answer = render("sub_qa", QUESTION, llama)
    instruction = "Write the answer character by character, each on a new line.\n"
    assert (prompt, answer) == (f"[user]{instruction}{message}[assistant]Answer:\n", letters)
    prompt, answer = render("sub_qa", QUESTION, mistral)
    assert prompt.startswith("[user]# Instruction\nWhen answering the question, please write the answer character by character")
    assert "\nQuestion: What is the capital of Japan?\nAnswer:\nT\no\nk\ny\no\n\n# Task\n" in prompt
    assert prompt.endswith(f"# Task\n{message}[assistant]Answer:\n")
    assert answer == letters


def test_a_statement_is_plain_text_up_to_its_blank(llama: LM) -> None:
    assert render("statement", CLOZE, llama) == ("Ada Lovelace was born in", " New York")
    quoted = Item(query='Her notes are called "___".', answer="Notes")
    assert render("statement", quoted, llama) == ('Her notes are called "', "Notes")
    for query, reason in (("In ___ she was born.", "the blank does not stand last"), ("Born when?", "the cloze has no blank")):
        assert FORMS["statement"].render(Item(query=query, answer="x"), llama) == Unscored(reason)


def test_the_style_is_chosen_by_family_and_never_by_name(tiny: Tiny) -> None:
    assert default_style("llama") == PromptStyle(direct_answer=False, sub_token="zero-shot")
    for family in ("mistral", "qwen2", "gpt2"):
        assert default_style(family) == PromptStyle(direct_answer=True, sub_token="one-shot")
    lm = dataclasses.replace(tiny("mistral"), name="/models/llama-like")
    assert lm.style.direct_answer


def test_suites_name_known_forms_only() -> None:
    for suite in SUITES:
        assert [form.name for form in suite_forms(suite)] == list(SUITES[suite])
    assert [form.name for form in suite_forms("fb, qa")] == ["fb", "qa"]
    with pytest.raises(Exception, match="unknown suite or form 'qaa'.*did you mean qa"):
        suite_forms("fb,qaa")
