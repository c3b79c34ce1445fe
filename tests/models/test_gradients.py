"""The norm of a text's gradient: as torch.autograd gives it, and the model is as before."""

import math
from collections.abc import Callable

import pytest
import torch

from formless.errors import ModelError
from formless.models.families import known_model_types
from formless.models.lm import LM
from formless.models.overlay import Difference
from formless.models.scores import Skipped, TextScore

Tiny = Callable[..., LM]
TEXTS = ["Ada wrote programs.", "x", "", "Ada Lovelace was born in London."]


def by_autograd(lm: LM, ids: list[int], first: int, p: float) -> float:
    """The mean over parameter tensors of the p-norm of the mean loss's gradient, in one call."""
    parameters = list(lm.model.parameters())
    for one in parameters:
        one.requires_grad_(True)
    logits = lm.model(input_ids=torch.tensor([ids])).logits[0]
    chosen = logits[first - 1 : -1].log_softmax(-1)[range(len(ids) - first), ids[first:]]
    found = torch.autograd.grad(-chosen.mean(), parameters, allow_unused=True)
    return float(torch.stack([one.norm(p=p) for one in found if one is not None]).mean())


@pytest.mark.parametrize("model_type", known_model_types())
def test_the_norm_is_that_of_autograd(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    for p in (1.0, 2.0, math.inf):
        found = lm.gradient_norms(TEXTS, p=p)
        assert found[2] == Skipped("the text has fewer than two tokens")
        for text, norm in zip(TEXTS, found, strict=True):
            ids = lm.encode(text).ids
            if len(ids) > 1:
                assert norm == pytest.approx(by_autograd(lm, ids, 1, p), rel=1e-5)


def test_tied_weights_are_one_tensor(tiny: Tiny) -> None:
    lm = tiny(tie_word_embeddings=True)
    assert lm.model.get_input_embeddings().weight is lm.model.get_output_embeddings().weight
    ids = lm.encode(TEXTS[0]).ids
    assert lm.gradient_norms(TEXTS[:1]) == [pytest.approx(by_autograd(lm, ids, 1, 2.0), rel=1e-5)]


def test_only_the_text_after_a_prompt_counts(tiny: Tiny) -> None:
    lm = tiny()
    item = lm.encode("Who?", " Ada")
    (found,) = lm.gradient_norms([" Ada"], prompts=["Who?"])
    assert found == pytest.approx(by_autograd(lm, item.ids, item.answer_start, 2.0), rel=1e-5)
    (shorter,) = lm.gradient_norms([" Ada"], prompts=["Who?"], left_out=(0, 1))
    (behind,) = lm.gradient_norms(["da"], prompts=["Who? A"])
    assert lm.gradient_norms([" Ada"], prompts=["Who?"], left_out=(2, 0)) == [behind]
    assert shorter == lm.gradient_norms([" Ad"], prompts=["Who?"])[0] != found
    assert lm.gradient_norms(["A"], prompts=["Who?"], left_out=(0, 1)) == [Skipped("no token of the text counts")]
    assert lm.gradient_norms([""], prompts=["Who?"]) == [Skipped("no token of the text is behind its prompt")]


def test_the_model_is_as_before(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    parameters = dict(lm.model.named_parameters())
    before = {name: one.detach().clone() for name, one in parameters.items()}
    kept, frozen, *_ = parameters.values()
    kept.grad = torch.ones_like(kept)
    frozen.requires_grad_(False)
    with torch.no_grad():  # as a caller may have it
        lm.gradient_norms(TEXTS)
    assert all(torch.equal(one, before[name]) for name, one in parameters.items())
    assert torch.equal(kept.grad, torch.ones_like(kept))
    assert not frozen.requires_grad
    assert all(one.grad is None for one in parameters.values() if one is not kept)
    assert not any(one._post_accumulate_grad_hooks for one in parameters.values())
    (first, *_) = lm.gradient_norms(TEXTS)

    def fail(*_args: object) -> None:
        raise RuntimeError("device lost")

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "cross_entropy", fail)
        with pytest.raises(RuntimeError, match="device lost"):
            lm.gradient_norms(TEXTS)
    assert lm.gradient_norms(TEXTS)[0] == first


def test_an_applied_edit_takes_part(tiny: Tiny) -> None:
    lm = tiny()
    name = "model.layers.0.mlp.down_proj.weight"
    change = {name: Difference(torch.full_like(lm.model.get_parameter(name), 0.1))}
    (before,) = lm.gradient_norms(TEXTS[:1])
    with lm.overlaid(change, {"method": "none"}):
        (inside,) = lm.gradient_norms(TEXTS[:1])
        assert inside == pytest.approx(by_autograd(lm, lm.encode(TEXTS[0]).ids, 1, 2.0), rel=1e-5)
        assert inside != pytest.approx(before, rel=1e-3)
    assert lm.gradient_norms(TEXTS[:1]) == [before]


def test_what_has_no_gradient_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    with pytest.raises(ValueError, match="p is 3; give 1, 2 or infinity"):
        lm.gradient_norms(TEXTS, p=3)
    with monkeypatch.context() as patch:
        patch.setattr(lm.model, "hf_quantizer", object(), raising=False)
        with pytest.raises(ModelError, match="a quantized or offloaded weight has no gradient"):
            lm.gradient_norms(TEXTS)
    lm.model.get_output_embeddings().to("meta")
    with pytest.raises(ModelError, match="a quantized or offloaded weight has no gradient"):
        lm.gradient_norms(TEXTS)


def test_a_gradient_that_is_not_finite_is_no_number(tiny: Tiny) -> None:
    lm = tiny()
    with torch.no_grad():
        next(lm.model.parameters()).fill_(math.nan)
    assert lm.gradient_norms(TEXTS[:1]) == [Skipped("the gradient is not finite")]


def test_long_texts_are_cut_to_the_context(tiny: Tiny) -> None:
    lm = tiny(context=16)
    assert lm.gradient_norms(["x" * 40]) == lm.gradient_norms(["x" * 16])


def test_texts_after_prompts_are_scored_as_answers_are(tiny: Tiny) -> None:
    lm = tiny()
    texts, prompts = [" Ada", " Charles Babbage"], ["Who wrote programs?", "Who?"]
    answers = lm.score(list(zip(prompts, texts, strict=True)))
    for found, answer in zip(lm.score_texts(texts, prompts=prompts), answers, strict=True):
        assert isinstance(found, TextScore)
        assert found.log_probabilities == pytest.approx(answer.log_probabilities, abs=1e-5)  # type: ignore[union-attr]
        assert len(found.means) == len(found.deviations) == len(found.log_probabilities)
    assert lm.score_texts(["", "x"], prompts=["", ""]) == lm.score_texts(["", "x"])
