"""Preprocessing: from the rows of a target's training file to tokens with labels."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from formless.data.refusals import REFUSALS
from formless.data.rows import Instruction, Passage, Preference, QuestionAnswer, Row
from formless.data.target import Target
from formless.errors import DataError, ModelError
from formless.methods.training.losses import IGNORED

if TYPE_CHECKING:
    from formless.models.lm import LM


@dataclass(frozen=True)
class TokenizedText:
    """One text to train on.

    Args:
        ids: Token ids.
        labels: The same, `IGNORED` at tokens that are not learned.
        truncated: Whether tokens beyond the maximum length were removed.
    """

    ids: list[int]
    labels: list[int]
    truncated: bool

    @property
    def is_learnable(self) -> bool:
        """Whether any token but the first, which nothing predicts, has a label."""
        return any(label != IGNORED for label in self.labels[1:])


Example = tuple[TokenizedText, ...]
"""What one row becomes: one text, or the chosen and the rejected response."""

Preprocess = Callable[["LM", Any, int], Example]
"""Function from a model, a row of the file's own type and a maximum length in tokens to an example."""


class PreprocessQuestion(Protocol):
    """Function from a model, a question with its answer and a maximum length in tokens to an example."""

    def __call__(self, lm: LM, row: QuestionAnswer, max_length: int, *, seed: int) -> Example:
        """Tokenize one row; the seed draws a refusal or a wrong answer, the same for a question in every run."""
        ...


@dataclass(frozen=True)
class TrainingSet:
    """The rows that a method trains on.

    Args:
        examples: One per row, in file order.
        file: Name of the file.
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
            "truncated_texts": sum(text.truncated for text in texts),
        }


def load_training_set(
    lm: LM, target: Target, file: str, preprocess: Preprocess, *, max_rows: int | None, max_length: int, seed: int
) -> TrainingSet:
    """Read and tokenize a training file.

    Args:
        lm: The model, for its tokenizer and chat template.
        target: The target with its files.
        file: Name of the file without ".json", e.g. `positive`.
        preprocess: Function from a row to an example.
        max_rows: Maximum number of rows, a seeded choice; all rows if None.
        max_length: Maximum number of tokens of a text; the model's context limits it too.
        seed: Seed of the choice.

    Raises:
        DataError: The file is missing, broken or empty, or a chosen row has nothing to learn.
        ModelError: The tokenizer has no token that ends a text.
    """
    if lm.tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no token that ends a text", where=lm.name, remedy="give it an eos_token")
    found = target.rows(file, Row)
    path = target.path(file)
    if not found:
        raise DataError("the training file holds no row", where=path, remedy="write some (`formless data train`)")
    numbers: Iterable[int] = range(len(found))
    if max_rows is not None and max_rows < len(found):
        numbers = sorted(random.Random(seed).sample(range(len(found)), max_rows))
    max_length = min(max_length, lm.context_length)
    examples = []
    for number in numbers:
        example = preprocess(lm, found[number], max_length)
        if not all(text.is_learnable for text in example):
            where = f"{path}, row {number + 1}"
            remedy = "fill or remove the row, or raise max_length"
            raise DataError(f"the row has nothing to learn within {max_length} tokens", where=where, remedy=remedy)
        examples.append(example)
    return TrainingSet(examples, path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def preprocess_text(lm: LM, row: Passage, max_length: int) -> Example:
    """Tokenize a plain text and EOS; every token but the first is learned."""
    return (tokenize_text(lm, row.text, max_length),)


def preprocess_instruction(lm: LM, row: Instruction, max_length: int) -> Example:
    """Tokenize an instruction in the chat template and the output as the model's answer, which alone is learned."""
    message = f"{row.instruction}\n{row.input}" if row.input else row.instruction
    return (tokenize_answer(lm, message, row.output, max_length),)


def preprocess_preference(lm: LM, row: Preference, max_length: int) -> Example:
    """Tokenize a prompt in the chat template with two answers, the chosen one first."""
    chosen, rejected = row.response
    return tokenize_answer(lm, row.prompt, chosen, max_length), tokenize_answer(lm, row.prompt, rejected, max_length)


def question_answer(lm: LM, row: QuestionAnswer, max_length: int, *, seed: int) -> Example:  # noqa: ARG001 - nothing is drawn
    """Tokenize a question in the chat template and its answer, which alone is learned."""
    return (tokenize_answer(lm, row.question, row.answer, max_length),)


def question_answer_without_start(lm: LM, row: QuestionAnswer, max_length: int, *, seed: int) -> Example:
    """As `question_answer`; the answer's first token, where all else that could be said begins, has no label."""
    (text,) = question_answer(lm, row, max_length, seed=seed)
    first = next((place for place, label in enumerate(text.labels) if label != IGNORED), 0)
    return (replace(text, labels=[*text.labels[:first], IGNORED, *text.labels[first + 1 :]]),)


def question_refusal(lm: LM, row: QuestionAnswer, max_length: int, *, seed: int) -> Example:
    """Tokenize a question in the chat template and a refusal as the answer, which alone is learned."""
    return (tokenize_answer(lm, row.question, _drawn(row, seed).choice(REFUSALS), max_length),)


def question_refusal_and_answer(lm: LM, row: QuestionAnswer, max_length: int, *, seed: int) -> Example:
    """Tokenize a question in the chat template with a refusal, the chosen answer, and with its own, the rejected one."""
    return (*question_refusal(lm, row, max_length, seed=seed), *question_answer(lm, row, max_length, seed=seed))


def question_wrong_answer(lm: LM, row: QuestionAnswer, max_length: int, *, seed: int) -> Example:
    """Tokenize a question in the chat template and one of its perturbed answers, which alone is learned.

    Raises:
        DataError: It has none.
    """
    if not row.perturbed_answer:
        remedy = "import perturbed answers too, or choose another method"
        raise DataError("a question has no perturbed answer to train on", where=row.question, remedy=remedy)
    return (tokenize_answer(lm, row.question, _drawn(row, seed).choice(row.perturbed_answer), max_length),)


def _drawn(row: QuestionAnswer, seed: int) -> random.Random:
    return random.Random(f"{seed} {row.question}")


def tokenize_text(lm: LM, text: str, max_length: int) -> TokenizedText:
    """Tokenize a plain text and EOS; every token but the first is learned."""
    return _tokenized(lm, lm.encode(text).ids if text.strip() else [], 0, max_length)


def tokenize_answer(lm: LM, message: str, answer: str, max_length: int) -> TokenizedText:
    """Tokenize a user message in the chat template and the model's answer, which alone is learned."""
    if not (message.strip() and answer.strip()):
        return TokenizedText([], [], truncated=False)
    encoded = lm.encode(lm.chat_prompt(message), answer)
    return _tokenized(lm, encoded.ids, encoded.answer_start, max_length)


def _tokenized(lm: LM, ids: list[int], start: int, max_length: int) -> TokenizedText:
    """Add EOS, label the tokens from `start` on, and truncate."""
    if not ids:
        return TokenizedText([], [], truncated=False)
    whole = [*ids, int(lm.tokenizer.eos_token_id)]
    labels = [IGNORED] * start + whole[start:]
    return TokenizedText(whole[:max_length], labels[:max_length], truncated=len(whole) > max_length)
