"""TriviaQA, five examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from formless.data.refusals import is_refusal
from formless.data.rows import Trivia
from formless.evaluation.metrics import exact_match, published_exact_match, token_f1
from formless.evaluation.prompts import NEW_TOKENS, is_published
from formless.evaluation.task import Generate, Measured, MetricSpec, Query, Source, Task

if TYPE_CHECKING:
    from formless.models.lm import LM

# Our own five: the benchmark leaves the examples open.
EXAMPLES = (
    ("Which planet has a great red spot?", "Jupiter"),
    ("In which country is the ancient city of Petra?", "Jordan"),
    ("How many strings does a violin have?", "Four"),
    ("Who painted the Girl with a Pearl Earring?", "Johannes Vermeer"),
    ("What is the chemical symbol of iron?", "Fe"),
)


def message(row: Trivia, *, published: bool = False) -> str:
    """Return the user message: five examples, then the question; `published` lays them out as the published code does."""
    if published:
        examples = "".join(f"Q: {question}\nA: {answer}\n" for question, answer in EXAMPLES)
        return f"\n{examples}Please briefly answer the following question:\nQ: {row.question}\n"
    examples = "".join(f"Q: {question}\nA: {answer}\n\n" for question, answer in EXAMPLES)
    return f"{examples}Q: {row.question}"


def ask(lm: LM, row: Trivia, _source: Source) -> Query:
    """Let the model write an answer: `em` and `f1` after SQuAD's normalisation, the best over the accepted answers; `refusal`.

    Differs from the paper: an answer ends with its line (protocol `published`: after 30 tokens). The examples are our own in
    both protocols; `published` has the published layout, with a line that asks for a brief answer.
    """
    published = is_published(lm)
    match = published_exact_match if published else exact_match

    def measure(texts: Sequence[Any]) -> Measured:
        text, right = texts[0], row.answers
        return Measured({"em": match(text, right), "f1": token_f1(text, right), "refusal": float(is_refusal(text))}, text)

    prompt = lm.chat_prompt(message(row, published=published), "A:")
    request = Generate(prompt, NEW_TOKENS, one_line=not published)
    return Query(row.question, (request,), measure, expected=list(row.answers))


TRIVIAQA = Task(
    name="triviaqa",
    title="TriviaQA",
    files=("triviaqa",),
    metrics=(
        MetricSpec("em", "share", "exact match"),
        MetricSpec("f1", "share", "F1"),
        MetricSpec("refusal", "share", "refusals", higher_is_better=None),
    ),
    ask=ask,
    records_prompts=False,
)
