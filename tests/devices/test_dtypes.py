"""A model in half precision multiplies in half precision on a second device; the exceptions are listed."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch

import formless
from formless.data.target import Target
from formless.methods.rocr.statistics import SecondMoments
from formless.models.lm import LM
from formless.models.scores import SuffixBudget
from tests.devices.fake import trace

DTYPES = [torch.bfloat16, torch.float16]
BESIDE = "models/adapters.py:add_adapter.hook"
PRODUCTS = {
    BESIDE: "an update is smaller than half precision can add to a weight, so it is applied beside it, in float32",
    "methods/rocr/statistics.py:add_outer_products": "sums over many tokens",
}
"""Where products of matrices are in another dtype than the model's, and why."""

PROMOTIONS = dict.fromkeys(PRODUCTS, "its input") | {
    "methods/rocr/statistics.py:SecondMoments._add": "sums over many tokens",
    "models/scoring.py:token_scores": "logits of the answers' tokens alone",
    "models/scoring.py:_normalizers": "sums of exponentials, of answers alone",
    "models/scoring.py:_text_scores": "logarithms of probabilities, of texts alone",
    "models/gradients.py:_norm": "a loss",
    "models/suffix_search.py:_Places.gradient": "a loss, and a gradient of few tokens",
    "methods/rocr/target_value.py:_log_probabilities": "a loss",
    "models/generation.py:sample.choose": "probabilities of the next token",
    "models/layers.py:read_layers.work": "what is returned, of one token per text",
    "methods/keys/contexts.py:Mentions.at": "keys and values of one token per text",
    "methods/keys/contexts.py:first_values": "values of one token per text",
    "methods/keys/token_states.py:TokenStates._at": "keys and values of few tokens",
    "edits/edit.py:frobenius_norm": "a norm, at the end",
    "autograd": "gradients of what is listed here",
}
"""Where half precision becomes float32 or float64, and why."""

MODEL = "> transformers/models/"
"""A model's own code: its norms and rotary embeddings are float32, as published."""

WORK: dict[str, Callable[[LM, Target], object]] = {
    "score": lambda lm, _: lm.score([("The town is", " Rome"), ("The town is", " Paris or"), ("A", " b c")]),
    "score_texts": lambda lm, _: lm.score_texts(["The town is large.", "A house"]),
    "score_layers": lambda lm, _: lm.score_layers([("The town is", " Rome")]),
    "read_layers": lambda lm, _: lm.read_layers(["The town is", "A"]),
    "generate": lambda lm, _: lm.generate(["The town is", "A house"], max_new_tokens=3),
    "sample": lambda lm, _: lm.sample(["The town is", "A house"], max_new_tokens=3, seed=0),
    "gradient_norms": lambda lm, _: lm.gradient_norms(["The town is large."]),
    "search_suffix": lambda lm, _: lm.search_suffix("Say ! !", "! !", " Yes", SuffixBudget(steps=1, candidates=4, top=8)),
    "statistics": lambda lm, _: SecondMoments(lm, [1, 2], {}).add(["The town is large.", "A"], 64),
    "rocr": lambda lm, target: formless.unlearn(lm, target, "rocr", layers=[1, 2], basis="none", progress=False),
    "rocr, reject": lambda lm, target: formless.unlearn(
        lm, target, "rocr", layers=[1, 2], basis="none", mode="reject", steps=2, progress=False
    ),
    "cdr": lambda lm, target: formless.unlearn(lm, target, "cdr", layers=[1, 2], budget=1, progress=False),
}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not tell a function's qualified name")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("work", WORK)
def test_a_model_in_half_precision(
    tiny: Callable[..., LM], moved: Callable[[LM], LM], concept: Target, work: str, dtype: torch.dtype
) -> None:
    lm = moved(tiny(dtype=dtype))
    with trace() as found:
        WORK[work](lm, concept)
    wide = {site for site, _, used in found.products if used != dtype}
    assert not wide - PRODUCTS.keys()
    assert {site for site, _, used in found.products if used == dtype}
    assert not {site for site in found.promotions if MODEL not in site} - PROMOTIONS.keys()
