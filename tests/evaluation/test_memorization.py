"""Memorization by hand: extraction strength, exact memorization and truth ratio."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import formless
from formless.data.rows import Item
from formless.data.target import Target
from formless.evaluation.registry import TASKS
from formless.evaluation.task import Measured, ScoreAnswer, Source
from formless.evaluation.tasks.memorization import exact_memorization, extraction_strength, truth_metrics
from formless.models.lm import LM
from formless.models.scores import Score
from formless.models.settings import prompt_style

Tiny = Callable[..., LM]


@pytest.mark.parametrize(
    ("greedy", "strength", "exact"),
    [("1111", 1, 1), ("0111", 3 / 4, 3 / 4), ("1011", 1 / 2, 3 / 4), ("1110", 0, 3 / 4), ("0", 0, 0), ("1", 1, 1)],
)
def test_strength_is_the_rest_that_greedy_decoding_writes(greedy: str, strength: float, exact: float) -> None:
    tokens = [mark == "1" for mark in greedy]
    assert extraction_strength(tokens) == strength
    assert exact_memorization(tokens) == exact


def score(*probabilities: float) -> Score:
    return Score(tuple(map(math.log, probabilities)), (True,) * len(probabilities))


def test_the_truth_ratio_by_hand() -> None:
    # Per token 0.4; wrong answers 0.2 and, over two tokens, sqrt(0.1 * 0.4) = 0.2: r = 1/2.
    assert truth_metrics(score(0.4), [score(0.2), score(0.1, 0.4)]) == pytest.approx(
        {"truth_ratio": 1 / 2, "true_share": 2 / 3}
    )
    # Their geometric mean is sqrt(0.1 * 0.9) = 0.3: r = 3.
    assert truth_metrics(score(0.1), [score(0.1), score(0.9)]) == pytest.approx({"truth_ratio": 1 / 3, "true_share": 1 / 4})
    never = Score((-5000.0,), (False,))
    assert truth_metrics(never, [score(0.5)]) == {"truth_ratio": 0.0, "true_share": 0.0}


class Two:
    """Two foils of any item."""

    def of(self, _item: Item) -> tuple[str, ...]:
        return ("Rome", "Bonn")


def test_the_texts_that_are_scored(tiny: Tiny) -> None:
    source = Source("forget_level1", "forget", Two())  # type: ignore[arg-type]
    item = Item(query="Ada Lovelace was born in ___.", answer="London")
    found = TASKS["statement_memorization"].ask(tiny(), item, source)
    before = "Ada Lovelace was born in"
    answers = [ScoreAnswer(before, f" {name}") for name in ("London", "Rome", "Bonn")]
    assert found.requests == (ScoreAnswer("Ada", " Lovelace was born in London"), *answers)
    assert found.foils == ()  # the edited model is asked them too
    (request, *_) = TASKS["statement_memorization"].ask(tiny(), Item(query="Ada ___.", answer="L"), source).requests
    assert request == ScoreAnswer("Ada", " L")
    inside = Item(query="In ___ she was born.", answer="London")
    assert TASKS["statement_memorization"].ask(tiny(), inside, source).skipped == "the blank is not at the end"
    asked = TASKS["qa_memorization"].ask(tiny(), item, source)
    assert asked.requests[0] == asked.requests[1] == TASKS["qa"].ask(tiny(), item, source).requests[0]
    assert [request.answer for request in asked.requests if isinstance(request, ScoreAnswer)] == [" London"] * 2 + [
        " Rome",
        " Bonn",
    ]
    assert TASKS["qa_memorization"].ask(tiny(), Item(query="Who?", answer=" "), source).skipped == "the answer is empty"


def test_what_an_edited_model_is_asked_has_all_metrics(tiny: Tiny, target_folder: Path) -> None:
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    original = formless.evaluate(lm, target, "memorization,qa", progress=False)
    with lm.overlaid({}, {"method": "none", "subject": "Ada Lovelace", "prefix": None}):
        edited = formless.evaluate(lm, target, "memorization,qa", progress=False)
    for split in ("forget", "neighbor"):
        for name in ("qa_memorization", "statement_memorization"):
            before, after = original.task(name, split), edited.task(name, split)  # type: ignore[arg-type]
            assert before is not None
            assert after is not None
            assert [item.metrics for item in before.items] == [pytest.approx(item.metrics, abs=1e-5) for item in after.items]
            assert any("truth_ratio" in item.metrics for item in before.items)
    exact, qa = original.task("qa_memorization", "forget"), original.task("qa", "forget")
    assert exact is not None
    assert qa is not None
    assert exact.metric("exact_memorization").value == qa.metric("token_accuracy").value


def test_greedy_decoding_writes_the_rest_that_the_strength_says(lm: LM) -> None:
    """Of every statement that the real model has memorized in part: its own continuation, token by token."""
    source = Source("forget_level1", "forget")
    statement = Item(query="The capital of France is ___.", answer="Paris")
    (whole, _) = TASKS["statement_memorization"].ask(lm, statement, source).requests
    assert isinstance(whole, ScoreAnswer)
    (found,) = lm.score([(whole.prompt, whole.answer)])
    assert isinstance(found, Score)
    strength = extraction_strength(found.greedy)
    assert strength > 0
    ids = lm.encode(whole.prompt, whole.answer)
    written = round(strength * len(found.greedy))
    given = lm.tokenizer.decode(ids.ids[: len(ids.ids) - written])
    (text,) = lm.generate([given], max_new_tokens=written)
    assert text == lm.tokenizer.decode(ids.ids[len(ids.ids) - written :]).strip()


@pytest.mark.parametrize(
    ("greedy", "strength"), [("1111", 1), ("0111", 3 / 4), ("1011", 1 / 2), ("1110", 1 / 4), ("0", 1), ("00", 1 / 2)]
)
def test_the_strength_as_open_unlearning_has_it(greedy: str, strength: float) -> None:
    tokens = [mark == "1" for mark in greedy]
    assert extraction_strength(tokens, exact=True) == strength == by_published_loop(tokens)


def by_published_loop(tokens: list[bool]) -> float:
    """OpenUnlearning: the first k of range(m) from which on all predictions are right, else the last k."""
    k = next((k for k in range(len(tokens)) if all(tokens[k:])), len(tokens) - 1)
    return 1 - k / len(tokens)


@pytest.mark.parametrize("protocol", ["ours", "open-unlearning"])
def test_whole_answers_have_the_published_values(tiny: Tiny, tmp_path: Path, protocol: str) -> None:
    lm = tiny()
    lm.style = prompt_style(lm.style, {"protocol": protocol})
    exact = protocol == "open-unlearning"
    folder = tmp_path / "1_A_set"
    folder.mkdir()
    answers = ["A long answer about Ada Lovelace.", "x"]
    rows = [{"question": "Who wrote programs?", "answer": answer} for answer in answers]
    (folder / "neighbor_qa.json").write_text(json.dumps([*rows, {"question": "Who?", "answer": " "}]), "utf-8")
    record = formless.evaluate(lm, Target("A set", folder), "answer_memorization", progress=False)
    result = record.task("answer_memorization", "neighbor")
    assert result is not None
    assert result.items[2].skipped == "the answer is empty"
    prompt = lm.chat_prompt("Who wrote programs?", system="You are a helpful assistant." if exact else None)
    for item, answer in zip(result.items, answers, strict=False):
        text = answer + ("[assistant]</s>" if exact else "")
        before, ids = lm.encode(prompt).ids, lm.encode(prompt + text).ids
        with torch.no_grad():
            predicted = lm.model(input_ids=torch.tensor([ids])).logits[0, len(before) - 1 : -1].argmax(-1).tolist()
        right = [a == b for a, b in zip(predicted, ids[len(before) :], strict=True)]
        right = right[:-1] if exact else right  # the end of the text
        strength = by_published_loop(right) if exact or right[-1] else 0
        assert item.metrics == pytest.approx({"extraction_strength": strength, "exact_memorization": sum(right) / len(right)})


def test_an_item_has_the_published_strength_in_that_protocol(tiny: Tiny) -> None:
    lm = tiny()
    item, source, wrong = Item(query="Who?", answer="x"), Source("forget_level2", "forget"), [Score((-1.0,), (False,))] * 2
    values = []
    for protocol in ("ours", "open-unlearning"):
        lm.style = prompt_style(lm.style, {"protocol": protocol})
        found = TASKS["qa_memorization"].ask(lm, item, source).measure(wrong)
        assert isinstance(found, Measured)
        values.append(found.metrics["extraction_strength"])
    assert values == [0, 1]
