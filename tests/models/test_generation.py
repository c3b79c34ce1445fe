import re
from collections.abc import Callable

import pytest
import torch

from formless.models.families import known_model_types
from formless.models.lm import LM
from formless.models.scoring import TextScore, Unscored

Tiny = Callable[..., LM]
PREFIX = "All of these prompts begin in one and the same way: "


@pytest.mark.parametrize("model_type", known_model_types())
def test_a_shared_beginning_changes_no_continuation(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    prompts = [PREFIX + tail for tail in ("Ada", "Ada wrote programs", "x")]
    assert lm.generate(prompts, max_new_tokens=6) == [lm.generate([prompt], max_new_tokens=6)[0] for prompt in prompts]


def test_a_shared_beginning_is_encoded_once(tiny: Tiny) -> None:
    lm = tiny()
    seen: list[int] = []
    handle = lm.model.get_input_embeddings().register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].numel()))
    lm.generate([PREFIX + letter * 4 for letter in "abc"], max_new_tokens=1)
    handle.remove()
    assert seen == [len(PREFIX), 3 * 4]


def test_a_text_stops_where_a_pattern_is_found(lm: LM) -> None:
    prompt = lm.chat_prompt("Count from one to ten in words.", "one, two,")
    free = lm.generate([prompt], max_new_tokens=16)[0]
    stopped = lm.generate([prompt], max_new_tokens=16, until=re.compile("five"))[0]
    assert free.startswith(stopped)
    assert stopped.endswith("five")
    assert len(stopped) < len(free)


def test_samples_follow_their_seed(lm: LM) -> None:
    prompts = [lm.chat_prompt("Tell me a story."), lm.chat_prompt("Name an animal.")]
    before = torch.random.get_rng_state()
    one = lm.sample(prompts, max_new_tokens=12, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's own stream goes on undisturbed
    assert lm.sample(prompts, max_new_tokens=12, seed=1) == one
    assert lm.sample(prompts, max_new_tokens=12, seed=2) != one


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_texts_are_scored_as_by_a_plain_forward_pass(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    texts = ["Ada wrote the first program of all.", "Short", "x"]
    scores = lm.score_texts(texts)
    for text, score in zip(texts, scores, strict=True):
        ids = lm.encode(text).ids
        if len(ids) < 2:
            assert isinstance(score, Unscored)
            continue
        assert isinstance(score, TextScore)
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        chosen = [row[token].item() for row, token in zip(logits, ids[1:], strict=True)]
        assert score.log_probabilities == pytest.approx(chosen, abs=1e-4)
        assert score.means == pytest.approx((logits.exp() * logits).sum(-1).tolist(), abs=1e-4)
        squares = (logits.exp() * logits.square()).sum(-1) - (logits.exp() * logits).sum(-1).square()
        assert score.deviations == pytest.approx(squares.sqrt().tolist(), abs=1e-3)
