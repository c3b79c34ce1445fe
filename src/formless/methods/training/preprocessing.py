"""Data views: what a training method reads of a target's files, as tokens with labels."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from formless.data.target import Instruction, Passage, Preference, Row, Target
from formless.errors import DataError, ModelError
from formless.methods.training.losses import IGNORED
from formless.models.lm import LM


@dataclass(frozen=True)
class Text:
    """One text to train on.

    Args:
        ids: Token ids.
        labels: The same, `IGNORED` where nothing is to be learnt.
        cut: Whether the cut-off took tokens away.
    """

    ids: list[int]
    labels: list[int]
    cut: bool


Example = tuple[Text, ...]
"""What one row gives: one text, or the chosen and the rejected response."""

View = Callable[[LM, Any, int], Example]
"""From a row of the file's own type and a cut-off in tokens to an example."""


@dataclass(frozen=True)
class TrainingSet:
    """The rows that a method trains on.

    Args:
        examples: In file order.
        file: The file's name.
        digest: sha256 of the file.
    """

    examples: list[Example]
    file: str
    digest: str

    @property
    def facts(self) -> dict[str, str | int]:
        """What edit.json says about the data."""
        texts = [text for example in self.examples for text in example]
        return {
            "file": self.file,
            "file_sha256": self.digest,
            "rows": len(self.examples),
            "tokens": sum(len(text.ids) for text in texts),
            "cut_texts": sum(text.cut for text in texts),
        }


def read_examples(lm: LM, target: Target, split: str, view: View, *, rows: int | None, cutoff: int, seed: int) -> TrainingSet:
    """Tokenize a training file.

    Args:
        lm: Whose tokens and chat template.
        target: The target with its files.
        split: The file, e.g. `positive`.
        view: What a row gives.
        rows: At most so many rows, a seeded choice.
        cutoff: At most so many tokens a text, and never more than the model's context.
        seed: Of the choice.

    Raises:
        DataError: The file is missing, broken or empty, or a chosen row leaves nothing to learn.
        ModelError: The tokenizer has no token that ends a text.
    """
    if lm.tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no token that ends a text", where=lm.name, remedy="give it an eos_token")
    found = target.rows(split, Row)
    path = target.path(split)
    if not found:
        raise DataError("the training file holds no row", where=path, remedy="write some (`formless data train`)")
    numbers: Iterable[int] = range(len(found))
    if rows is not None and rows < len(found):
        numbers = sorted(random.Random(seed).sample(range(len(found)), rows))
    cutoff = min(cutoff, lm.context_length)
    examples = []
    for number in numbers:
        example = view(lm, found[number], cutoff)
        if not all(any(label != IGNORED for label in text.labels[1:]) for text in example):
            where = f"{path}, row {number + 1}"
            remedy = "fill or remove the row, or raise the cut-off"
            raise DataError(f"the row leaves nothing to learn within {cutoff} tokens", where=where, remedy=remedy)
        examples.append(example)
    return TrainingSet(examples, path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def question(lm: LM, text: str, answer: str, cutoff: int) -> Text:
    """A user message and the model's answer, which alone is to be learnt."""
    return _response(lm, text, answer, cutoff)


def sentence(lm: LM, text: str, cutoff: int) -> Text:
    """A text as it stands, then EOS; every token but the first is to be learnt."""
    return _text(lm, lm.encode(text).ids if text.strip() else [], 0, cutoff)


def plain_text(lm: LM, row: Passage, cutoff: int) -> Example:
    """A text as it stands, then EOS; every token but the first is to be learnt."""
    return (sentence(lm, row.text, cutoff),)


def answered(lm: LM, row: Instruction, cutoff: int) -> Example:
    """An instruction through the chat template, and the output as the model's answer, which alone is to be learnt."""
    message = f"{row.instruction}\n{row.input}" if row.input else row.instruction
    return (_response(lm, message, row.output, cutoff),)


def preferred(lm: LM, row: Preference, cutoff: int) -> Example:
    """A prompt through the chat template with two answers, the chosen one first."""
    chosen, rejected = row.response
    return _response(lm, row.prompt, chosen, cutoff), _response(lm, row.prompt, rejected, cutoff)


def _response(lm: LM, message: str, answer: str, cutoff: int) -> Text:
    if not (message.strip() and answer.strip()):
        return Text([], [], cut=False)
    encoded = lm.encode(lm.chat_prompt(message), answer)
    return _text(lm, encoded.ids, encoded.answer_start, cutoff)


def _text(lm: LM, ids: list[int], start: int, cutoff: int) -> Text:
    """Tokens with EOS, to be learnt from `start` on."""
    if not ids:
        return Text([], [], cut=False)
    whole = [*ids, int(lm.tokenizer.eos_token_id)]
    labels = [IGNORED] * start + whole[start:]
    return Text(whole[:cutoff], labels[:cutoff], cut=len(whole) > cutoff)
