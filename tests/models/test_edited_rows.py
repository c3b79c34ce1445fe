from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch

from formless.models import edited_rows
from formless.models.edited_rows import EditedPrompts, continue_together, may_share_batches
from formless.models.families import known_model_types
from formless.models.lm import LM
from formless.models.overlay import Factors

Tiny = Callable[..., LM]
PROMPTS = ("What did Ada write?", "Ada", "A longer prompt about Ada and what she wrote")


def factors(lm: LM, layer: int, rank: int, seed: int) -> dict[str, Factors]:
    """An update of a layer's down-projection that is strong enough to change what the model writes."""
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(32, rank, generator=generator), torch.randn(rank, 48, generator=generator)
    return {lm.architecture.down_projection_name(layer): Factors(up, down)}


def groups_of(lm: LM, updates: Sequence[dict[str, Factors]]) -> list[EditedPrompts]:
    return [
        EditedPrompts(PROMPTS[: 1 + number % 3], own, partial(lm.overlaid, own, {}) if own else nullcontext)
        for number, own in enumerate(updates)
    ]


def alone(lm: LM, group: EditedPrompts) -> list[str]:
    with group.applied():
        return lm.generate(group.prompts, max_new_tokens=12)


@pytest.mark.parametrize("model_type", known_model_types())
def test_each_edit_writes_what_it_writes_alone(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    if not may_share_batches(lm, edits_weights=True):
        pytest.skip("the family has a sliding window")
    two_layers = factors(lm, 1, 1, 4) | factors(lm, 3, 2, 5)
    updates = [{}, factors(lm, 1, 1, 1), factors(lm, 1, 3, 2), factors(lm, 2, 2, 3), two_layers, {}]
    groups = groups_of(lm, updates)
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    together = continue_together(lm, groups, max_new_tokens=12)
    assert together == [alone(lm, group) for group in groups]
    assert len({own[0] for own in together}) > 3  # the edits differ in what they write
    assert all(torch.equal(weight, before[name]) for name, weight in lm.model.state_dict().items())
    assert not any(module._forward_hooks for module in lm.model.modules())


def test_texts_of_edits_that_join_and_leave_the_batch_keep_their_edit(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    generation: Any = lm.model.generation_config
    generation.eos_token_id = list(range(2, 52))  # a fifth of the tokens end a text
    groups = groups_of(lm, [factors(lm, 1 + number % 3, 1, number) for number in range(7)])
    lm.token_budget = 100  # a few texts at a time
    batches: list[Sequence[int]] = []
    step = edited_rows._EditedRows.step

    def noted(self: Any, rows: Sequence[int]) -> None:
        batches.append(tuple(rows))
        step(self, rows)

    monkeypatch.setattr(edited_rows._EditedRows, "step", noted)
    together = continue_together(lm, groups, max_new_tokens=12)
    changes = [(set(one), set(two)) for one, two in pairwise(batches)]
    assert any(two - one and two & one for one, two in changes)  # a text has joined others
    assert any(two < one for one, two in changes)  # and some have left without another in their place
    assert together == [alone(lm, group) for group in groups]


def test_edits_of_coarse_weights_share_no_batch(tiny: Tiny) -> None:
    assert may_share_batches(tiny(), edits_weights=True)
    assert not may_share_batches(tiny(dtype=torch.bfloat16), edits_weights=True)
    assert may_share_batches(tiny(dtype=torch.bfloat16), edits_weights=False)
    assert not may_share_batches(tiny("gemma2"), edits_weights=False)  # a sliding window
