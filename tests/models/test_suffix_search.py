"""The search of a suffix: the loss falls, the same model finds the same, and gradients are those of one-hot vectors."""

import math
from collections.abc import Callable

import pytest
import torch

from formless.models.lm import LM
from formless.models.scores import FoundSuffix, Score, Skipped, SuffixBudget
from formless.models.suffix_search import _allowed_tokens, _Places, _replaced

Tiny = Callable[..., LM]
PROMPT, SUFFIX, TARGET = "[user]Who? ! ! ! ![assistant]", "! ! ! !", "Sure, here"
BUDGET = SuffixBudget(steps=6, candidates=16, top=32)


def loss_of(lm: LM, prompt: str) -> float:
    (score,) = lm.score([(prompt, TARGET)])
    assert isinstance(score, Score)
    return -score.log_probability / len(score.log_probabilities)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gemma3", "gpt2"])
def test_the_loss_falls_and_the_search_is_deterministic(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    seen: list[tuple[int, int]] = []
    found = lm.search_suffix(PROMPT, SUFFIX, TARGET, BUDGET, progress=lambda done, total: seen.append((done, total)))
    assert isinstance(found, FoundSuffix)
    assert found.first_loss == pytest.approx(loss_of(lm, PROMPT), abs=1e-5)
    assert found.loss == pytest.approx(loss_of(lm, PROMPT.replace(SUFFIX, found.text)), abs=1e-5)
    assert found.loss < found.first_loss - 1e-3
    assert len(found.text) == len(SUFFIX)  # a token is a byte
    assert found.text.isascii()
    assert seen[-1] == (6, 6)
    assert lm.search_suffix(PROMPT, SUFFIX, TARGET, BUDGET) == found
    assert all(parameter.grad is None for parameter in lm.model.parameters())
    other = lm.search_suffix(PROMPT, SUFFIX, TARGET, SuffixBudget(6, 16, 32, seed=1))
    assert isinstance(other, FoundSuffix)
    assert other.text != found.text


def test_tokens_are_counted(tiny: Tiny) -> None:
    lm = tiny()
    found = lm.search_suffix(PROMPT, SUFFIX, TARGET, SuffixBudget(steps=1, candidates=1, top=1))
    assert isinstance(found, FoundSuffix)
    length = len(lm.encode(PROMPT, TARGET).ids)
    assert found.tokens == 3 * length  # the first suffix, a gradient, a candidate


def test_the_gradient_by_a_one_hot_vector(tiny: Tiny) -> None:
    """Against a small step of one embedding toward another token's."""
    lm = tiny("gpt2", dtype=torch.float64)  # other norms compute in float32
    before, _, after = PROMPT.rpartition(SUFFIX)
    ids, gradient = _Places(lm, before, after, TARGET).gradient(SUFFIX)
    assert lm.tokenizer.decode(ids) == SUFFIX
    assert gradient.shape == (len(SUFFIX), len(lm.tokenizer))
    encoded = lm.encode(PROMPT, TARGET)
    inputs = torch.tensor([encoded.ids])
    embedding = lm.model.get_input_embeddings()
    place, token, step = len(before) + 2, 70, 1e-4
    assert encoded.ids[place] == ids[2]

    def loss(change: float) -> float:
        embedded = embedding(inputs).detach().clone()
        embedded[0, place] += change * embedding.weight[token].detach()
        with torch.no_grad():
            logs = lm.model(inputs_embeds=embedded).logits[0].log_softmax(-1)
        return -sum(float(logs[t - 1, encoded.ids[t]]) for t in range(encoded.answer_start, len(encoded.ids))) / len(TARGET)

    assert (loss(step) - loss(-step)) / (2 * step) == pytest.approx(float(gradient[2, token]), rel=1e-4)


def test_candidates_replace_one_token_of_the_steepest(tiny: Tiny) -> None:
    lm = tiny()
    ids = lm.encode("abcd").ids
    gradient = torch.zeros(4, len(lm.tokenizer))
    steepest = lm.encode("XYZW").ids
    for place, token in enumerate(steepest):
        gradient[place, token] = -1.0
        gradient[place, 0] = -9.0  # a special token is not allowed
    generator = torch.Generator().manual_seed(0)
    found = _replaced(lm, ids, gradient, _allowed_tokens(lm), SuffixBudget(1, 8, 1), generator)
    assert found == ["Xbcd", "aYcd", "abZd", "abcW"]
    allowed = _allowed_tokens(lm)
    texts = [lm.tokenizer.decode([token]) for token in range(len(lm.tokenizer)) if allowed[token]]
    assert sorted(texts) == [chr(code) for code in range(32, 127)]


def test_what_cannot_be_searched_is_said(tiny: Tiny) -> None:
    lm = tiny(context=16)
    found = lm.search_suffix(PROMPT, SUFFIX, TARGET, BUDGET)
    assert isinstance(found, Skipped)
    assert "tokens are more than the model's 16" in found.reason
    with pytest.raises(ValueError, match="the prompt does not hold the suffix"):
        lm.search_suffix("Who?", SUFFIX, TARGET, BUDGET)


def test_a_search_without_a_fitting_candidate_keeps_the_first(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Places, "fits", lambda *_: False)
    found = tiny().search_suffix(PROMPT, SUFFIX, TARGET, BUDGET)
    assert isinstance(found, FoundSuffix)
    assert (found.text, found.loss) == (SUFFIX, found.first_loss)
    assert math.isfinite(found.loss)
