"""Activation patching on a tiny model, and the page about it from made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from formless.data.ort import find_target
from formless.data.rows import Aliases, MentionItem
from formless.models.lm import LM
from formless.models.scores import Score
from tools import description_layers
from tools.description_layers import patched_scores, place_of, renamed
from tools.known_items import DEVELOPMENT

Tiny = Callable[..., LM]
RIGHT, WRONG, ANSWER = "Where was Ada born? Answer:", "Where was Bob born? Answer:", " London"


def log_probability(lm: LM, prompt: str) -> float:
    (found,) = lm.score([(prompt, ANSWER)])
    assert isinstance(found, Score)
    return found.log_probability


def test_the_right_state_at_the_only_other_token_restores_the_answer(tiny: Tiny) -> None:
    lm = tiny()
    right, wrong = "Was Ada born? Answer:", "Was Adb born? Answer:"
    (states,) = lm.read_layers([right[: right.index("a b") + 1]])
    place = len(lm.encode(right[: right.index("a b") + 1]).ids) - 1
    found = patched_scores(lm, wrong, ANSWER, place, {0: torch.from_numpy(states[0]), 3: torch.from_numpy(states[3])})
    assert found[-1] == pytest.approx(log_probability(lm, wrong), abs=1e-4)
    assert found[0] != pytest.approx(found[-1], abs=1e-4)  # layer 0: all above it see the right token but through layer 0
    assert found[1] == pytest.approx(found[-1], abs=1e-4)  # the last layer: no later token reads it any more


def test_the_last_token_of_the_prompt_decides_the_first_token_of_the_answer(tiny: Tiny) -> None:
    lm = tiny()
    (states,) = lm.read_layers([RIGHT])
    place = len(lm.encode(WRONG).ids) - 1
    (patched, unpatched) = patched_scores(lm, WRONG, " ", place, {3: torch.from_numpy(states[3])})
    (right,), (wrong,) = (lm.score([(prompt, " ")]) for prompt in (RIGHT, WRONG))
    assert isinstance(right, Score)
    assert isinstance(wrong, Score)
    assert patched == pytest.approx(right.log_probability, abs=1e-4)
    assert unpatched == pytest.approx(wrong.log_probability, abs=1e-4)
    assert right.log_probability != pytest.approx(wrong.log_probability, abs=1e-4)


def test_another_concept_is_named_in_the_same_way(tiny: Tiny) -> None:
    lm = tiny()
    newton = next(row for row in find_target("sample", "2").rows("aliases", Aliases) if row.name == "Isaac Newton")
    rows = find_target("sample", "1").rows("forget_mentions", MentionItem)
    for row in (row for row in rows if row.mention in description_layers.MENTIONS):
        other = renamed(row, newton)
        assert other.named in other.query
        assert row.named not in other.query
        assert other.named[0].isupper() == row.named[0].isupper()
        assert (
            place_of(lm, row.query, row, "mention") == len((row.query[: row.query.index(row.named)] + row.named).encode()) - 1
        )


def test_a_share_is_of_sums_and_small_losses_are_left_out(tmp_path: Path) -> None:
    for number in DEVELOPMENT:
        items = [
            {"mention": mention, "place": place, "query": "q", "right": right, "patched": [-4.0, -2.0, wrong]}
            for mention in description_layers.MENTIONS
            for place in description_layers.PLACES
            for right, wrong in ((-1.0, -5.0), (-1.0, -4.0), (-1.0, -1.5))
        ]
        path = tmp_path / f"smollm2-{find_target('sample', number).subject}.json"
        path.write_text(json.dumps({"layers": [2, 5], "items": items}), "utf-8")
    page = description_layers.page("smollm2", tmp_path)
    assert page.rows == [[2, *[14.3] * 4], [5, *[71.4] * 4]]  # (1 + 0) / (4 + 3) and (3 + 2) / (4 + 3)
    assert "8 questions with the full name and 8 with a description" in page.n
