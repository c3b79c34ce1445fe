"""Texts that a model samples."""

from collections import Counter
from collections.abc import Callable
from itertools import islice

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from formless.errors import UserError
from formless.models.lm import LM
from formless.models.sampled_texts import LENGTH, OPENINGS, SampledTexts, sampled_seed

Tiny = Callable[..., LM]


def first(texts: SampledTexts, count: int) -> list[str]:
    return list(islice(texts, count))


def test_a_text_depends_on_its_seed_and_number_alone(tiny: Tiny) -> None:
    lm = tiny()
    whole = first(SampledTexts(lm, max_tokens=8), 150)
    assert first(SampledTexts(lm, max_tokens=8), 70) == whole[:70]
    later = SampledTexts(lm, max_tokens=8)
    next(later)
    later.skip_to(100)
    assert first(later, 50) == whole[100:]
    assert len({*whole, *first(SampledTexts(lm, 1, 8), 150)}) > 290  # another seed gives other texts


def test_texts_begin_with_the_openings_in_turn_and_end(tiny: Tiny) -> None:
    lm = tiny()
    for number, text in enumerate(first(SampledTexts(lm), 40)):
        opening = OPENINGS[number % len(OPENINGS)]
        assert text.startswith(opening)
        assert len(lm.encode(text).ids) <= 3 * (len(opening) + LENGTH)  # a byte that is no text decodes to three
    assert max(len(text) for text in first(SampledTexts(lm, max_tokens=5), 64)) <= 5 + max(map(len, OPENINGS))


def test_a_context_shorter_than_a_text_is_filled(tiny: Tiny) -> None:
    assert len(first(SampledTexts(tiny(context=40)), 3)) == 3


def test_with_a_bos_token_texts_begin_there(tiny: Tiny) -> None:
    lm = tiny()
    backend = lm.tokenizer.backend_tokenizer
    plain, backend.post_processor = backend.post_processor, TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    try:
        texts = first(SampledTexts(LM(lm.model, lm.tokenizer, "bos", settings=lm.settings)), 64)
    finally:
        backend.post_processor = plain
    assert len({text[:1] for text in texts}) > 20
    assert not all(text.startswith(OPENINGS) for text in texts)


def test_tokens_are_drawn_from_the_probabilities_at_temperature_one(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    monkeypatch.setattr("formless.models.sampled_texts.OPENINGS", ("A",))
    with torch.no_grad():
        lm.model.get_output_embeddings().weight *= 30
        logits = lm.model(**lm.pad([lm.encode("A").ids])).logits[0, -1]
    found = Counter(first(SampledTexts(lm, max_tokens=1), 640))
    expected: Counter[str] = Counter()
    for token, share in enumerate(logits.softmax(-1).tolist()):
        expected["A" + lm.tokenizer.decode([token], skip_special_tokens=True)] += share
    text, share = expected.most_common(1)[0]
    assert 0.1 < share < 0.9  # neither even, as at a high temperature, nor the greedy one alone
    assert abs(found[text] / 640 - share) < 4 * (share * (1 - share) / 640) ** 0.5


@pytest.mark.parametrize(
    ("corpus", "seed"), [("sampled", 0), ("sampled:0", 0), ("sampled:12", 12), ("sampled.txt", None), ("hf:sampled:3", None)]
)
def test_the_name_of_a_sampled_corpus(corpus: str, seed: int | None) -> None:
    assert sampled_seed(corpus) == seed


@pytest.mark.parametrize("seed", ["", "x", "-1", "1.5", "4294967296", "²", "9" * 5000])
def test_a_seed_that_is_none_is_refused(seed: str) -> None:
    with pytest.raises(UserError, match="is no seed .*write sampled"):
        sampled_seed(f"sampled:{seed}")
