"""That what work needs is counted right, and that the table of results keeps what was not measured again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from benchmarks import evaluation, generation
from benchmarks.__main__ import main
from benchmarks.limit import Limit, Needed, find_limit, needed, scored
from benchmarks.limit_writing import WritingLimit, Written, find_writing_limit
from benchmarks.timing import Row, Times
from formless.models.cache import prefix_cache
from formless.models.lm import LM

Tiny = Callable[..., LM]


def test_what_texts_begin_with_alike_is_needed_once() -> None:
    torch.manual_seed(0)
    texts = [(torch.randint(2, (length,)).tolist(), first) for length in range(1, 9) for first in range(3) for _ in range(3)]
    beginnings = {tuple(ids[:end]) for ids, _ in texts for end in range(1, len(ids) + 1)}
    places = {tuple(ids[:end]) for ids, first in texts for end in range(first + 1, len(ids) + 1)}
    assert needed(texts) == Needed(len(beginnings), sum(map(len, beginnings)), len(places))


def test_alternatives_to_one_prompt_need_it_once(tiny: Tiny) -> None:
    lm = tiny()
    prompt = "The capital of France is"
    one = scored([lm.encode(prompt, " A")])
    assert (one.tokens, one.scored) == (len(lm.encode(prompt).ids) + 1, 2)  # a letter is a token here
    both = scored([lm.encode(prompt, " A"), lm.encode(prompt, " B")])
    assert (both.tokens, both.scored) == (one.tokens, 2)  # they differ in the last letter, which is only predicted


def test_operations_are_those_of_the_shapes(tiny: Tiny) -> None:
    lm = tiny()
    config = lm.model.config
    inside = [
        parameter.numel()
        for name, parameter in lm.model.named_parameters()
        if parameter.ndim == 2 and ".layers." in name
    ]  # fmt: skip
    limit = find_limit(lm)
    assert limit.per_token == 2 * sum(inside)
    assert limit.per_scored == 2 * config.vocab_size * config.hidden_size
    assert limit.body > 0
    assert find_limit(lm, layers=1).per_token * config.num_hidden_layers == limit.per_token


def test_seconds_are_operations_over_rates() -> None:
    limit = Limit(body=100, head=10, per_token=30, per_attended=4, per_scored=5)
    assert limit.seconds(Needed(tokens=2, attended=10, scored=4)) == (60 + 40) / 100 + 20 / 10
    assert limit.seconds(Needed(1, 0, 0), passes=3) == pytest.approx(0.9)


def test_the_written_table_has_shares_and_keeps_other_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "speed.json"
    once = Row("forms", Times((2.0, 4.0)), Times((20.0,)), 4, "equal", limit=1.0, goal=0.7)
    alone = Row("answers", Times((4.0,)), None, None, "", model="1.5B, bfloat16", limit=1.0)
    monkeypatch.setattr(evaluation, "rows", lambda *, quick: [once])
    monkeypatch.setattr(generation, "rows", lambda *, quick: [alone])
    assert main(["evaluation", "generation", "--json", str(path)]) == 0
    monkeypatch.setattr(generation, "rows", lambda *, quick: [])
    assert main(["generation", "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text("utf-8"))["rows"]
    assert row[:7] == ["evaluation", "forms", "135M, float32", 6.7, 4, 50, 70]


def test_a_step_takes_the_longer_of_reading_and_multiplying() -> None:
    prompts = Limit(body=1000, head=100, per_token=30, per_attended=2, per_scored=5)
    limit = WritingLimit(prompts, body={1: 10, 2: 60}, head={1: 5, 2: 10}, weights=100, per_cached=4, bandwidth=70)
    assert limit.step([10]) == pytest.approx((30 + 20) / 10 + 1)  # more than 140 / 70
    assert limit.step([10, 15]) == pytest.approx(200 / 70)  # more than (60 + 50) / 60 + 1
    texts = [Written((1, 2, 3), 2), Written((1, 2, 4), 3)]
    first = prompts.seconds(Needed(4, 1 + 2 + 3 + 3, 2))
    assert limit.seconds(texts) == pytest.approx(first + limit.step([4, 4]) + limit.step([5]))


def test_the_bytes_of_a_step_are_those_of_the_shapes(tiny: Tiny) -> None:
    lm = tiny()
    limit = find_writing_limit(lm)
    (keys,) = {layer.keys[0, :, 0].nbytes for layer in cast(Any, prefix_cache(lm, [1, 2])).layers}
    assert limit.per_cached == 2 * keys * lm.model.config.num_hidden_layers
    assert limit.weights == 4 * (limit.prompts.per_token + limit.prompts.per_scored) // 2
    assert limit.bandwidth > 0
