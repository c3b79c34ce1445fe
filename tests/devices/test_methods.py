"""Every method and task on a second device: nothing lies on the wrong one, and the results are those of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import formless
from formless.data.target import Target
from formless.methods.registry import METHODS
from formless.models.lm import LM
from formless.models.scores import Score

CLOSE = 1e-3
"""Nats: attention is computed in another order there."""

SMALL: dict[str, Any] = {
    "max_rows": 2, "max_length": 256, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "num_train_epochs": 1,
    "warmup_steps": 0, "learning_rate": 1e-3,
}  # fmt: skip
EDITED: dict[str, Any] = {"layers": [1, 2]}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "cdr": [EDITED | {"budget": 0.5}, EDITED | {"budget": 1, "redirect": "none"}],
    "rocr": [
        EDITED | {"basis": "none"},
        EDITED | {"basis": "none", "mode": "reject", "steps": 2},
        EDITED | {"basis": "none", "mode": "noise", "current_value": "bare"},
        {"layers": [1], "basis": "none", "reverse_layers": [3]},
    ],
    "ga": [SMALL, SMALL | {"full": True}],
    "grad_diff": [SMALL, SMALL | {"retain": "kl"}],
    "icu": [{}],
    "original": [{}],
}
"""What each method is run with; a method that is not named has `SMALL`."""

QUERIES = [("Where was Albert Einstein born? He was born in", " Ulm"), ("The capital of France is", " Paris")]


def scores(lm: LM) -> list[float]:
    return [value for one in lm.score(QUERIES) if isinstance(one, Score) for value in one.log_probabilities]


def edited(lm: LM, target: Target, method: str, settings: dict[str, Any]) -> list[float]:
    edit = formless.unlearn(lm, target, method, progress=False, **settings)
    with edit.applied(lm):
        return scores(lm)


@pytest.mark.parametrize(
    ("method", "settings"),
    [pytest.param(name, each, id=f"{name}{n}") for name in METHODS for n, each in enumerate(SETTINGS.get(name, [SMALL]))],
)
def test_a_method(
    tiny: Callable[..., LM],
    moved: Callable[[LM], LM],
    monkeypatch: pytest.MonkeyPatch,
    concept: Target,
    method: str,
    settings: dict[str, Any],
) -> None:
    if "reverse_layers" in settings:  # a random model answers with no name
        monkeypatch.setattr(LM, "generate", lambda _, prompts, **__: [concept.subject] * len(prompts))
    expected = edited(tiny(), concept, method, settings)
    lm = moved(tiny())
    before = scores(lm)
    assert edited(lm, concept, method, settings) == pytest.approx(expected, abs=CLOSE)
    assert scores(lm) == before
    assert {weight.device for weight in (*lm.model.parameters(), *lm.model.buffers())} == {torch.device("fake", 0)}


def test_what_the_package_loads(tiny: Callable[..., LM], moved: Callable[[LM], LM], tmp_path: Path) -> None:
    """`load`, a saved edit, and statistics, whose sums stay on the device."""
    lm = tiny()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    moved(lm)
    loaded = formless.load(str(tmp_path / "model"), device="fake", progress=False)
    assert (loaded.device, loaded.fingerprint) == (lm.device, lm.fingerprint)
