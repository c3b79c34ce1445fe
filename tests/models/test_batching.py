from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from formless.errors import ModelError
from formless.models.batching import MIN_SHARED, PADDING, batches, clusters, in_batches
from formless.models.families import known_model_types
from formless.models.lm import LM
from formless.models.scores import Score

Tiny = Callable[..., LM]


def computed(ids: list[list[int]], groups: list[tuple[tuple[int, ...], int]]) -> int:
    return sum(shared + sum(len(ids[row]) - shared for row in rows) for rows, shared in groups)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=7))
def test_clusters_share_only_what_is_common_and_save_tokens(texts: list[tuple[int, int, int]]) -> None:
    """Texts of two nested beginnings of 20 tokens each."""
    ids = [[a] * 20 + [10 + b] * 20 + list(range(100, 100 + tail)) for a, b, tail in texts]
    limits = [len(row) - 1 for row in ids]
    found = clusters(ids, limits)
    assert sorted(row for cluster in found for row in cluster.rows) == list(range(len(ids)))
    for cluster in found:
        assert cluster.shared == 0 or (cluster.shared >= MIN_SHARED and len(cluster.rows) > 1)
        assert all(cluster.shared <= limits[row] for row in cluster.rows)
        assert len({tuple(ids[row][: cluster.shared]) for row in cluster.rows}) == 1
    tokens = computed(ids, [(cluster.rows, cluster.shared) for cluster in found])
    assert tokens <= sum(map(len, ids))
    for a, b in combinations(range(len(ids)), 2):  # as good as sharing between any one pair
        same = next((i for i, (x, y) in enumerate(zip(ids[a], ids[b], strict=False)) if x != y), min(limits[a], limits[b]))
        assert tokens <= sum(map(len, ids)) - min(same, limits[a], limits[b])


def test_a_long_prefix_of_few_beats_a_short_one_of_all() -> None:
    task = {name: [number] * 300 for number, name in enumerate("abc")}
    header = [99] * 25
    ids = [[*header, *task[name], number] for name in "abc" for number in range(3)]
    assert {(cluster.rows, cluster.shared) for cluster in clusters(ids, [325] * 9)} == {
        ((0, 1, 2), 325), ((3, 4, 5), 325), ((6, 7, 8), 325)
    }  # fmt: skip
    short = [[*header, number, number] for number in range(9)]
    assert [(cluster.rows, cluster.shared) for cluster in clusters(short, [26] * 9)] == [(tuple(range(9)), 25)]


def test_a_batch_that_runs_out_of_memory_is_halved_and_the_budget_remembered(tiny: Tiny) -> None:
    lm = tiny()
    queries = [(f"{letter} is the question", " yes") for letter in "abcdefghijk"]
    expected = lm.score(queries)
    tokens: list[int] = []

    def forward(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        tokens.append(inputs[0].numel())
        if tokens[-1] > 60:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = lm.model.get_input_embeddings().register_forward_pre_hook(forward)
    before = lm.token_budget
    found = lm.score(queries)
    first_fit = next(place for place, count in enumerate(tokens) if count <= 60)
    assert max(tokens[first_fit:]) <= 60 < tokens[0]
    assert lm.token_budget < before
    tokens.clear()
    assert lm.score(queries) == found
    assert max(tokens) <= 60  # nothing is tried again
    texts = lm.generate([prompt for prompt, _ in queries], max_new_tokens=2)
    assert len(texts) == len(queries)
    handle.remove()
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Score)
        assert isinstance(other, Score)
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)


def test_one_text_that_does_not_fit_is_an_error_and_other_errors_pass(tiny: Tiny) -> None:
    lm = tiny()

    def exhausted(rows: list[int]) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    with pytest.raises(ModelError, match="memory runs out for a single text.*--dtype bfloat16"):
        in_batches(lm, [7, 5], exhausted)

    def broken(rows: list[int]) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(lm, [7, 5], broken)


def test_memory_that_runs_out_while_caches_are_joined_halves_the_batch(tiny: Tiny) -> None:
    lm = tiny()
    prompts = [f"A beginning that all of them share, and then {letter * 9}" for letter in "abcdefghijklmnopqrstuvwx"]
    expected = lm.generate(prompts, max_new_tokens=4)
    held: list[int] = []

    def forward(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        held.append(len(inputs[0]))
        if len(inputs[0]) > 12:  # the whole batch's caches do not fit, half of them do
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = lm.model.get_input_embeddings().register_forward_pre_hook(forward)
    seen: list[tuple[int, int]] = []
    assert lm.generate(prompts, max_new_tokens=4, progress=lambda done, total: seen.append((done, total))) == expected
    handle.remove()
    assert [total for _, total in seen] == [24] * len(seen)
    assert seen[-1] == (24, 24)
    assert sorted(set(seen)) == seen  # no text is counted twice


def test_a_prefix_that_does_not_fit_is_one_clear_error(tiny: Tiny) -> None:
    lm = tiny()

    def forward(_module: torch.nn.Module, _inputs: tuple[torch.Tensor, ...]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = lm.model.get_input_embeddings().register_forward_pre_hook(forward)
    with pytest.raises(ModelError, match="memory runs out for a single text"):
        lm.score([(f"A beginning that all of them share {letter}", " yes") for letter in "abc"])
    handle.remove()


def test_what_a_cached_token_takes_is_reckoned_from_the_config(tiny: Tiny) -> None:
    lm = tiny("llama")  # 4 layers, 2 heads of keys and values, 8 dimensions, float32
    keys_and_values = 2 * 4 * 2 * 8 * 4
    assert lm.cached_share == pytest.approx(2 * keys_and_values / (8 * len(lm.tokenizer) + 64 * 48))
    assert tiny("gpt2").cached_share == pytest.approx(
        2 * 2 * 4 * 4 * 8 * 4 / (8 * len(lm.tokenizer) + 64 * 96)
    )  # all four heads


@given(st.lists(st.integers(1, 500)), st.integers(1, 20_000))
def test_even_batches_hold_everything_once_and_little_padding(lengths: list[int], budget: int) -> None:
    groups = list(batches(lengths, budget, even=True))
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert len(group) == 1 or len(group) * longest <= budget
        assert sum(longest - lengths[i] for i in group) <= budget // PADDING


@pytest.mark.parametrize("model_type", known_model_types())
def test_logits_are_computed_where_answers_stand_only(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    head = lm.model.get_output_embeddings()
    assert head is not None
    seen: list[tuple[int, ...]] = []
    handle = head.register_forward_hook(lambda _m, _i, output: seen.append(tuple(output.shape[:-1])))
    lm.score([("Who?", " Ada"), ("A question that is longer than the other?", " a longer answer")])
    handle.remove()
    assert seen == [(1, len(" Ada") + len(" a longer answer"))]  # one token per byte
    assert len(head._forward_pre_hooks) == 0
