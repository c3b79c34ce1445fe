"""Every task on a second device: nothing lies on the wrong one, and the results are those of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

import formless
from formless.data.target import Target
from formless.evaluation.record import Record
from formless.evaluation.registry import TASKS
from formless.evaluation.tasks import gcg
from formless.models import generation
from formless.models.lm import LM
from formless.models.scores import Ending, SuffixBudget

CLOSE = 1e-3
"""Relative and absolute: attention is computed in another order there."""

WITHOUT_VALUE = {"model_utility", "forget_quality", "mia_reference", "privleak"}
"""Computed from other tasks' results alone: no tensor takes part."""


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of six tokens, and a short search."""
    whole = generation.continuations

    def some(lm: LM, prompts: Sequence[str], endings: Sequence[Ending], **more: Any) -> Any:
        return whole(lm, prompts, [replace(ending, max_new_tokens=min(ending.max_new_tokens, 6)) for ending in endings], **more)

    monkeypatch.setattr(generation, "continuations", some)
    monkeypatch.setattr(gcg, "BUDGET", SuffixBudget(steps=2, candidates=4, top=8))


def measured(lm: LM, target: Target, task: str) -> dict[tuple[Any, ...], float | None]:
    record: Record = formless.evaluate(lm, target, task, limit=1, progress=False)
    return {(one.task, one.split, each.metric, each.group): each.value for one in record.tasks for each in one.metrics}


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("task", TASKS)
def test_a_task(tiny: Callable[..., LM], moved: Callable[[LM], LM], questions: Target, texts_apart: Target, task: str) -> None:
    target = texts_apart if task.startswith("mia_qa") else questions
    expected = measured(tiny(context=2048), target, task)
    found = measured(moved(tiny(context=2048)), target, task)
    assert {name: value is None for name, value in found.items()} == {name: value is None for name, value in expected.items()}
    valued = {name: value for name, value in found.items() if value is not None}
    assert valued == pytest.approx({name: expected[name] for name in valued}, rel=CLOSE, abs=CLOSE)
    assert bool(valued) == (task not in WITHOUT_VALUE)
