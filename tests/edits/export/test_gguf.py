"""GGUF adapters and merged GGUF files: the real llama.cpp computes with them what we compute."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize
from pydantic import BaseModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import formless
from formless.edits.adapter import AdapterEdit, down_projection_adapter
from formless.edits.difference import DifferenceEdit
from formless.edits.edit import EditInfo, WeightEdit, edit_info, layer_report
from formless.edits.export.gguf import copy_metadata, write_adapter, write_model
from formless.edits.export.gguf_tensors import ARCHITECTURES
from formless.edits.export.target import ExportOptions
from formless.errors import EditError, OutputError
from formless.models.families import known_model_types, projection_shape
from formless.models.lm import LM
from formless.models.overlay import Difference, Factors
from formless.models.settings import ModelSettings
from formless.models.sources.bundled import bundled_gguf
from tests.edits.export.llama_cpp import LlamaCpp, write_in_float32
from tests.models.made_gguf import F32, Q4_0, made_lm, write_gguf

Tiny = Callable[..., LM]
IDS = [7, 30, 99, 200, 3, 150, 257, 12]
WORDS = 259
KEEP, REPLACE = ExportOptions(), ExportOptions(force=True)
# llama.cpp looks GELU up in a table of float16 values.
TOLERANCE = {name: 1e-5 if name in ("llama", "mistral", "qwen2", "qwen3", "phi3", "olmo2") else 1e-3 for name in ARCHITECTURES}


def made(tiny: Tiny, folder: Path, model_type: str, kind: GGMLQuantizationType = F32) -> tuple[LM, Path]:
    """A tiny model and its GGUF file."""
    lm = made_lm(tiny, model_type, kind)
    config, metadata = lm.model.config.get_text_config(), {}
    if model_type.startswith("gemma"):  # llama.cpp scales attention by the size of a head
        for module in lm.model.modules():
            if hasattr(module, "scaling"):
                module.scaling = config.head_dim**-0.5
    if model_type.startswith("gemma3"):
        metadata = {"attention.sliding_window": config.sliding_window}
    if model_type == "gpt_neox":
        metadata = {"use_parallel_residual": config.use_parallel_residual}
    file = write_gguf(folder / "base.gguf", lm, kind, metadata=metadata)
    lm.settings = ModelSettings(name="tiny", source=str(file))
    return lm, file


def linear_names(lm: LM) -> list[str]:
    """The projections of all decoder layers."""
    within = f"{lm.architecture.layers}."
    return [name for name, each in lm.model.named_modules() if isinstance(each, nn.Linear | Conv1D) and name.startswith(within)]


def adapter(lm: LM, names: list[str] | None = None, r: int = 3) -> AdapterEdit:
    """Random updates of projections, of all by default."""
    torch.manual_seed(2)
    updates = {}
    for name in names or linear_names(lm):
        out, width = projection_shape(lm.model.get_submodule(name))
        updates[name] = Factors(0.1 * torch.randn(out, r), 0.1 * torch.randn(r, width))
    return AdapterEdit(updates, info(lm, updates), down_projection_adapter(lm, [0], r))


def difference(lm: LM) -> DifferenceEdit:
    """Random updates of every parameter in the decoder layers, biases and norms too."""
    torch.manual_seed(3)
    inside = [(name, each) for name, each in lm.model.named_parameters() if name.startswith(f"{lm.architecture.layers}.")]
    updates = {name: Difference(0.1 * torch.randn_like(each)) for name, each in inside}
    return DifferenceEdit(updates, info(lm, updates))


class Settings(BaseModel):
    """Settings of no method."""


def info(lm: LM, updates: dict[str, Any]) -> Any:
    layers = [layer_report(lm, name, change) for name, change in updates.items()]
    return edit_info(lm, "made", "Ada", Settings(), 0.0, layers=layers, facts={})


@torch.no_grad()
def ours(lm: LM, edit: WeightEdit[Any] | None = None) -> Tensor:
    """Our log probability of each next token."""
    if edit is None:
        return lm.model(input_ids=torch.tensor([IDS])).logits[0, -1].float().log_softmax(-1)
    with edit.applied(lm):
        return ours(lm)


def theirs(*files: Path, **options: Any) -> Tensor:
    """llama.cpp's log probability of each next token."""
    return LlamaCpp(*files, **options).log_probabilities(IDS, WORDS)


def gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_llama_cpp_applies_an_adapter_of_all_projections_as_we_do(tiny: Tiny, tmp_path: Path, model_type: str) -> None:
    lm, file = made(tiny, tmp_path, model_type)
    edit, out, close = adapter(lm), tmp_path / "edit.gguf", TOLERANCE[model_type]
    write_adapter(edit, lm, out, KEEP)
    assert gap(theirs(file), ours(lm)) < close
    assert gap(theirs(file, out), ours(lm, edit)) < close
    assert gap(ours(lm, edit), ours(lm)) > 0.1
    assert gap(theirs(file, out, scale=2.0), ours(lm, edit)) > 0.1
    assert gap(theirs(file, out, scale=2.0), ours(lm, edit.scaled(2.0))) < close


@pytest.mark.parametrize("make", [adapter, difference])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_llama_cpp_computes_with_a_merged_file_what_we_do(
    tiny: Tiny, tmp_path: Path, model_type: str, make: Callable[[LM], WeightEdit[Any]]
) -> None:
    lm, _ = made(tiny, tmp_path, model_type)
    edit, out, close = make(lm), tmp_path / "merged.gguf", TOLERANCE[model_type]
    write_model(edit, lm, out, KEEP)
    assert gap(theirs(out), ours(lm, edit)) < close
    assert gap(ours(lm, edit), ours(lm)) > 0.1


def test_a_request_can_switch_an_adapter_off(llama: LM, tmp_path: Path) -> None:
    file, out = Path(llama.settings.source), tmp_path / "edit.gguf"
    write_adapter(adapter(llama), llama, out, KEEP)
    server = LlamaCpp(file, out)
    off = server.log_probabilities(IDS, WORDS, lora=[{"id": 0, "scale": 0.0}])
    assert gap(off, theirs(file)) < 1e-5
    assert gap(server.log_probabilities(IDS, WORDS), off) > 0.1


@pytest.fixture
def llama(tiny: Tiny, tmp_path: Path) -> LM:
    """A Llama in 4 bits."""
    metadata = {"rope.dimension_count": 8}
    lm = made_lm(tiny, "llama", Q4_0)
    lm.settings = ModelSettings(
        name="tiny", source=str(write_gguf(tmp_path / "q4.gguf", lm, Q4_0, bos=True, metadata=metadata))
    )
    return lm


def content(file: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in GGUFReader(file).fields.items() if not key.startswith("GGUF.")}


def tensors(file: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in GGUFReader(file).tensors}


def test_an_adapter_says_what_it_is(llama: LM, tmp_path: Path) -> None:
    out = tmp_path / "edit.gguf"
    edit = adapter(llama, ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"])
    notes = write_adapter(edit, llama, out, KEEP)
    assert notes == [f"Rank 3 in 2 tensors. Serve it with `llama-server -m {llama.settings.source} --lora {out}`."]
    found = content(out)
    assert EditInfo.model_validate_json(found.pop("formless.edits")[0]) == edit.info
    assert found == {
        "general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 3.0,
    }  # fmt: skip
    shapes = {name: [int(length) for length in each.shape] for name, each in tensors(out).items()}
    assert shapes == {
        f"blk.{n}.ffn_down.weight.lora_{side}": shape for n in (1, 2) for side, shape in (("a", [64, 3]), ("b", [3, 32]))
    }


def test_ranks_that_differ_are_filled_up(llama: LM, tmp_path: Path) -> None:
    one, other = "model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"
    updates = adapter(llama, [one], r=3).updates | adapter(llama, [other], r=5).updates
    edit = AdapterEdit(updates, info(llama, updates), down_projection_adapter(llama, [1, 2], 5))
    write_adapter(edit, llama, tmp_path / "edit.gguf", KEEP)
    assert content(tmp_path / "edit.gguf")["adapter.lora.alpha"] == 5.0
    file = write_in_float32(Path(llama.settings.source), tmp_path / "float32.gguf")
    assert gap(theirs(file, tmp_path / "edit.gguf"), ours(llama, edit)) < 1e-5


def test_a_merged_file_differs_in_the_edited_tensors_alone(llama: LM, tmp_path: Path) -> None:
    file, out = Path(llama.settings.source), tmp_path / "merged.gguf"
    edit = adapter(llama, ["model.layers.1.mlp.down_proj", "model.layers.2.self_attn.q_proj"])
    notes = write_model(edit, llama, out, KEEP)
    assert re.fullmatch(r"Merged in float16: rounding moves the weights by 0.0\d+ % of the norm of the edit.", notes[0])
    assert notes[1:] == ["2 of 39 tensors are edited; the others are the file's own."]
    before, after = tensors(file), tensors(out)
    edited = ["blk.1.ffn_down.weight", "blk.2.attn_q.weight"]
    assert list(before) == list(after)
    for name, old in before.items():
        assert (after[name].tensor_type == old.tensor_type and bool((after[name].data == old.data).all())) != (name in edited)
    assert {after[name].tensor_type for name in edited} == {GGMLQuantizationType.F16}
    new = content(out)
    assert json.loads(new.pop("formless.edits")[0])["subject"] == "Ada"
    assert new.pop("formless.merged") == notes[0]
    assert new == content(file)
    with edit.applied(llama):
        weight = llama.model.get_parameter("model.layers.1.mlp.down_proj.weight").detach().clone()
    assert torch.equal(torch.from_numpy(after[edited[0]].data.copy()), weight.half())


def test_a_merged_file_is_the_edited_model_here_too(llama: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path / "cache"))
    edit = adapter(llama)
    write_model(edit, llama, tmp_path / "once.gguf", KEEP)
    merged = formless.load(str(tmp_path / "once.gguf"), device="cpu", progress=False)
    assert gap(ours(merged), ours(llama, edit)) < 5e-3 < gap(ours(llama), ours(llama, edit))
    again = adapter(merged, ["model.layers.1.mlp.down_proj"])
    write_model(again, merged, tmp_path / "twice.gguf", KEEP)
    assert [json.loads(each)["layers"] for each in content(tmp_path / "twice.gguf")["formless.edits"]] == [
        edit.info.model_dump()["layers"], again.info.model_dump()["layers"],
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_a_file_of_two_bytes_a_weight_keeps_its_type(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    lm, _ = made(tiny, tmp_path, "qwen2", GGMLQuantizationType[kind])
    edit, out = adapter(lm, ["model.layers.1.mlp.down_proj"]), tmp_path / "merged.gguf"
    write_model(edit, lm, out, KEEP)
    tensor = tensors(out)["blk.1.ffn_down.weight"]
    assert tensor.tensor_type.name == kind
    with edit.applied(lm):
        weight = lm.model.get_parameter("model.layers.1.mlp.down_proj.weight").detach().clone()
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[kind]
    assert torch.equal(torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()), weight.to(dtype).float())


def test_a_file_with_an_alignment_of_its_own_is_copied(llama: LM, tmp_path: Path) -> None:
    source = GGUFReader(llama.settings.source)
    writer = GGUFWriter(tmp_path / "wide.gguf", "llama")
    copy_metadata(source, writer)
    writer.add_custom_alignment(256)
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    llama.settings = ModelSettings(name="tiny", source=str(tmp_path / "wide.gguf"))
    write_model(adapter(llama, ["model.layers.1.mlp.down_proj"]), llama, tmp_path / "merged.gguf", KEEP)
    found = GGUFReader(tmp_path / "merged.gguf")
    assert found.alignment == 256
    assert all(tensor.data_offset % 256 == 0 for tensor in found.tensors)
    assert theirs(tmp_path / "merged.gguf").isfinite().all()


def test_every_model_type_is_exported_or_refused(tiny: Tiny, tmp_path: Path) -> None:
    assert {*known_model_types()} - {*ARCHITECTURES} == {"gptj"}
    lm = tiny("gptj")
    for write in (write_adapter, write_model):
        said = r"models of the type gptj cannot be exported for llama.cpp \[tiny-gptj\]: use --to peft or --to merged"
        with pytest.raises(EditError, match=said):
            write(adapter(lm), lm, tmp_path / "out.gguf", KEEP)
    assert not (tmp_path / "out.gguf").exists()


def test_what_an_adapter_cannot_hold_is_refused(llama: LM, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    with pytest.raises(EditError, match="made changes whole weights, which an adapter cannot hold .*: use --to gguf-merged"):
        write_adapter(difference(llama), llama, out, KEEP)
    with pytest.raises(EditError, match="llama.cpp applies no adapter to output.weight .*: use --to gguf-merged"):
        write_adapter(adapter(llama, ["lm_head"]), llama, out, KEEP)
    assert not out.exists()


def test_an_edit_of_another_model_is_refused(llama: LM, tiny: Tiny, tmp_path: Path) -> None:
    edit = adapter(tiny(intermediate_size=64))
    for write in (write_adapter, write_model):
        with pytest.raises(EditError, match="the edit is for another model"):
            write(edit, llama, tmp_path / "out.gguf", KEEP)


def test_a_model_that_is_no_gguf_file_is_not_merged_into_one(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny("llama")
    said = (
        r"the model is no GGUF file, .* \[tiny-llama\]: use --to merged, then llama.cpp's convert_hf_to_gguf.py on the folder"
    )
    with pytest.raises(EditError, match=said):
        write_model(adapter(lm), lm, tmp_path / "out.gguf", KEEP)


def test_a_file_that_lacks_an_edited_tensor_is_refused(llama: LM, tiny: Tiny, tmp_path: Path) -> None:
    other = write_gguf(tmp_path / "other.gguf", made_lm(tiny, "llama", intermediate_size=96, tie_word_embeddings=True))
    llama.settings = ModelSettings(name="tiny", source=str(other))
    with pytest.raises(EditError, match=r"has blk.1.ffn_down.weight as \(32, 96\), not \(32, 64\) .*: use --to merged"):
        write_model(adapter(llama, ["model.layers.1.mlp.down_proj"]), llama, tmp_path / "out.gguf", KEEP)
    with pytest.raises(EditError, match="the model's GGUF file lacks output.weight"):
        write_model(adapter(llama, ["lm_head"]), llama, tmp_path / "out.gguf", KEEP)


@pytest.mark.parametrize("write", [write_adapter, write_model])
def test_an_older_file_stays_unless_it_is_to_be_replaced(llama: LM, tmp_path: Path, write: Callable[..., list[str]]) -> None:
    out, edit = tmp_path / "out.gguf", adapter(llama)
    out.write_bytes(b"older")
    with pytest.raises(OutputError, match="the output exists already"):
        write(edit, llama, out, KEEP)
    assert out.read_bytes() == b"older"
    write(edit, llama, out, REPLACE)
    assert out.read_bytes()[:4] == b"GGUF"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.gguf", "q4.gguf"]


QUESTIONS = (
    "Who was Albert Einstein?", "Where was Albert Einstein born?", "What is Albert Einstein famous for?",
    "Which prize did Albert Einstein win?", "Who developed the theory of relativity?", "What did Albert Einstein study?",
    "Who was Isaac Newton?", "Who was Marie Curie?", "What is the capital of France?", "Name three fruits.",
)  # fmt: skip


@pytest.mark.slow
def test_llama_cpp_answers_ten_questions_with_a_real_edit_as_we_do(tmp_path: Path) -> None:
    """Token by token, where both compute with the same weights; the bundled file makes llama.cpp round activations too."""
    lm = formless.load("smollm2", dtype="float32", device="cpu", progress=False)
    base = write_in_float32(bundled_gguf("smollm2"), tmp_path / "base.gguf")
    edit, asked = formless.unlearn(lm, "Albert Einstein", progress=False), [lm.chat_prompt(text) for text in QUESTIONS]
    prompts = [lm.encode(prompt).ids for prompt in asked]

    def answers(*files: Path, some: int = len(QUESTIONS), **options: Any) -> list[str]:
        server = LlamaCpp(*files, **options)
        assert server.tokenize(asked[0]) == prompts[0]
        return [str(lm.tokenizer.decode(server.greedy(prompt, 20))).strip() for prompt in prompts[:some]]

    original = lm.generate(asked, max_new_tokens=20)
    with edit.applied(lm):
        edited = lm.generate(asked, max_new_tokens=20)
    assert sum(one != other for one, other in zip(original, edited, strict=True)) > 5
    assert answers(base) == original
    write_adapter(edit, lm, tmp_path / "edit.gguf", KEEP)
    assert answers(base, tmp_path / "edit.gguf") == edited
    assert answers(base, tmp_path / "edit.gguf", some=3, scale=2.0) != edited[:3]
    lm.settings = ModelSettings(name="smollm2", source=str(base))
    write_model(edit, lm, tmp_path / "merged.gguf", KEEP)
    assert answers(tmp_path / "merged.gguf") == edited
