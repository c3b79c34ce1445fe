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
from formless.methods.rocr import sampled
from formless.methods.rocr.statistics import compute_statistics
from formless.models import sampled_texts
from formless.models.lm import LM
from formless.models.scores import Score
from tests.conftest import SIZES

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


def test_files_of_a_model_on_the_device(
    tiny: Callable[..., LM], moved: Callable[[LM], LM], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A model is loaded there, its statistics become null spaces, and an edit with them is saved and loaded."""
    lm = tiny()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    expected = with_null_spaces(lm, tmp_path / "cpu")
    moved(lm)
    loaded = formless.load(str(tmp_path / "model"), device="fake", progress=False)
    assert (loaded.device, loaded.fingerprint) == (lm.device, lm.fingerprint)
    assert with_null_spaces(loaded, tmp_path / "device") == pytest.approx(expected, abs=CLOSE)
    monkeypatch.setattr(sampled, "SAMPLES", 4)
    monkeypatch.setattr(sampled_texts, "LENGTH", 4)
    assert edited(loaded, Target("Ada Lovelace"), "rocr", EDITED | {"basis": "sampled"})


def with_null_spaces(lm: LM, out: Path) -> list[float]:
    texts = [f"{word} is a town with {n} bridges." for word in ("Rome", "Bonn", "Oslo") for n in range(4)]
    compute_statistics(lm, [1, 2], iter(texts), corpus="towns", out=out / "basis", threshold=1e-5, progress=False)
    settings = EDITED | {"basis": str(out / "basis"), "threshold": 1e-5}
    edit = formless.unlearn(lm, "Ada Lovelace", "rocr", progress=False, **settings)
    edit.save(out / "edit")
    with formless.load_edit(out / "edit").applied(lm):
        return scores(lm)


@pytest.mark.parametrize("family", SIZES)
def test_a_family(tiny: Callable[..., LM], moved: Callable[[LM], LM], family: str) -> None:
    """Sliding windows, biases, transposed weights and caches of every family."""
    settings = {"layers": [1, 2], "basis": "none", "redirect": "Rome"}
    prompts = ["The town", "A large house is"]
    expected = edited(tiny(family), Target("Ada Lovelace"), "rocr", settings)
    texts = tiny(family).generate(prompts, max_new_tokens=3)
    lm = moved(tiny(family))
    assert edited(lm, Target("Ada Lovelace"), "rocr", settings) == pytest.approx(expected, abs=CLOSE)
    assert lm.generate(prompts, max_new_tokens=3) == texts
