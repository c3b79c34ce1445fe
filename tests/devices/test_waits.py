"""How often each inner loop waits for a second device: a GPU is idle meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import formless
from formless.data.target import Target
from formless.methods.keys.token_states import TokenStates
from formless.methods.registry import METHODS
from formless.methods.rocr.statistics import SecondMoments
from formless.methods.training import monitor
from formless.models.lm import LM
from formless.models.scores import SuffixBudget
from tests.devices.fake import Trace, trace

FEW, MANY = 2, 5
WORDS = ("Rome", "Bonn", "Oslo", "Bern", "Kiel")
QUERIES = [(f"{word} is a town", " indeed") for word in WORDS]  # of one length, and nothing that they begin with alike


@dataclass(frozen=True)
class Loop:
    """An inner loop.

    Args:
        run: Runs it with that many rounds.
        own: Waits of a round that Formless asks for itself.
        library: Most waits of a round inside transformers, accelerate and peft.
        rows: Whether a round is a row of one batch; else each is a batch of its own.
    """

    run: Callable[[LM, int], object]
    own: float
    library: float = 0
    rows: bool = False


def generated(lm: LM, tokens: int) -> object:
    lm.model.generation_config.eos_token_id = None
    return lm.generate(["The town", "A"], max_new_tokens=tokens)


def sampled(lm: LM, tokens: int) -> object:
    return lm.sample(["The town", "A"], max_new_tokens=tokens, seed=0)


def searched(lm: LM, steps: int) -> object:
    return lm.search_suffix("Say it ! ! ! !", "! ! ! !", " Yes", SuffixBudget(steps=steps, candidates=4, top=8))


def summed(lm: LM, texts: int) -> object:
    moments = SecondMoments(lm, [1, 2], {})
    return moments.add([f"{'many ' * n}words" for n in range(texts)], 64)


def repeated(lm: LM, times: int) -> object:
    states = TokenStates(lm, ["The town", "A house"], [1, 2])
    return [states.read(2, 1) for _ in range(times)]


LOOPS = {
    # A pass of this budget is one token, and it is waited for where it predicts one of the seven tokens of an answer.
    "score, per pass": Loop(lambda lm, n: lm.score(QUERIES[:n]), own=7, library=1),
    "score, per row": Loop(lambda lm, n: lm.score(QUERIES[:n]), own=0, rows=True),
    "score, per answer": Loop(lambda lm, n: lm.score([("The town is", f" {word}") for word in WORDS[:n]]), own=0, rows=True),
    "score_texts, per batch": Loop(lambda lm, n: lm.score_texts([a + b for a, b in QUERIES[:n]]), own=1, library=1),
    "score_texts, per row": Loop(lambda lm, n: lm.score_texts([a + b for a, b in QUERIES[:n]]), own=0, rows=True),
    "score_layers, per batch": Loop(lambda lm, n: lm.score_layers(QUERIES[:n]), own=4, library=1),
    "score_layers, per row": Loop(lambda lm, n: lm.score_layers(QUERIES[:n]), own=0, rows=True),
    "read_layers, per batch": Loop(lambda lm, n: lm.read_layers([a for a, _ in QUERIES[:n]]), own=1, library=1),
    "read_layers, per row": Loop(lambda lm, n: lm.read_layers([a for a, _ in QUERIES[:n]]), own=0, rows=True),
    "generate, per token": Loop(generated, own=1, library=1, rows=True),
    "sample, per token": Loop(sampled, own=2, library=1, rows=True),  # the logits, then the tokens
    "gradient_norms, per text": Loop(lambda lm, n: lm.gradient_norms([a for a, _ in QUERIES[:n]]), own=1, library=1),
    "search_suffix, per step": Loop(searched, own=2, library=2, rows=True),  # the gradient, and the candidates' losses
    "statistics, per batch": Loop(summed, own=0, library=1),
    "token states, per repetition": Loop(repeated, own=0, rows=True),
}


def counted(found: Trace) -> tuple[int, int]:
    """Waits that Formless asked for itself, and those inside libraries."""
    library = sum(count for site, count in found.waits.items() if " > " in site)
    return found.waits.total() - library, library


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop(tiny: Callable[..., LM], moved: Callable[[LM], LM], name: str) -> None:
    loop, lm = LOOPS[name], moved(tiny())
    lm.token_budget = 4096 if loop.rows else 1
    loop.run(lm, FEW)  # what is cached is cached
    waits = []
    for rounds in (FEW, MANY):
        with trace() as found:
            loop.run(lm, rounds)
        waits.append(counted(found))
    own, library = ((many - few) / (MANY - FEW) for few, many in zip(*waits, strict=True))
    assert own == loop.own, found.waits
    assert library <= loop.library, found.waits


TRAINING: dict[str, Any] = {
    "max_length": 256, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "num_train_epochs": 1,
    "warmup_steps": 0, "learning_rate": 1e-4,
}  # fmt: skip
STEPS = dict.fromkeys(("npo", "dpo", "dpo_reject"), 5) | {"idk_dpo": 6, "undial": 3, "ce_u": 3} | dict.fromkeys(
    ("grad_diff", "idk_nll", "rmu"), 3
)  # fmt: skip
"""Waits of a training step: two of any method, for the shapes of its batch, and for its loss, by which it is stopped.

A retain set has shapes too. A reference asks which rows it is of, and is first computed, in a batch of its own. The losses of
`undial` and `ce_u` select the labelled places.
"""


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if "max_rows" in entry.config.model_fields])
def test_a_training_step(
    tiny: Callable[..., LM], moved: Callable[[LM], LM], monkeypatch: pytest.MonkeyPatch, concept: Target, method: str
) -> None:
    monkeypatch.setattr(monitor, "MAX_MEASUREMENTS", 1)  # however many steps there are
    lm, waits = moved(tiny()), []
    for rows in (FEW, MANY):
        with trace() as found:
            edit = formless.unlearn(lm, concept, method, progress=False, max_rows=rows, **TRAINING)
        assert edit.info.facts["steps"] == rows
        waits.append(counted(found)[0])
    assert (waits[1] - waits[0]) / (MANY - FEW) == STEPS.get(method, 2), found.waits


EDITS: dict[str, tuple[dict[str, Any], int]] = {
    "rocr": ({"layers": [1, 2], "basis": "none"}, 2 * 2 + 2 + 4),
    "cdr": ({"layers": [1, 2], "budget": 1, "redirect": "none"}, 2 * 4 + 4),
}
"""Settings of two edited layers, and the most waits in the method's own code, however many names there are.

It waits for keys and residuals of each layer, for a check of each weight, and for what edit.json says.
"""


@pytest.mark.parametrize("method", EDITS)
def test_an_edit(tiny: Callable[..., LM], moved: Callable[[LM], LM], concept: Target, method: str) -> None:
    """What comes to the CPU, where the closed form is solved, is small; the factors go back, not their product."""
    settings, most = EDITS[method]
    lm = moved(tiny())
    with trace() as found:
        edit = formless.unlearn(lm, concept, method, progress=False, **settings)
        with edit.applied(lm):
            pass
    weight = lm.model.get_parameter("model.layers.1.mlp.down_proj.weight")
    copied = [size for site, size in found.largest_copy.items() if site.startswith("models/overlay.py")]
    assert 0 < max(copied) < weight.numel()
    assert sum(count for site, count in found.waits.items() if site.startswith("methods/") and " > " not in site) <= most
