from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from formless.models import packing
from formless.models.families import FAMILIES, known_model_types
from formless.models.lm import LM
from formless.models.packing import PrefixTree, windows
from formless.models.scores import Score
from formless.models.scoring import token_scores

Tiny = Callable[..., LM]
BEGINNING = "These prompts begin alike, and go on for a while, so that they are longer than a short window: "
QUERIES = [
    *((f"{BEGINNING}{text}", answer) for text in ("Ada", "Ada wrote", "x" * 70, "B") for answer in (" yes", " no", " n")),
    *((text, " a long answer of its own") for text in ("x", "one two three", "y" * 90)),
]
WINDOWS = {
    "mistral": {"sliding_window": 24}, "phi3": {"sliding_window": 24}, "gemma2": {"sliding_window": 24},
    "gemma3_text": {"sliding_window": 24, "sliding_window_pattern": 2},
    "qwen2": {"sliding_window": 24, "use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {"sliding_window": 24, "use_sliding_window": True, "max_window_layers": 2},
}  # fmt: skip


def plain(lm: LM, query: tuple[str, str]) -> list[float]:
    """The log-probabilities of an answer by a forward pass of its text alone."""
    item = lm.encode(*query)
    with torch.no_grad():
        logits = lm.model(torch.tensor([item.ids])).logits[0].log_softmax(-1)
    return [float(logits[t - 1, item.ids[t]]) for t in range(item.answer_start, len(item.ids))]


def check_scores(lm: LM) -> None:
    for query, found in zip(QUERIES, lm.score(QUERIES), strict=True):
        assert isinstance(found, Score)
        assert found.log_probabilities == pytest.approx(plain(lm, query), abs=1e-4)


@pytest.mark.parametrize("budget", [4096, 150, 31])
@pytest.mark.parametrize("model_type", known_model_types())
def test_packed_scores_are_those_of_each_text_alone(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, model_type: str, budget: int
) -> None:
    monkeypatch.setattr(packing, "CPU_BLOCK", 16)
    lm = tiny(model_type)
    lm.token_budget = budget
    assert windows(lm) is not None
    check_scores(lm)


@pytest.mark.parametrize(
    ("model_type", "attention"),
    [(model_type, attention) for model_type in WINDOWS for attention in ("sdpa", "eager")
     if (model_type, attention) != ("gemma2", "sdpa")],  # its soft cap needs eager attention
)  # fmt: skip
def test_texts_longer_than_a_sliding_window_are_packed_too(tiny: Tiny, model_type: str, attention: str) -> None:
    lm = tiny(model_type, attn_implementation=attention, **WINDOWS[model_type])
    assert set(windows(lm) or ()) >= {24}
    check_scores(lm)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3"])
def test_texts_that_cannot_be_packed_are_scored_in_padded_batches(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    lm = tiny(model_type)
    monkeypatch.setattr(packing, "architecture_of", lambda _config: replace(lm.architecture, is_packable=False))
    assert windows(lm) is None
    seen: list[int] = []
    handle = lm.model.get_input_embeddings().register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].numel()))
    lm.score(QUERIES)
    handle.remove()
    assert sum(seen) >= sum(len(prompt + answer) for prompt, answer in QUERIES)  # one token per byte
    check_scores(lm)


def test_the_models_own_attention_is_back_afterwards(tiny: Tiny) -> None:
    lm = tiny()
    before = lm.model.config._attn_implementation
    lm.score(QUERIES)
    assert lm.model.config._attn_implementation == before
    assert not [name for name in ALL_ATTENTION_FUNCTIONS if name.startswith("formless")]


def test_every_family_of_the_table_can_be_packed() -> None:
    assert all(family.is_packable for family in FAMILIES.values())


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=8))
def test_a_tree_has_every_beginning_once(texts: list[list[int]]) -> None:
    tree = PrefixTree.of(texts)
    beginnings = {tuple(text[: end + 1]) for text in texts for end in range(len(text))}
    assert len(tree.tokens) == len(beginnings)
    for text, nodes in zip(texts, tree.nodes, strict=True):
        assert tree.tokens[nodes].tolist() == text
        assert tree.depths[nodes].tolist() == list(range(len(text)))
        for node in range(len(tree.tokens)):  # the ancestors of a text's last token, and it, are its own nodes
            covers = bool(nodes) and node <= nodes[-1] < tree.ends[node]
            assert covers == (node in nodes)


def test_of_equal_logits_the_first_is_the_most_probable(tiny: Tiny) -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [3.0, 3.0, 0.0, 0.0]], dtype=torch.bfloat16)
    found = token_scores(tiny(), logits, [0, 0, 1, 1, 1], [1, 2, 0, 1, 3])
    expected = logits.float().log_softmax(-1)[[0, 0, 1, 1, 1], [1, 2, 0, 1, 3]]
    assert [value for value, _ in found] == pytest.approx(expected.tolist(), abs=1e-6)
    assert [greedy for _, greedy in found] == [1, 0, 1, 0, 0]
