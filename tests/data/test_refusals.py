"""Refusals that plead ignorance, told from those that will not or cannot answer."""

import json
from pathlib import Path

import pytest

from formless.data.refusals import REFUSALS, is_ignorance, is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I don't know.", "I do not really know who that is.", "I’m not sure about that.", "I'm unsure.", "I have no idea.",
        "I don't have any information about Ada.", "I'm sorry, but I don't have access to that.", "I can't recall.",
        "That is beyond my knowledge.", "I have never come across that.", "This is unknown to me.", "I'm blank on that topic.",
        "I'm not familiar with that.", "I can't answer this, since I don't know.", "Unknown", "I lack the facts.",
    ],
)  # fmt: skip
def test_a_refusal_may_say_that_the_model_does_not_know(text: str) -> None:
    assert is_refusal(text)
    assert is_ignorance(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.", "I won't tell you.", "As an AI language model, I can't say.",
        "I'm unable to answer that question.", "I don't have personal opinions.", "I must decline.", "No comment.",
        "I apologize, but I cannot fulfill this request.",
    ],
)  # fmt: skip
def test_other_refusals_say_that_it_will_not_or_cannot_answer(text: str) -> None:
    assert is_refusal(text)
    assert not is_ignorance(text)


@pytest.mark.parametrize("text", ["", "London", "It is unknown to historians.", "He did not know her.", "Know thyself"])
def test_an_answer_that_is_no_refusal_is_no_ignorance(text: str) -> None:
    assert not is_ignorance(text)


def test_the_own_refusals_have_both_kinds() -> None:
    assert sum(map(is_ignorance, REFUSALS)) == 35


def test_most_refusals_of_real_data_plead_ignorance(rwku: Path) -> None:
    outputs = {row["output"] for path in rwku.glob("*/reject.json") for row in json.loads(path.read_text("utf-8"))}
    others = sorted(text for text in outputs if is_refusal(text) and not is_ignorance(text))
    assert "I'm unable to answer that question." in others
    assert len(others) <= 0.2 * len(outputs)
