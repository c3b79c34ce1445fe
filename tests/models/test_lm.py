import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from formless.errors import ModelError
from formless.models.batching import batches
from formless.models.families import known_model_types
from formless.models.lm import LM
from formless.models.scores import Score, Skipped

Tiny = Callable[..., LM]
TEXTS = ["Ada", "Ada wrote the first program of all", "x", "The capital of France is the city called", "one two three"]
TEXTS += [f"These prompts begin alike, so that it is encoded once: {tail}" for tail in ("Ada", "Ada wrote", "", "B")]


@pytest.mark.parametrize("model_type", known_model_types())
def test_a_score_does_not_depend_on_its_batch(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    queries = [(text, answer) for text in TEXTS for answer in (" yes", " a much longer answer than that")]
    lm.token_budget = 10_000
    together = lm.score(queries)
    lm.token_budget = 1
    alone = lm.score(queries)
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, Score)
        assert isinstance(other, Score)
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)
        assert one.greedy == other.greedy


def test_a_shared_prefix_is_encoded_once(tiny: Tiny) -> None:
    lm = tiny()
    prefix = "These prompts begin alike, so that it is encoded once: "
    seen: list[int] = []
    handle = lm.model.get_input_embeddings().register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].numel()))
    lm.score([(f"{prefix}{letter}", " yes") for letter in "abcdefgh"])
    handle.remove()
    assert sum(seen) == len(prefix) + 8 * len("a ye")  # one token per byte; the last one is only predicted


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "phi3"])
def test_a_prompt_is_encoded_once_for_all_its_answers(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    prompts = ("Who wrote the first program of all, and when?", "Where was Ada Lovelace born, and where did she die?", "X")
    queries = [(prompt, answer) for prompt in prompts for answer in (" Bob", " in London", " I")]
    alone = [lm.score([query])[0] for query in queries]
    seen: list[int] = []
    handle = lm.model.get_input_embeddings().register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].numel()))
    together = lm.score(queries)
    handle.remove()
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, Score)
        assert isinstance(other, Score)
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)
        assert (one.greedy, one.tokens) == (other.greedy, other.tokens)
    whole = sum(len(prompt + answer) for prompt, answer in queries)  # one token per byte
    assert sum(seen) < 0.7 * whole


def test_letters_to_choose_from_cost_one_pass(tiny: Tiny) -> None:
    lm = tiny()
    alone = [lm.score([("Ada or Bob?", letter)])[0] for letter in "AB"]
    seen: list[int] = []
    head = lm.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[1]))
    together = lm.score([("Ada or Bob?", "A"), ("Who else?", "B"), ("Ada or Bob?", "B"), ("Or who?", "AB")])
    handle.remove()
    assert sum(seen) == 4  # the two letters after the same prompt share one
    for one, other in zip([together[0], together[2]], alone, strict=True):
        assert isinstance(one, Score)
        assert isinstance(other, Score)
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
def test_scores_are_those_of_a_plain_forward_pass(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    prompt, answer = "Ada wrote", " code"
    score = lm.score([(prompt, answer), ("a much longer prompt than the other", " x")])[0]
    assert isinstance(score, Score)
    ids = lm.encode(prompt, answer).ids
    with torch.no_grad():
        logits = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(ids) - len(answer)  # one token per byte
    expected = [logits[t - 1, ids[t]].item() for t in range(start, len(ids))]
    assert score.log_probabilities == pytest.approx(expected, abs=1e-5)
    assert score.probability == pytest.approx(math.exp(sum(expected) / len(expected)))
    greedy = [int(logits[t - 1].argmax()) == ids[t] for t in range(start, len(ids))]
    assert score.token_accuracy == sum(greedy) / len(greedy)


def test_generation_does_not_depend_on_its_batch(lm: LM) -> None:
    prompts = [
        lm.chat_prompt("What is the capital of France?", "Answer:"),
        lm.chat_prompt("Who was Albert Einstein? Be brief."),
    ]
    together = lm.generate(prompts, max_new_tokens=8)
    assert together == [lm.generate([prompt], max_new_tokens=8)[0] for prompt in prompts]
    assert "Paris" in together[0]


def test_one_line_stops_at_the_newline(lm: LM) -> None:
    prompt = lm.chat_prompt("Write a numbered list of three colors.")
    whole = lm.generate([prompt], max_new_tokens=30)[0]
    assert "\n" in whole
    assert lm.generate([prompt], max_new_tokens=30, one_line=True) == [whole.split("\n")[0].strip()]


def test_a_token_that_spans_the_boundary_belongs_to_the_answer(lm: LM) -> None:
    encoded = lm.encode("The capital of France is Par", "is")
    assert lm.tokenizer.decode(encoded.ids[encoded.answer_start :]) == " Paris"


def test_the_answer_starts_where_the_text_says(lm: LM) -> None:
    encoded = lm.encode(lm.chat_prompt("Name a city.", "Answer:"), " Paris")
    assert lm.tokenizer.decode(encoded.ids[encoded.answer_start :]) == " Paris"


@pytest.mark.parametrize("text", ["Ada", "<s>Ada", "<s>[user]Ada"])
def test_a_text_gets_one_bos_and_never_two(tiny: Tiny, text: str) -> None:
    lm = tiny()
    backend = lm.tokenizer.backend_tokenizer
    plain, backend.post_processor = backend.post_processor, TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    try:
        encoded = lm.encode(text, " x")
    finally:
        backend.post_processor = plain
    assert encoded.ids.count(0) == 1
    assert encoded.ids[0] == 0
    assert encoded.offsets[encoded.answer_start] == (len(text), len(text) + 1)


def test_greedy_means_greedy_whatever_the_checkpoint_prefers(tiny: Tiny) -> None:
    lm = tiny()
    plain = lm.generate(["Ada wrote"], max_new_tokens=12)
    lm.model.generation_config.repetition_penalty = 50.0
    lm.model.generation_config.do_sample = True
    assert lm.generate(["Ada wrote"], max_new_tokens=12) == plain


@pytest.mark.parametrize("prompt", ["", "x" * 510])
def test_a_prompt_that_cannot_be_continued_is_an_error(tiny: Tiny, prompt: str) -> None:
    with pytest.raises(ModelError, match=rf"a prompt of {len(prompt)} tokens cannot be continued by 30"):
        tiny().generate([prompt])


def test_what_cannot_be_scored_says_why(tiny: Tiny) -> None:
    lm = tiny()
    results = lm.score([("a", ""), ("", "b"), ("x" * 600, " y"), ("a", " b")])
    assert [result.reason if isinstance(result, Skipped) else "scored" for result in results] == [
        "the answer has no token", "no token precedes the answer", "602 tokens are more than the model's 512", "scored",
    ]  # fmt: skip


def test_nan_is_an_error_and_not_a_score(tiny: Tiny) -> None:
    lm = tiny()
    with torch.no_grad():
        lm.model.get_output_embeddings().weight[5] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        lm.score([("a", " b")])


def test_a_model_without_a_chat_template_gets_plain_text(tiny: Tiny) -> None:
    lm = tiny()
    template, lm.tokenizer.chat_template = lm.tokenizer.chat_template, None
    try:
        assert lm.chat_prompt("Question?\n", "Answer:") == "Question?\nAnswer:"
    finally:
        lm.tokenizer.chat_template = template


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0]['role'] }}: ", "does not print the message"),
        ("{{ messages[1]['content'] }}", "the chat template fails"),
        ("{{ raise_exception('no user') }}", "the chat template fails: no user"),
        ("{% if %}", "the chat template fails"),
    ],
)
def test_a_chat_template_that_loses_the_message_is_refused(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, template: str, reason: str
) -> None:
    lm = tiny()
    monkeypatch.setattr(lm.tokenizer, "chat_template", template)
    with pytest.raises(ModelError, match=reason):
        lm.chat_prompt("Who wrote it?")


def test_a_chat_template_may_strip_the_message(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    monkeypatch.setattr(lm.tokenizer, "chat_template", "<{{ messages[0]['content'] | trim }}>")
    assert lm.chat_prompt(" Who wrote it?\n") == "<Who wrote it?>"


def test_the_fingerprint_knows_the_model_whatever_its_dtype(tiny: Tiny) -> None:
    assert tiny().fingerprint == tiny(dtype=torch.bfloat16).fingerprint
    assert tiny().fingerprint != tiny(seed=1).fingerprint


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(prompt=st.text(min_size=1), answer=st.text(min_size=1))
def test_tokens_split_at_the_boundary_whatever_the_text(lm: LM, prompt: str, answer: str) -> None:
    encoded = lm.encode(prompt, answer)
    start = encoded.answer_start
    assert all(end <= len(prompt) for _, end in encoded.offsets[:start])
    assert all(end > len(prompt) for _, end in encoded.offsets[start:])


@given(st.lists(st.integers(1, 50)), st.integers(1, 200))
def test_batches_hold_everything_once_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = list(batches(lengths, budget))
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


def test_a_notebook_shows_what_the_model_is(tiny: Tiny) -> None:
    lm = tiny("qwen2")
    parameters = sum(parameter.numel() for parameter in lm.model.parameters()) / 1e6
    expected = f"name=tiny-qwen2, family=llama (qwen2), parameters={parameters:.1f} M, dtype=float32, device=cpu, layers=4"
    assert repr(lm) == f"LM({expected}, edits=none)"
    with lm.prefixed("Forget Ada.", {"method": "icu", "subject": "<Ada>"}):
        assert repr(lm) == f"LM({expected}, edits=icu: <Ada>)"
        assert "<tr><th>edits</th><td>icu: &lt;Ada&gt;</td></tr>" in lm._repr_html_()
    assert lm._repr_html_().startswith("<table><tr><th>name</th><td>tiny-qwen2</td></tr>")
