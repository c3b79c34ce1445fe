"""Folders as open-unlearning and EasyEdit leave them, written by PEFT, transformers and its Trainer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import formless
from formless.edits.adapter import AdapterEdit
from formless.edits.difference import DifferenceEdit
from formless.errors import EditError, ModelError
from formless.models.lm import LM
from tests.edits.test_foreign import logits, saved

Tiny = Callable[..., LM]

OPEN_UNLEARNING = ["q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "down_proj", "up_proj", "lm_head"]
"""The modules of its LoRA configuration."""


@pytest.fixture
def base(tiny: Tiny, tmp_path: Path) -> LM:
    return saved(tiny(), tmp_path / "base")


def trained(model: nn.Module, lm: LM, out: Path, *, final: bool = True, **arguments: Any) -> nn.Module:
    """Train for two steps as open-unlearning's train.py does, which saves the state, the model and the tokenizer."""
    ids = lm.encode("Ada Lovelace wrote the first program.").ids
    rows = [{"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)}] * 4
    settings = TrainingArguments(
        output_dir=str(out), max_steps=2, per_device_train_batch_size=2, learning_rate=0.05, report_to=[], use_cpu=True,
        disable_tqdm=True, **{"save_strategy": "no", **arguments},
    )  # fmt: skip
    trainer = Trainer(model=model, args=settings, train_dataset=rows, processing_class=lm.tokenizer)  # type: ignore[arg-type]
    trainer.train()
    trainer.save_state()
    if final:
        trainer.save_model(str(out))
    (out / ".hydra").mkdir()
    (out / ".hydra" / "config.yaml").write_text("task_name: made\n")
    evaluations = out / "checkpoint-2" / "evals"
    evaluations.mkdir(parents=True, exist_ok=True)
    (evaluations / "TOFU_EVAL.json").write_text("{}")
    return model.eval()


def peft_model(lm: LM, **settings: Any) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(lm.name, dtype=torch.float32)
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **settings))  # type: ignore[return-value]


def filled(model: nn.Module) -> nn.Module:
    """Fill the factors with random numbers, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return model.eval()


def assert_equal_outputs(folder: Path, lm: LM, model: nn.Module) -> None:
    expected = logits(model, lm)
    assert (logits(lm.model, lm) - expected).abs().max() > 1e-3
    with formless.load_edit(folder).applied(lm):
        assert torch.allclose(logits(lm.model, lm), expected, atol=1e-4)


@pytest.mark.parametrize("final", [True, False])
def test_final_weights_count_and_one_checkpoint_does_where_there_are_none(base: LM, tmp_path: Path, final: bool) -> None:
    model = AutoModelForCausalLM.from_pretrained(base.name)
    out = tmp_path / "saves" / "NPO"
    trained(model, base, out, final=final, save_strategy="steps", save_steps=2)
    assert {path.name for path in (out / "checkpoint-2").iterdir()} >= {"optimizer.pt", "training_args.bin", "evals"}
    assert (out / "model.safetensors").exists() == final
    assert_equal_outputs(out, base, model)
    assert formless.load_edit(out).info.facts["folder"] == ("NPO" if final else "NPO/checkpoint-2")


def test_the_default_of_open_unlearning_leaves_evaluations_in_the_checkpoint(base: LM, tmp_path: Path) -> None:
    model = trained(AutoModelForCausalLM.from_pretrained(base.name), base, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "checkpoint-2").iterdir()] == ["evals"]
    assert_equal_outputs(tmp_path / "out", base, model)


def test_of_several_checkpoints_one_must_be_given(base: LM, tmp_path: Path) -> None:
    out = tmp_path / "out"
    model = trained(
        peft_model(base, target_modules=["q_proj"]), base, out, final=False, save_strategy="steps", save_steps=1,
        save_only_model=True,
    )  # fmt: skip
    with pytest.raises(EditError, match=r"but those of checkpoint-1, checkpoint-2.*give one of these") as error:
        formless.load_edit(out)
    assert "\n" not in str(error.value)
    assert_equal_outputs(out / "checkpoint-2", base, model)


def test_the_adapter_of_open_unlearning_has_the_output_matrix(base: LM, tmp_path: Path) -> None:
    model = trained(filled(peft_model(base, target_modules=OPEN_UNLEARNING)), base, tmp_path / "out")
    assert_equal_outputs(tmp_path / "out", base, model)
    assert isinstance(formless.load_edit(tmp_path / "out").on(base), AdapterEdit)  # type: ignore[attr-defined]


def test_an_adapter_of_a_tied_output_matrix_needs_an_untied_base(tiny: Tiny, tmp_path: Path) -> None:
    lm = saved(tiny(tie_word_embeddings=True), tmp_path / "base")
    model = filled(peft_model(lm, target_modules=OPEN_UNLEARNING))
    model.save_pretrained(str(tmp_path / "out"))  # type: ignore[operator]
    with (
        pytest.raises(EditError, match=r"tied to the embedding.*untie a copy of the base model.*other_tools.md"),
        formless.load_edit(tmp_path / "out").applied(lm),
    ):
        pass
    copy = AutoModelForCausalLM.from_pretrained(lm.name)  # what the page says
    copy.config.tie_word_embeddings = False
    copy.lm_head.weight = nn.Parameter(copy.get_input_embeddings().weight.detach().clone())
    copy.save_pretrained(tmp_path / "untied")
    lm.tokenizer.save_pretrained(tmp_path / "untied")
    untied = formless.load(str(tmp_path / "untied"), device="cpu")
    with pytest.warns(UserWarning, match="names .*base as its base model"):
        assert_equal_outputs(tmp_path / "out", untied, model)


@pytest.mark.parametrize("modules", [["lm_head", "embed_tokens"], ["norm"]])
def test_whole_modules_beside_an_adapter_are_differences(base: LM, tmp_path: Path, modules: list[str]) -> None:
    model = filled(peft_model(base, target_modules=["q_proj", "down_proj"], modules_to_save=modules))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(str(tmp_path / "out"))  # type: ignore[operator]
    assert_equal_outputs(tmp_path / "out", base, model)
    bound = formless.load_edit(tmp_path / "out").on(base)  # type: ignore[attr-defined]
    assert isinstance(bound, DifferenceEdit)
    bound.save(tmp_path / "diff")
    assert_equal_outputs(tmp_path / "diff", base, model)


def test_modules_to_save_without_their_weights_are_refused(base: LM, tmp_path: Path) -> None:
    peft_model(base, target_modules=["q_proj"]).save_pretrained(str(tmp_path / "out"))
    path = tmp_path / "out" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modules_to_save": ["lm_head"]}))
    with pytest.raises(EditError, match=r"lacks the weights of lm_head, one of modules_to_save"):
        formless.load_edit(tmp_path / "out")


def test_resized_embeddings_are_one_clear_line(base: LM, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base.name)
    model.resize_token_embeddings(len(base.tokenizer) + 2)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    get_peft_model(model, config).save_pretrained(str(tmp_path / "out"), save_embedding_layers=True)
    with (
        pytest.raises(EditError, match=r"the adapter is for 260 tokens, and .*base has 258.*resize a copy of the base"),
        formless.load_edit(tmp_path / "out").applied(base),
    ):
        pass


def test_sharded_weights_in_half_precision_change_what_was_edited_alone(base: LM, tmp_path: Path) -> None:
    """EasyEdit loads models in float16, edits one matrix and saves all, often without a tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(base.name, dtype=torch.float16)
    with torch.no_grad():
        weight = model.get_parameter("model.layers.1.mlp.down_proj.weight")
        weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(tmp_path / "edited", max_shard_size="40KB")
    assert len(list((tmp_path / "edited").glob("model-*.safetensors"))) > 1
    edit = formless.load_edit(tmp_path / "edited")
    assert list(edit.on(base).updates) == ["model.layers.1.mlp.down_proj.weight"]  # type: ignore[attr-defined]
    next((tmp_path / "edited").glob("model-*.safetensors")).unlink()
    with pytest.raises(ModelError, match="the model cannot be loaded") as error:
        edit.applied(base)
    assert "\n" not in str(error.value)


def test_edits_that_easyedit_rolled_back_are_no_edit(base: LM, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(base.name, dtype=torch.float16).save_pretrained(tmp_path / "edited")
    with pytest.raises(EditError, match=r"no weight differs.*sequential_edit=True"):
        formless.load_edit(tmp_path / "edited").applied(base)


@pytest.fixture(params=["lora", "adalora", "wise", "grace"])
def wrapped(request: pytest.FixtureRequest, base: LM) -> tuple[Any, str]:
    """What EasyEdit's `edited_model` is after methods that put their own layers into the model."""
    model = AutoModelForCausalLM.from_pretrained(base.name)
    if request.param in ("wise", "grace"):
        mlp = model.get_submodule("model.layers.3.mlp")
        mlp.down_proj = SideMemory(mlp.down_proj, request.param)  # type: ignore[arg-type]
        return model, request.param.upper()
    if request.param == "lora":
        config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    else:
        config = AdaLoraConfig(task_type="CAUSAL_LM", total_step=4, target_modules=["q_proj"])
    return get_peft_model(model, config).base_model.model, "PEFT's"


class SideMemory(nn.Module):
    """The weights that WISEAdapter and GRACEAdapter register."""

    def __init__(self, layer: nn.Linear, kind: str) -> None:
        super().__init__()
        self.layer, self.weight = layer, layer.weight
        if kind == "wise":
            self.new_weight = nn.Parameter(layer.weight.detach().clone())
            self.original_layer = nn.Linear(layer.in_features, layer.out_features, bias=False)
        else:
            self.values = nn.Parameter(torch.zeros(1, layer.out_features))


def test_layers_of_another_tool_in_the_model_are_refused(wrapped: tuple[Any, str], base: LM, tmp_path: Path) -> None:
    model, kind = wrapped
    model.config.save_pretrained(tmp_path / "edited")
    torch.save(model.state_dict(), tmp_path / "edited" / "pytorch_model.bin")  # as transformers 4 did
    with pytest.raises(EditError, match=rf"{kind} layers|holds {kind}'s layers") as error:
        formless.load_edit(tmp_path / "edited").applied(base)
    assert ("merge_and_unload" if kind == "PEFT's" else "evaluate it with EasyEdit") in str(error.value)
    assert "\n" not in str(error.value)


def test_an_adalora_adapter_is_refused_with_what_to_do(base: LM, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base.name)
    config = AdaLoraConfig(task_type="CAUSAL_LM", total_step=4, target_modules=["q_proj"])
    get_peft_model(model, config).save_pretrained(str(tmp_path / "edited"))
    with pytest.raises(EditError, match=r"peft_type is 'ADALORA'.*merge_and_unload"):
        formless.load_edit(tmp_path / "edited")


@pytest.mark.parametrize(
    ("shards", "command"),
    [("global_step60", "zero_to_fp32.py"), ("checkpoint-60/global_step60", "zero_to_fp32.py"),
     ("pytorch_model_fsdp_0", "accelerate merge-weights")],
)  # fmt: skip
def test_shards_of_distributed_training_are_joined_first(base: LM, tmp_path: Path, shards: str, command: str) -> None:
    folder = tmp_path / "out"
    (folder / shards).mkdir(parents=True)
    base.model.config.save_pretrained(folder)
    (folder / "latest").write_text("global_step60")
    with pytest.raises(EditError, match=rf"the weights are shards of .*{command}"):
        formless.load_edit(folder)


def test_pickled_files_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "wise"
    folder.mkdir()
    (folder / "wise.pt").write_bytes(b"not opened")
    for place in (folder, folder / "wise.pt"):
        with pytest.raises(EditError, match=r"a pickled file is no model.*wise.pt.*evaluate it with EasyEdit"):
            formless.load_edit(place)


def test_pickled_weights_of_a_whole_model_are_read_without_running_code(base: LM, tmp_path: Path) -> None:
    """Older versions of transformers wrote pytorch_model.bin."""
    model = AutoModelForCausalLM.from_pretrained(base.name)
    with torch.no_grad():
        model.get_parameter("model.norm.weight").mul_(1.5)
    model.config.save_pretrained(tmp_path / "edited")
    torch.save(model.state_dict(), tmp_path / "edited" / "pytorch_model.bin")
    assert_equal_outputs(tmp_path / "edited", base, model)
    torch.save({"model.norm.weight": print}, tmp_path / "edited" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="the model cannot be loaded"):
        formless.load_edit(tmp_path / "edited").applied(base)
