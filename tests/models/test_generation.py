import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from formless.errors import ModelError
from formless.models.cache import has_full_cache
from formless.models.families import known_model_types
from formless.models.generation import continuations
from formless.models.lm import LM
from formless.models.scores import Ending, Skipped, TextScore

Tiny = Callable[..., LM]
PREFIX = "All of these prompts begin in one and the same way: "


@pytest.mark.parametrize("model_type", known_model_types())
def test_a_shared_beginning_changes_no_continuation(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    prompts = [PREFIX + tail for tail in ("Ada", "Ada wrote programs", "x")]
    assert lm.generate(prompts, max_new_tokens=6) == [lm.generate([prompt], max_new_tokens=6)[0] for prompt in prompts]


@pytest.mark.parametrize("model_type", known_model_types())
def test_continuations_are_those_of_transformers(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    prompts = [*(PREFIX + tail for tail in ("Ada", "Ada wrote programs", "x")), "Another one", "b"]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([lm.encode(prompt).ids])
        plain: Any = lm.model
        output = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=1)
        expected.append(lm.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip())
    assert lm.generate(prompts, max_new_tokens=12) == expected


@pytest.mark.parametrize("model_type", ["mistral", "gemma2", "gemma3_text", "phi3"])
def test_padding_uses_up_no_sliding_window(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type, sliding_window=24)
    prompts = [PREFIX + tail for tail in ("Ada", "Ada wrote programs and more", "x")]
    together = lm.generate(prompts, max_new_tokens=12)
    assert together == [lm.generate([prompt], max_new_tokens=12)[0] for prompt in prompts]
    ids = torch.tensor([lm.encode(prompts[2]).ids])
    plain: Any = lm.model
    output = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=1)
    assert together[2] == lm.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_texts_that_end_leave_the_others_alone(lm: LM) -> None:
    prompts = [lm.chat_prompt(text) for text in ("Say yes.", "What is 1 + 1?", "Tell me about Paris.", "Name a colour.", "Hi.")]
    together = lm.generate(prompts, max_new_tokens=40)
    assert together == [lm.generate([prompt], max_new_tokens=40)[0] for prompt in prompts]
    assert len({len(text) for text in together}) > 2  # they end at different places


def test_nan_is_no_answer(tiny: Tiny) -> None:
    lm = tiny()
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="gives NaN"):
        lm.generate(["Ada"], max_new_tokens=2)


def test_a_shared_beginning_is_encoded_once(tiny: Tiny) -> None:
    lm = tiny()
    seen: list[int] = []
    handle = lm.model.get_input_embeddings().register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].numel()))
    others = [f"Others begin otherwise, and are continued with them: {letter}" for letter in "de"]
    prompts = [*(PREFIX + letter * 4 for letter in "abc"), *others]
    texts = lm.generate(prompts, max_new_tokens=2)
    handle.remove()
    prefixes, rest = [len(PREFIX), 3 * 3], [5, 5]  # all but the last token of each; then one by one, all five together
    assert sorted(seen[:-2]) == sorted([*prefixes, len(others[0]) - 2, 2])
    assert seen[-2:] == rest
    assert texts == [lm.generate([prompt], max_new_tokens=2)[0] for prompt in prompts]


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_the_shortest_prompts_can_be_continued(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    assert lm.generate(["a", "b"], max_new_tokens=3) == [lm.generate([text], max_new_tokens=3)[0] for text in "ab"]
    assert lm.generate(["a", "a long prompt"], max_new_tokens=3)[0] == lm.generate(["a"], max_new_tokens=3)[0]


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
    lm.token_budget = 1  # every prompt by itself
    assert lm.sample(prompts, max_new_tokens=12, seed=1) == one


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_texts_are_scored_as_by_a_plain_forward_pass(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    texts = ["Ada wrote the first program of all.", "Short", "x"]
    scores = lm.score_texts(texts)
    for text, score in zip(texts, scores, strict=True):
        ids = lm.encode(text).ids
        if len(ids) < 2:
            assert isinstance(score, Skipped)
            continue
        assert isinstance(score, TextScore)
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        chosen = [row[token].item() for row, token in zip(logits, ids[1:], strict=True)]
        assert score.log_probabilities == pytest.approx(chosen, abs=1e-4)
        assert score.means == pytest.approx((logits.exp() * logits).sum(-1).tolist(), abs=1e-4)
        squares = (logits.exp() * logits.square()).sum(-1) - (logits.exp() * logits).sum(-1).square()
        assert score.deviations == pytest.approx(squares.sqrt().tolist(), abs=1e-3)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2"])
def test_waiting_texts_join_in_the_places_of_those_that_ended(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    prompts = [
        "Ada",
        "ab",
        "cd",
        "ef",
        PREFIX + "longer than what is open when it joins",
        *(PREFIX + x for x in "abcde"),
    ]
    anything = re.compile(".", re.DOTALL)
    endings = [Ending(150), *[Ending(150, until=anything)] * 3, *(Ending(2 + place, one_line=place > 3) for place in range(6))]
    alone = [lm.generate([prompt], endings=[ending])[0] for prompt, ending in zip(prompts, endings, strict=True)]
    lm.token_budget = 4 * (math.ceil(lm.cached_share * 155) + 1)
    seen: list[list[int]] = []

    def choose(logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        seen.append(list(rows))
        return logits.argmax(-1)

    assert [one.text.strip() for one in continuations(lm, prompts, endings, choose=choose)] == alone
    assert max(map(len, seen)) <= 5
    if has_full_cache(lm):
        assert sorted(seen[0]) == [0, 1, 2, 3]
        assert len(seen) == 150  # the others are written beside the longest
