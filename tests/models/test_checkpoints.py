"""Every family as its publisher ships it: loaded from a folder, asked, edited, evaluated, restored, and read by PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

import formless
from formless.errors import ModelError
from formless.models.families import known_model_types
from formless.models.lm import LM
from formless.models.overlay import by_parameter
from tests.models.checkpoints import CHECKPOINTS, build_tokenizer, save_checkpoint
from tests.models.test_families import weights_hash

NAME = "Albert Einstein"


@pytest.fixture(scope="module", params=CHECKPOINTS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, LM]:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    save_checkpoint(request.param, folder)
    return request.param, folder, formless.load(str(folder), device="cpu", progress=False)


def test_a_prompt_begins_with_one_bos_and_ends_where_the_answer_begins(loaded: tuple[str, Path, LM]) -> None:
    name, _, lm = loaded
    row, tokenizer = CHECKPOINTS[name], lm.tokenizer
    own = build_tokenizer(row)  # what was saved; transformers may load it with another class
    question, answer = f"Who was {NAME}?", " a physicist"
    for prompt in (question, lm.chat_prompt(question)):
        encoded = lm.encode(prompt, answer)
        text = prompt + answer
        assert "".join(text[start:end] for start, end in encoded.offsets[encoded.answer_start :]).strip() == answer.strip()
        if row.adds_bos:
            assert encoded.ids[0] == tokenizer.bos_token_id
            assert encoded.ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in encoded.ids[1:]
        starts = row.adds_bos and text.startswith(own.bos_token)  # the template wrote BOS
        assert encoded.ids == own(text, add_special_tokens=not starts)["input_ids"]
        assert tokenizer.decode(encoded.ids[encoded.answer_start :]).strip() == answer.strip()
    assert lm.has_system_role is row.system
    assert (tokenizer.chat_template is None) is (row.template is None)
    if row.ends:
        assert tokenizer.convert_tokens_to_ids(row.ends) in lm.end_ids
    assert question in lm.chat_prompt(question)
    if name == "qwen3":
        assert lm.chat_prompt(question).endswith("<think>\n\n</think>\n\n")
    if name == "gemma2":
        with pytest.raises(ModelError, match="the chat template fails: System role not supported"):
            lm.chat_prompt(question, system="Be brief.")
    many = lm.chat_prompt("And Newton?", earlier=(question, "A physicist."))
    assert many.count("physicist") == 1


def test_generation_stops_and_scores_are_those_of_a_plain_forward_pass(loaded: tuple[str, Path, LM]) -> None:
    _, _, lm = loaded
    prompt, answer = lm.chat_prompt(f"Who was {NAME}?"), " a physicist"
    encoded = lm.encode(prompt, answer)
    with torch.no_grad():
        logits = lm.model(torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
    expected = [logits[place - 1, encoded.ids[place]].item() for place in range(encoded.answer_start, len(encoded.ids))]
    [score] = lm.score([(prompt, answer)])
    assert score.log_probabilities == pytest.approx(expected, abs=1e-4)
    long = lm.score([(prompt, answer), (prompt + " word" * 40, answer)])  # past the sliding window
    assert long[0].log_probabilities == pytest.approx(expected, abs=1e-4)
    assert isinstance(lm.generate([prompt, "Newton"], max_new_tokens=4)[0], str)
    layers = lm.score_layers([(prompt, answer)])[0]
    assert len(layers) == 4
    assert layers[-1].log_probabilities == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", ["cdr", "rocr"])
def test_an_edit_applies_restores_and_is_read_by_peft(loaded: tuple[str, Path, LM], method: str, tmp_path: Path) -> None:
    _, folder, lm = loaded
    before, query = weights_hash(lm), [(f"{NAME} was born in", " Ulm")]
    plain = lm.score(query)
    options = {"redirect": "Bob", "layers": [1, 2], "basis": "none"} if method == "rocr" else {}
    edit: Any = formless.unlearn(lm, NAME, method, progress=False, **options)
    target = formless.find_target("sample", NAME)
    with edit.applied(lm):
        edited = lm.score(query)
        ids = torch.tensor([lm.encode(query[0][0]).ids])
        with torch.no_grad():
            logits = lm.model(ids).logits
        record = formless.evaluate(lm, target, "fb,qa,mcp_choice,sub_qa_letters,gen_qa,qa_system", limit=2, progress=False)
    assert edited != plain
    assert weights_hash(lm) == before
    assert lm.score(query) == plain
    assert record.task("qa", "forget").metric("probability").n == 2
    edit.save(tmp_path / "edit")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        served = PeftModel.from_pretrained(base, str(tmp_path / "edit"))(ids).logits
    assert torch.allclose(served, logits, atol=1e-4)
    again = formless.load_edit(tmp_path / "edit")
    dtype = AutoConfig.from_pretrained(folder).get_text_config().dtype
    with again.applied(lm):
        assert lm.score(query) == edited
        expected = {name: lm.model.get_parameter(name).to(dtype).float() for name in by_parameter(edit.updates)}
    edit.save_merged(lm, tmp_path / "merged")
    merged = formless.load(str(tmp_path / "merged"), device="cpu", progress=False)
    assert all(torch.equal(merged.model.get_parameter(name), weight) for name, weight in expected.items())  # the files' dtype
    assert merged.chat_prompt("Who?") == lm.chat_prompt("Who?")
    assert merged.end_ids == lm.end_ids


def test_every_family_has_a_checkpoint() -> None:
    assert {row.model_type for row in CHECKPOINTS.values()} == set(known_model_types())
