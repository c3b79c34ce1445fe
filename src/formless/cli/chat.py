"""`formless chat`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from formless.cli import terminal
from formless.errors import UserError

if TYPE_CHECKING:
    from formless.edits.edit import Edit
    from formless.models.lm import LM

_MAX_LINE = 2**20
_BESIDE = 80  # columns that two answers beside each other need


def chat_command(
    question: Annotated[str | None, typer.Argument(help="One question; without it, a conversation line by line.")] = None,
    model: terminal.ModelOption = "smollm2",
    edit: Annotated[Path | None, typer.Option(help="A saved edit to apply.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="With --edit: the original model's answers too.")] = False,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Maximum number of new tokens.")] = 128,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Ask a model, with or without an edit; in a conversation it sees the earlier questions and its answers.

    Questions may be piped, one in each line. Where the conversation does not fit the model's context, its oldest turns are left
    out, which is said, as is an answer that was cut.

    Example: formless chat --edit edits/einstein "Who was Albert Einstein?"

    Example: formless chat --edit edits/einstein --compare
    """
    from formless.edits.edit import refuse_other_shapes
    from formless.edits.loading import load_edit

    if compare and not edit:
        raise UserError("there is one model to ask", where="--compare", remedy="give --edit too")
    loaded = load_edit(edit) if edit else None
    check = partial(refuse_other_shapes, edit=loaded) if loaded else None
    lm = terminal.load_model(model, dtype, device, trust_remote_code, check)
    if system is not None and not lm.has_system_role:
        what = "the model's chat template has no system prompt"
        raise UserError(what, where=f"{lm.name}, --system", remedy="leave it out, or say it in the question")
    conversations = [_Conversation(lm, loaded, system, tokens)]
    if compare:
        conversations.insert(0, _Conversation(lm, None, system, tokens))
    if question is not None:
        _ask(question, conversations)
        return
    if sys.stdin.isatty():
        terminal.log.print("ask a question; an empty line ends")
    while line := _next_line():
        _ask(line, conversations)


@dataclass
class _Conversation:
    """A conversation with the model, without or with an edit.

    Args:
        lm: The model.
        edit: The edit that is applied while it answers.
        system: The system prompt.
        tokens: Most tokens of an answer.
        turns: Questions and answers in turn.
        note: What has to be said about the last answer.
    """

    lm: LM
    edit: Edit | None
    system: str | None
    tokens: int
    turns: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def name(self) -> str:
        """What answers."""
        return f"edited ({self.edit.info.method}, {self.edit.info.subject})" if self.edit else "original"

    def answer(self, question: str) -> str:
        """Return the answer to the next question.

        Raises:
            ModelError: The question alone is too long for the context.
        """
        with self.edit.applied(self.lm) if self.edit else nullcontext():
            dropped = self._make_room(question)
            reply = self.lm.reply(question, earlier=self.turns, system=self.system, max_new_tokens=self.tokens)
        self.turns += [question, reply.text]
        left_out = f"the first {dropped} turns are" if dropped > 1 else "the first turn is"
        notes = [f"the context of {self.lm.context_length} tokens is full; {left_out} left out"] * bool(dropped)
        notes += [f"cut at {self.tokens} tokens; --tokens allows more"] * reply.is_cut
        self.note = "; ".join(notes)
        return reply.text

    def _make_room(self, question: str) -> int:
        """Drop the oldest turns, a question and its answer each, until the rest fits; return how many were dropped."""
        dropped = 0
        while self.turns:
            prompt = self.lm.chat_prompt(question, earlier=self.turns, system=self.system)
            if not self.lm.context_overflow(len(self.lm.encode(prompt).ids), self.tokens):
                break
            del self.turns[:2]
            dropped += 1
        return dropped


def _ask(question: str, conversations: list[_Conversation]) -> None:
    """Print the answer of each model, two of them beside each other where there is room."""
    with terminal.progress("answering"):
        answers = [one.answer(question) for one in conversations]
    _show(answers, [one.name for one in conversations])
    for note in dict.fromkeys(one.note for one in conversations if one.note):
        terminal.log.print(f"({note})", soft_wrap=True)


def _show(answers: list[str], names: list[str]) -> None:
    whole = not terminal.out.is_terminal  # a file's lines are not broken
    if len(answers) == 1:
        terminal.out.print(answers[0], soft_wrap=whole)
    elif whole or terminal.out.width < _BESIDE:
        for name, answer in zip(names, answers, strict=True):
            terminal.out.print(f"{name}: {answer}", soft_wrap=whole)
    else:
        from rich.table import Table

        table = Table(*names, box=None, expand=True, padding=(0, 2, 0, 0))
        for column in table.columns:
            column.ratio = 1
        table.add_row(*answers)
        terminal.out.print(table)


def _next_line() -> str:
    try:
        if sys.stdin.isatty() and terminal.log.is_terminal:
            return terminal.log.input("> ").strip()
        line = sys.stdin.readline(_MAX_LINE + 1)
        if len(line) > _MAX_LINE:
            what = f"a question is longer than {_MAX_LINE:,} characters"
            raise UserError(what, where="standard input", remedy="give questions, one in each line")
        return line.strip()
    except EOFError:
        return ""
    except UnicodeDecodeError as error:
        raise UserError("a question is not UTF-8", where="standard input", remedy="type or convert it as UTF-8") from error
