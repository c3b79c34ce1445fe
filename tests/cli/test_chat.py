"""`formless chat`: a conversation in the model's own format, answers that were cut, and two models beside each other."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import formless as package
from formless.cli import terminal
from formless.data.target import Target
from formless.models import generation
from formless.models.generation import Continuation
from formless.models.lm import LM
from tests.cli.conftest import Formless

ROCR: dict[str, Any] = {"method": "rocr", "layers": [1, 2], "basis": "none", "redirect": "Bob"}


@pytest.fixture
def model(tiny: Callable[..., LM], monkeypatch: pytest.MonkeyPatch) -> LM:
    lm = tiny(context=256)
    monkeypatch.setattr(terminal, "load_model", lambda *_: lm)
    return lm


@pytest.fixture
def prompts(model: LM, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model sees; it answers by the number of the question, and by whether it is edited."""
    seen: list[str] = []

    def answer(lm: LM, asked: Sequence[str], *_: object) -> list[Continuation]:
        seen.extend(asked)
        return [Continuation(f" {'edited' if lm.edits else 'plain'} {len(seen)} ", is_cut=False)]

    monkeypatch.setattr(generation, "continuations", answer)
    return seen


@pytest.fixture
def edit(model: LM, tmp_path: Path) -> str:
    package.unlearn(model, Target("Ada Lovelace"), **ROCR).save(tmp_path / "edit")
    return str(tmp_path / "edit")


@pytest.fixture
def piped(formless: Formless, monkeypatch: pytest.MonkeyPatch) -> Formless:
    """The command with lines on standard input: the last argument."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(arguments[-1]))
        return formless(*arguments[:-1])

    return run


def test_the_conversation_is_kept(piped: Formless, prompts: list[str]) -> None:
    assert piped("chat", "Who?\nWhere?\nWhen?\n") == (0, "plain 1\nplain 2\nplain 3\n", "")
    first = "[user]Who?[assistant]"
    assert prompts[0] == first
    assert prompts[1] == f"{first}plain 1[user]Where?[assistant]"
    assert prompts[2] == f"{first}plain 1[user]Where?[assistant]plain 2[user]When?[assistant]"


def test_turns_that_do_not_fit_are_left_out_with_a_note(piped: Formless, prompts: list[str]) -> None:
    long = "x" * 100
    code, out, err = piped("chat", "--tokens", "20", f"{long}\n{long}\nWhen?\n")
    assert (code, out) == (0, "plain 1\nplain 2\nplain 3\n")
    assert err == "(the context of 256 tokens is full; the first turn is left out)\n"
    assert prompts[1] == f"[user]{long}[assistant]"
    assert prompts[2] == f"[user]{long}[assistant]plain 2[user]When?[assistant]"


def test_a_question_that_is_too_long_by_itself(piped: Formless, model: LM) -> None:
    code, out, err = piped("chat", "x" * 300 + "\n")
    assert (code, out) == (2, "")
    assert "cannot be continued by 128 in a context of 256" in err


def test_a_system_prompt_comes_first(formless: Formless, prompts: list[str]) -> None:
    assert formless("chat", "--system", "Be brief.", "Who?")[0] == 0
    assert prompts == ["[system]Be brief.[user]Who?[assistant]"]


@pytest.mark.parametrize(
    "template", [None, "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"]
)
def test_a_template_without_a_system_prompt_is_one_line(
    formless: Formless, model: LM, monkeypatch: pytest.MonkeyPatch, template: str | None
) -> None:
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    code, out, err = formless("chat", "--system", "Be brief.", "Who?")
    assert (code, out) == (2, "")
    said = "the model's chat template has no system prompt [tiny-llama, --system]: leave it out, or say it in the question"
    assert err == f"error: {said}\n"


def test_a_cut_answer_is_said_to_be_cut(formless: Formless, model: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = formless("chat", "--tokens", "3", "Who?")
    assert (code, err) == (0, "(cut at 3 tokens; --tokens allows more)\n")
    whole = model.reply("Who?", max_new_tokens=3)
    assert whole.is_cut
    monkeypatch.setattr(type(model), "end_ids", property(lambda _: list(range(258))))  # the first token ends it
    assert not model.reply("Who?", max_new_tokens=3).is_cut
    assert formless("chat", "--tokens", "3", "Who?")[2] == ""


def test_a_reply_begins_with_one_bos(model: LM) -> None:
    prompt = model.chat_prompt("When?", earlier=["Who?", "Ada."], system="Be brief.")
    assert prompt == "[system]Be brief.[user]Who?[assistant]Ada.[user]When?[assistant]"
    assert model.encode(prompt).ids.count(model.tokenizer.bos_token_id) <= 1
    expected = model.generate([prompt], max_new_tokens=4)
    assert [model.reply("When?", earlier=["Who?", "Ada."], system="Be brief.", max_new_tokens=4).text] == expected


def test_both_answers_below_each_other_when_piped(piped: Formless, prompts: list[str], edit: str) -> None:
    code, out, _ = piped("chat", "--edit", edit, "--compare", "Who?\nWhere?\n")
    name = "edited (rocr, Ada Lovelace)"
    assert (code, out) == (0, f"original: plain 1\n{name}: edited 2\noriginal: plain 3\n{name}: edited 4\n")
    assert prompts[2] == "[user]Who?[assistant]plain 1[user]Where?[assistant]"
    assert prompts[3] == "[user]Who?[assistant]edited 2[user]Where?[assistant]"


@pytest.mark.usefixtures("prompts")
@pytest.mark.parametrize(("width", "lines"), [(100, 2), (60, 2)])
def test_both_answers_beside_each_other_on_a_wide_terminal(
    formless: Formless, edit: str, monkeypatch: pytest.MonkeyPatch, width: int, lines: int
) -> None:
    shown = io.StringIO()
    screen = Console(file=shown, force_terminal=True, width=width, markup=False, highlight=False, color_system=None)
    monkeypatch.setattr(terminal, "out", screen)
    assert formless("chat", "--edit", edit, "--compare", "Who?")[0] == 0
    found = shown.getvalue().splitlines()
    assert len(found) == lines
    assert ("plain 1" in found[-1] and "edited 2" in found[-1]) == (width == 100)


def test_no_prompt_is_printed_unless_a_person_types(
    formless: Formless, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Typed(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Typed("Who?\n\n"))  # typed, with a log in place of the screen
    code, out, err = formless("chat")
    assert (code, out, len(prompts)) == (0, "plain 1\n", 1)
    assert "> " not in err


def test_comparing_needs_an_edit(formless: Formless) -> None:
    code, out, err = formless("chat", "--compare", "Who?")
    assert (code, out, err) == (2, "", "error: there is one model to ask [--compare]: give --edit too\n")
