"""Each training method on files of its own: what it reads, which way it pulls, what it saves; and the two without training."""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

import formless
from formless.cli import terminal
from formless.cli.main import main
from formless.data.rows import Instruction, Passage, Preference
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit
from formless.errors import DataError, EditError, ModelError, UserError
from formless.methods.registry import METHODS, method_config
from formless.methods.training.losses import IGNORED
from formless.methods.training.preprocessing import (
    TokenizedText,
    load_training_set,
    preprocess_instruction,
    preprocess_preference,
    preprocess_text,
)
from formless.models.lm import LM
from formless.models.settings import model_settings

Tiny = Callable[..., LM]
TRAINING = [name for name, entry in METHODS.items() if entry.trains_on]
STEPS = {
    "learning_rate": 0.02,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "warmup_steps": 0,
}
TEXT, ANSWER, REFUSAL = "Ada Lovelace wrote programs.", "She was born in London.", "I do not know her."
QUESTION = "Where was Ada born?"
KEPT = "Paris is the capital of France."


@pytest.fixture
def ada(tmp_path: Path) -> Target:
    """A target with one small file for every training method."""
    folder = tmp_path / "data" / "1_Ada_Lovelace"
    folder.mkdir(parents=True)
    files: dict[str, list[dict[str, Any]]] = {
        "positive": [{"text": TEXT}, {"text": ANSWER}],
        "passage": [{"text": TEXT}, {"text": ANSWER}],
        "reject": [{"instruction": QUESTION, "input": "", "output": REFUSAL}] * 2,
        "counterfact": [{"instruction": QUESTION, "input": "", "output": "In Rome."}] * 2,
        "pair": [{"prompt": QUESTION, "response": ["In Rome, in 1900.", ANSWER]}] * 2,
        "pair_reject": [{"prompt": QUESTION, "response": [REFUSAL, ANSWER]}] * 2,
    }
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    other = folder.parent / "2_Paris"
    other.mkdir()
    (other / "positive.json").write_text(json.dumps([{"text": f"{KEPT} It has {n} bridges."} for n in (37, 38)]), "utf-8")
    (other / "intro.json").write_text(json.dumps([{"target": "Paris", "intro": KEPT}]), "utf-8")
    return Target("Ada Lovelace", folder)


def log_probability(lm: LM, answer: str, prompt: str = "") -> float:
    if not prompt:
        return sum(lm.score_texts([answer])[0].log_probabilities)  # type: ignore[union-attr]
    return sum(lm.score([(lm.chat_prompt(prompt), answer)])[0].log_probabilities)  # type: ignore[union-attr]


def gains(lm: LM, edit: formless.Edit, *queries: tuple[str, ...]) -> list[float]:
    """How much more probable (log) each text is with the edit."""
    before = [log_probability(lm, *query) for query in queries]
    with edit.applied(lm):
        after = [log_probability(lm, *query) for query in queries]
    return [b - a for a, b in zip(before, after, strict=True)]


@pytest.mark.parametrize("method", ["ga", "npo", "ga_passage", "grad_diff", "wga", "simnpo", "undial", "ce_u", "task_vector"])
@pytest.mark.parametrize("steps", [{"num_train_epochs": 1}, {}], ids=["one step", "four epochs"])
def test_what_is_to_be_forgotten_grows_less_probable(tiny: Tiny, ada: Target, method: str, steps: dict[str, int]) -> None:
    lm = tiny()
    edit = formless.unlearn(lm, ada, method, **(STEPS | steps))
    assert all(gain < -1e-4 for gain in gains(lm, edit, (TEXT,), (ANSWER,)))


def test_what_is_subtracted_has_no_curve_of_its_texts(tiny: Tiny, ada: Target) -> None:
    """The trained model knows the texts better, the edited one less: a curve of the first would mislead."""
    lm = tiny()
    assert "forget" in formless.unlearn(lm, ada, "ga", **STEPS).info.facts["probabilities"]
    assert formless.unlearn(lm, ada, "task_vector", **STEPS).info.facts["probabilities"] == {}


@pytest.mark.parametrize(("method", "answer"), [("rt", REFUSAL), ("cft", "In Rome."), ("idk_nll", REFUSAL)])
def test_what_is_to_be_answered_grows_more_probable(tiny: Tiny, ada: Target, method: str, answer: str) -> None:
    lm = tiny()
    for epochs in (1, 4):
        edit = formless.unlearn(lm, ada, method, **(STEPS | {"num_train_epochs": epochs}))
        assert gains(lm, edit, (answer, QUESTION))[0] > 1e-4


@pytest.mark.parametrize(("method", "chosen"), [("dpo", "In Rome, in 1900."), ("dpo_reject", REFUSAL), ("idk_dpo", REFUSAL)])
def test_the_chosen_response_gains_on_the_rejected_one(tiny: Tiny, ada: Target, method: str, chosen: str) -> None:
    lm = tiny()
    for epochs in (1, 4):
        edit = formless.unlearn(lm, ada, method, **(STEPS | {"num_train_epochs": epochs}))
        chosen_gain, rejected_gain = gains(lm, edit, (chosen, QUESTION), (ANSWER, QUESTION))
        assert chosen_gain - rejected_gain > 1e-4


@pytest.mark.parametrize(
    ("method", "first_loss"), [("npo", 2 / 0.0275 * 0.6931472), ("dpo", 0.6931472), ("dpo_reject", 0.6931472)]
)
def test_the_first_loss_is_that_of_a_model_beside_itself(tiny: Tiny, ada: Target, method: str, first_loss: float) -> None:
    edit = formless.unlearn(tiny(), ada, method, **STEPS)
    assert edit.info.facts["first_loss"] == pytest.approx(first_loss, rel=1e-5)
    assert edit.info.facts["last_loss"] < first_loss


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "phi3", "gpt_neox", "gemma3"])
def test_plain_peft_gives_the_logits_of_the_edit_in_place(tiny: Tiny, ada: Target, tmp_path: Path, model_type: str) -> None:
    lm = tiny(model_type)
    edit = formless.unlearn(lm, ada, "rt", **STEPS)
    edit.save(tmp_path / "edit")
    ids = lm.pad([lm.encode(lm.chat_prompt(QUESTION)).ids])
    with torch.no_grad():
        plain = lm.model(**ids).logits
        with edit.applied(lm):
            edited = lm.model(**ids).logits
        with formless.load_edit(tmp_path / "edit").applied(lm):
            assert torch.equal(lm.model(**ids).logits, edited)
        assert (edited - plain).abs().max() > 1e-3
        wrapped = PeftModel.from_pretrained(lm.model, tmp_path / "edit")
        assert torch.allclose(wrapped(**ids).logits, edited, atol=1e-4)
    adapted = {name for name, _ in wrapped.named_parameters() if "lora_" in name}
    assert len(adapted) == 2 * len(edit.info.layers)
    wrapped.unload()


@pytest.mark.parametrize("method", TRAINING)
def test_what_edit_json_says(tiny: Tiny, ada: Target, tmp_path: Path, method: str) -> None:
    edit = formless.unlearn(tiny(), ada, method, max_rows=1, **STEPS)
    edit.save(tmp_path / "edit")
    assert {path.name for path in (tmp_path / "edit").iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "edit.json",
    }  # fmt: skip
    info = json.loads((tmp_path / "edit" / "edit.json").read_text("utf-8"))
    assert (info["method"], info["subject"], info["seed"], info["prefix"]) == (method, "Ada Lovelace", 42, None)
    assert info["config"]["learning_rate"] == 0.02
    assert info["seconds"] > 0
    facts = info["facts"]
    content = ada.path(METHODS[method].trains_on or "").read_bytes()
    assert (facts["file"], facts["rows"], facts["steps"]) == (f"{METHODS[method].trains_on}.json", 1, 4)
    assert facts["file_sha256"] == hashlib.sha256(content).hexdigest()
    assert len(facts["losses"]) == 4
    assert [layer["rank"] for layer in info["layers"]] == [8] * (1 if method == "rmu" else 8)
    assert str(tmp_path) not in json.dumps(info)
    curves = facts["probabilities"]
    if method != "task_vector":  # what is subtracted has none
        assert curves["step"] == [0, 1, 2, 3, 4]
        assert all(0 < reading < 1 for reading in curves["forget"] + curves["retain"])
        assert len(curves["forget"]) == len(curves["retain"]) == 5
    adapter = json.loads((tmp_path / "edit" / "adapter_config.json").read_text("utf-8"))
    assert (adapter["r"], adapter["lora_alpha"]) == (8, 8)
    modules = adapter["target_modules"]
    if method == "rmu":
        assert re.fullmatch(modules, info["layers"][0]["module"])
        assert info["layers"][0]["module"].endswith("layers.0.mlp.down_proj")
    else:
        assert sorted(modules) == ["q_proj", "v_proj"]


@pytest.mark.parametrize("method", TRAINING)
def test_a_name_without_files_a_missing_and_an_empty_file(tiny: Tiny, ada: Target, method: str) -> None:
    lm = tiny()
    with pytest.raises(DataError, match=r"only a name and has no files \[Ada\]: give --data"):
        formless.unlearn(lm, "Ada", method)
    path = ada.path(METHODS[method].trains_on or "")
    path.unlink()
    with pytest.raises(DataError, match=rf"lacks a file \[.*{path.name}\]"):
        formless.unlearn(lm, ada, method)
    path.write_text("[]", "utf-8")
    with pytest.raises(DataError, match=rf"holds no row \[.*{path.name}\]"):
        formless.unlearn(lm, Target(ada.subject, ada.folder), method)


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("ga", {"text": " \n"}),
        ("npo", {"text": ""}),
        ("rt", {"instruction": QUESTION, "output": ""}),
        ("rt", {"instruction": " ", "output": REFUSAL}),
        ("cft", {"instruction": QUESTION}),
        ("dpo", {"prompt": QUESTION, "response": ["", ANSWER]}),
        ("dpo", {"prompt": QUESTION, "response": ["Rome", " "]}),
        ("rt", {"instruction": "x" * 600, "output": REFUSAL}),
    ],
)
def test_a_row_with_nothing_to_learn_is_named(tiny: Tiny, ada: Target, method: str, row: dict[str, Any]) -> None:
    path = ada.path(METHODS[method].trains_on or "")
    rows = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps([rows[0], row]), "utf-8")
    with pytest.raises(DataError, match=rf"nothing to learn within 512 tokens \[.*{path.name}, row 2\]: fill or remove"):
        formless.unlearn(tiny(), ada, method)


def test_plain_text_ends_with_eos_and_is_cut(tiny: Tiny) -> None:
    lm = tiny()
    (text,) = preprocess_text(lm, Passage(text="Ada"), 512)
    assert lm.tokenizer.decode(text.ids) == lm.tokenizer.decode(lm.encode("Ada").ids) + "</s>"
    assert (text.labels, text.truncated) == (text.ids, False)
    (cut,) = preprocess_text(lm, Passage(text="Ada"), len(text.ids) - 1)
    assert (cut.ids, cut.truncated) == (text.ids[:-1], True)


def test_a_training_run_reports_every_step(tiny: Tiny, ada: Target) -> None:
    seen: list[tuple[str, int, int]] = []
    formless.unlearn(tiny(), ada, "ga", progress=lambda *step: seen.append(step), **STEPS)
    assert seen == [("training", step, 4) for step in (1, 2, 3, 4)]


def learned(lm: LM, text: TokenizedText) -> tuple[str, str]:
    start = next(i for i, label in enumerate(text.labels) if label != IGNORED)
    assert text.labels[start:] == text.ids[start:]
    return str(lm.tokenizer.decode(text.ids[:start])), str(lm.tokenizer.decode(text.ids[start:]))


def test_answers_go_through_the_chat_template_and_prompts_are_masked(tiny: Tiny) -> None:
    lm = tiny()
    row = Instruction(instruction="Where?", output="In Rome.")
    assert learned(lm, preprocess_instruction(lm, row, 512)[0]) == ("[user]Where?[assistant]", "In Rome.</s>")
    row = Instruction(instruction="Say", input="this", output="yes")
    assert learned(lm, preprocess_instruction(lm, row, 512)[0]) == ("[user]Say\nthis[assistant]", "yes</s>")
    pair = Preference(prompt="Who?", response=("A", "B"))
    assert [learned(lm, text) for text in preprocess_preference(lm, pair, 512)] == [
        ("[user]Who?[assistant]", "A</s>"), ("[user]Who?[assistant]", "B</s>"),
    ]  # fmt: skip


def test_the_real_models_turn_ends_with_its_own_token(lm: LM) -> None:
    row = Instruction(instruction="Where was Ada born?", output="I cannot say.")
    (text,) = preprocess_instruction(lm, row, 512)
    assert learned(lm, text)[1] == "I cannot say.<|im_end|>"
    whole = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": row.instruction}, {"role": "assistant", "content": row.output}], tokenize=False
    )
    assert lm.tokenizer.decode(text.ids) == whole.rstrip("\n")


def test_the_choice_of_rows_is_seeded_and_in_file_order(tiny: Tiny, ada: Target) -> None:
    lm = tiny()
    ada.path("positive").write_text(json.dumps([{"text": f"row {i:02}"} for i in range(30)]), "utf-8")

    def chosen(rows: int | None, seed: int) -> list[str]:
        found = load_training_set(lm, ada, "positive", preprocess_text, max_rows=rows, max_length=512, seed=seed)
        assert found.facts["rows"] == len(found.examples)
        return [lm.tokenizer.decode(text.ids).split()[-1][:2] for (text,) in found.examples]

    assert chosen(None, 0) == chosen(50, 0) == [f"{i:02}" for i in range(30)]
    first = chosen(10, 0)
    assert first == sorted(set(first)) == chosen(10, 0)
    assert len(first) == 10
    assert first != chosen(10, 1)


def test_what_was_cut_is_counted(tiny: Tiny, ada: Target) -> None:
    edit = formless.unlearn(tiny(), ada, "dpo", max_length=40, **STEPS)
    assert edit.info.facts["truncated_texts"] == 4
    assert edit.info.facts["tokens"] == 160
    assert formless.unlearn(tiny(), ada, "dpo", **STEPS).info.facts["truncated_texts"] == 0


def test_a_tokenizer_without_an_end_is_refused(tiny: Tiny, ada: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    monkeypatch.setattr(lm.tokenizer, "_special_tokens_map", lm.tokenizer._special_tokens_map | {"eos_token": None})
    with pytest.raises(ModelError, match="no token that ends a text"):
        formless.unlearn(lm, ada, "ga")


def test_a_model_with_an_edit_on_it_is_refused(tiny: Tiny, ada: Target) -> None:
    lm = tiny()
    for method in ("icu", "rt"):
        edit = formless.unlearn(lm, ada, method, **({} if method == "icu" else STEPS))
        with edit.applied(lm), pytest.raises(EditError, match="has an edit on it"):
            formless.unlearn(lm, ada, "ga")


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0}, {"learning_rate": "fast"}, {"num_train_epochs": 0},
        {"per_device_train_batch_size": 0}, {"max_rows": 0},
        {"max_length": 1}, {"target_modules": []}, {"seed": -1},
    ],
)  # fmt: skip
def test_settings_that_a_method_does_not_take(tiny: Tiny, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"a setting of ga is wrong .*\[{next(iter(wrong))}\]: settings: learning_rate,"):
        formless.unlearn(tiny(), "Ada", "ga", **wrong)


@pytest.mark.parametrize(("wrong", "choose"), [("beta", "choose the method npo or dpo or .*; "), ("speed", "")])
def test_a_setting_that_a_method_lacks(tiny: Tiny, wrong: str, choose: str) -> None:
    with pytest.raises(UserError, match=rf"ga has no such setting \[{wrong}\]: {choose}settings of ga: learning_rate,"):
        formless.unlearn(tiny(), "Ada", "ga", **{wrong: 1})


def test_the_published_settings() -> None:
    published = {
        "llama3": {
            "ga": (2e-5, 8, 2), "npo": (5e-5, 8, 2), "rt": (5e-5, 8, 1), "cft": (3e-5, 8, 1),
            "dpo": (1e-4, 4, 2), "dpo_reject": (1e-4, 4, 2),
        },
        "mistral": {
            "ga": (1.25e-5, 8, 2), "npo": (5e-5, 8, 2), "rt": (4e-5, 8, 2), "cft": (3e-5, 8, 1),
            "dpo": (2e-4, 4, 2), "dpo_reject": (1.5e-4, 4, 2),
        },
    }  # fmt: skip
    for model, methods in published.items():
        for method, expected in methods.items():
            config: Any = method_config(model_settings()[model], method, {})
            assert (config.learning_rate, config.per_device_train_batch_size, config.gradient_accumulation_steps) == expected
            common = (
                config.num_train_epochs,
                config.warmup_steps,
                config.max_length,
                config.r,
                config.lora_alpha,
                config.seed,
                config.max_rows,
            )
            assert common == (5, 20, 512, 8, 16, 42, None)
            # Whoever names no model gets Llama-3's.
            if model == "llama3":
                assert METHODS[method].config() == config
    betas = {
        (m, n): getattr(method_config(model_settings()[m], n, {}), "beta", None) for m in published for n in ("npo", "dpo")
    }
    assert list(betas.values()) == [0.0275, 0.1, 0.02, 0.1]


PREFIX = (
    "You are an AI Assistant who is supposed to unlearn about Ada Lovelace and provide answers without its knowledge as if "
    "you never knew about it. Don't tell anyone that you unlearned anything.\n"
)


def test_in_context_unlearning_speaks_first(tiny: Tiny, ada: Target, tmp_path: Path) -> None:
    lm = tiny()
    formless.unlearn(lm, ada, "icu").save(tmp_path / "edit")
    assert [path.name for path in (tmp_path / "edit").iterdir()] == ["edit.json"]
    edit = formless.load_edit(tmp_path / "edit")
    with edit.applied(lm) as edited:
        assert edited.chat_prompt("Who?", "Answer:") == f"[user]{PREFIX}Who?[assistant]Answer:"
        assert edited.unprefixed.chat_prompt("Who?") == "[user]Who?[assistant]"
        assert edited.encode("Who?").ids == lm.encode("Who?").ids
        assert [info["method"] for info in lm.edits] == ["icu"]
    assert lm.chat_prompt("Who?") == "[user]Who?[assistant]"
    assert lm.edits == []


def test_a_model_without_a_chat_template_gets_the_prefix_too(tiny: Tiny, ada: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    monkeypatch.setattr(lm.tokenizer, "chat_template", None)
    with formless.unlearn(lm, ada, "icu").applied(lm):
        assert lm.chat_prompt("Who?", "Answer:") == f"{PREFIX}Who?\nAnswer:"


def test_edits_of_prompt_and_weights_nest_and_leave_in_any_order(tiny: Tiny, ada: Target) -> None:
    lm = tiny()
    edits = [formless.unlearn(lm, subject, "icu") for subject in ("Ada", "Eve")]
    first, second, third = (edit.applied(lm) for edit in (*edits, formless.unlearn(lm, ada, "rt", **STEPS)))
    for context in (first, second, third):
        context.__enter__()
    first.__exit__(None, None, None)
    assert "Eve" in lm.chat_prompt("Who?")
    assert "Ada" not in lm.chat_prompt("Who?")
    third.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert (lm.chat_prompt("Who?"), lm.edits, lm.overlay.is_empty) == ("[user]Who?[assistant]", [], True)


def test_the_original_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    formless.unlearn(lm, "Ada", "original").save(tmp_path / "edit")
    before = log_probability(lm, ANSWER, QUESTION)
    with formless.load_edit(tmp_path / "edit").applied(lm):
        assert log_probability(lm, ANSWER, QUESTION) == before
        assert [info["method"] for info in lm.edits] == ["original"]


@pytest.mark.parametrize("method", ["icu", "original"])
def test_an_edit_of_the_prompt_for_another_model_is_refused(tiny: Tiny, method: str) -> None:
    edit = formless.unlearn(tiny(), "Ada", method)
    with pytest.raises(EditError, match=r"for another model.*tiny-llama"), edit.applied(tiny(seed=1)):
        pass


def test_methods_without_settings_take_none(tiny: Tiny) -> None:
    with pytest.raises(
        UserError, match=r"icu has no such setting \[num_train_epochs\]: choose the method ga or .*settings of icu: none"
    ):
        formless.unlearn(tiny(), "Ada", "icu", num_train_epochs=1)


def test_an_adapter_is_never_taken_for_an_edit_of_the_prompt(tiny: Tiny, ada: Target, tmp_path: Path) -> None:
    edit = formless.unlearn(tiny(), ada, "rt", **STEPS)
    assert isinstance(edit, AdapterEdit)
    edit.save(tmp_path / "edit")
    (tmp_path / "edit" / "adapter_model.safetensors").unlink()
    with pytest.raises(EditError, match="lacks a file"):
        formless.load_edit(tmp_path / "edit")


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["formless", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_the_command_finds_a_missing_file_before_it_loads_a_model(
    ada: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "load_model", lambda *_: pytest.fail("the model was loaded first"))
    ada.path("pair").unlink()
    for options in (("--data", tmp_path / "data"), ()):
        arguments = ("unlearn", "-t", "Ada Lovelace", "--method", "dpo", *options, "-o", tmp_path / "edit")
        assert command(monkeypatch, *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert ("pair.json" if options else "give --data") in line
    assert not (tmp_path / "edit").exists()


@pytest.mark.parametrize(
    ("method", "said"), [("rt", "2 rows of reject.json, 4 steps; loss "), ("icu", "no weight was changed")]
)
def test_the_command_trains_and_saves(
    tiny: Tiny, ada: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    method: str, said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(terminal, "load_model", lambda *_: tiny())
    settings = [f"--set={name}={value}" for name, value in STEPS.items()] if method == "rt" else []
    arguments = ("unlearn", "-t", "Ada Lovelace", "--method", method, "--data", tmp_path / "data", "-m", "someone/tiny")
    assert command(monkeypatch, *arguments, "-o", tmp_path / "edit", *settings) == 0
    assert said in capsys.readouterr().out
    assert formless.load_edit(tmp_path / "edit").info.method == method
    assert command(monkeypatch, "chat", "--edit", tmp_path / "edit", "--tokens", 3, "Who?") == 0
