"""What other tools load is the model with the edits applied."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import formless
from formless.edits.adapter import AdapterEdit
from formless.edits.difference import DifferenceEdit
from formless.edits.export import diff, merged, peft
from formless.edits.export.registry import EXPORTS
from formless.edits.export.stacking import needs_model, stacked
from formless.edits.export.target import ExportOptions
from formless.errors import EditError, OutputError, UnknownNameError
from formless.models.lm import LM
from tests.edits.export.conftest import edit_of, logits

OPTIONS = ExportOptions()


def test_stacked_edits_are_one_adapter_with_the_logits_of_all(base: LM, tmp_path: Path) -> None:
    ada, eve = edit_of(base, "Ada", (1, 2)), edit_of(base, "Eve", (2, 3))
    both = stacked([ada, eve])
    peft.write(both, None, tmp_path / "both", OPTIONS)
    with ada.applied(base), eve.applied(base):
        expected = logits(base.model, base)
    assert (expected - logits(base.model, base)).abs().max() > 1e-3
    loaded = formless.load_edit(tmp_path / "both")
    with loaded.applied(base):
        assert torch.allclose(logits(base.model, base), expected, atol=1e-5)
    assert loaded.info.subjects == ["Ada", "Eve"]
    assert [part["subject"] for part in loaded.info.facts["edits"]] == ["Ada", "Eve"]
    config = json.loads((tmp_path / "both" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 2  # the shared layer has a rank of each
    assert sorted(config["target_modules"]) == [f"model.layers.{layer}.mlp.down_proj" for layer in (1, 2, 3)]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    assert torch.allclose(logits(PeftModel.from_pretrained(plain, tmp_path / "both"), base), expected, atol=1e-4)


def test_the_norms_of_a_stack_are_those_of_its_updates(base: LM) -> None:
    ada = edit_of(base)
    twice = stacked([ada, ada])
    for one, two in zip(ada.info.layers, twice.info.layers, strict=True):
        assert two.update_norm == pytest.approx(2 * one.update_norm, rel=1e-4)
        assert two.relative_norm == pytest.approx(2 * one.relative_norm, rel=1e-4)


def test_stacks_of_whole_weights_need_the_model_and_add_up(base: LM) -> None:
    ada, eve = edit_of(base, "Ada"), edit_of(base, "Eve")
    whole = diff.as_differences(eve, base)
    assert not needs_model([whole])
    assert needs_model([ada, whole])
    with pytest.raises(EditError, match="put together on their model"):
        stacked([ada, whole])
    both = stacked([ada, whole], base)
    with ada.applied(base), eve.applied(base):
        expected = logits(base.model, base)
    with both.applied(base):
        assert torch.allclose(logits(base.model, base), expected, atol=1e-5)


def test_edits_of_two_models_are_not_stacked(base: LM, tiny: Callable[..., LM]) -> None:
    with pytest.raises(EditError, match=r"for different models \[.*base.*tiny-llama"):
        stacked([edit_of(base), edit_of(tiny(seed=1))])


def test_transformers_serve_gives_the_logits_of_the_edit(base: LM, tmp_path: Path) -> None:
    """The server loads a folder that holds the base model's files and the adapter's."""
    from transformers.cli.serving.model_manager import ModelManager

    edit = edit_of(base)
    peft.write(edit, None, tmp_path / "edit", OPTIONS)
    (tmp_path / "served").mkdir()
    for path in (*(tmp_path / "base").iterdir(), *(tmp_path / "edit").iterdir()):
        (tmp_path / "served" / path.name).symlink_to(path)
    manager = ModelManager(device="cpu", dtype="float32", force_model=str(tmp_path / "served"))
    try:
        served, _ = manager.load_model_and_processor(str(tmp_path / "served"))
        with edit.applied(base):
            assert torch.allclose(logits(served, base), logits(base.model, base), atol=1e-4)
        assert not torch.allclose(logits(served, base), logits(base.model, base), atol=1e-3)
    finally:
        manager.shutdown()


@pytest.mark.slow
def test_transformers_serve_answers_as_the_edited_model(base: LM, tmp_path: Path) -> None:
    from transformers.cli.serve import Serve

    edit, prompt = edit_of(base).scaled(4), "[user]Tell me about Ada.[assistant]Answer:"
    plain = base.generate([prompt], max_new_tokens=12)[0]
    with edit.applied(base):
        expected = base.generate([prompt], max_new_tokens=12)[0]
    assert expected != plain
    edit.save(tmp_path / "edit")
    for path in (tmp_path / "edit").iterdir():
        shutil.copy(path, tmp_path / "base")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served = str(tmp_path / "base")
    server = Serve(force_model=served, device="cpu", dtype="float32", host="127.0.0.1", port=port, non_blocking=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            for _ in range(100):
                with contextlib.suppress(httpx.ConnectError):
                    if client.get("/health").is_success:
                        break
                time.sleep(0.1)
            asked = {"model": served, "prompt": prompt, "max_tokens": 12, "temperature": 0}
            answer = client.post("/v1/completions", json=asked)
    finally:
        server.kill_server()
    assert answer.json()["choices"][0]["text"].strip() == expected


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_differences_are_an_edit_with_the_same_logits(tiny: Callable[..., LM], tmp_path: Path, model_type: str) -> None:
    lm = tiny(model_type)
    edit = edit_of(lm)
    diff.write(edit, lm, tmp_path / "diff", OPTIONS)
    loaded = formless.load_edit(tmp_path / "diff")
    assert isinstance(loaded, DifferenceEdit)
    assert loaded.info.method == "rocr"
    with edit.applied(lm):
        expected = logits(lm.model, lm)
    with loaded.applied(lm):
        assert torch.allclose(logits(lm.model, lm), expected, atol=1e-6)


def test_a_merged_model_has_the_files_and_dtypes_of_the_original(base: LM, tmp_path: Path) -> None:
    edit = edit_of(base)
    notes = merged.write(edit, base, tmp_path / "merged", OPTIONS)
    before, after = tmp_path / "base", tmp_path / "merged"
    names = {path.name for path in before.iterdir()}
    assert len([name for name in names if name.endswith(".safetensors")]) > 1
    assert {path.name for path in after.iterdir()} == names | {"edit.json", "README.md"}
    changed = set()
    for path in before.glob("*.safetensors"):
        old, new = load_file(path), load_file(after / path.name)
        assert old.keys() == new.keys()
        assert {tensor.dtype for tensor in new.values()} == {torch.bfloat16}
        changed |= {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {f"{name}.weight" for name in edit.updates}
    with edit.applied(base):
        expected = logits(base.model, base)
    model = AutoModelForCausalLM.from_pretrained(after, dtype="auto")
    assert model.dtype == torch.bfloat16
    rounded = logits(model.float(), base)
    assert torch.allclose(rounded, expected, atol=1e-2)
    assert (rounded - expected).abs().max() < (logits(base.model, base) - expected).abs().max() / 2
    assert AutoTokenizer.from_pretrained(after).get_vocab() == base.tokenizer.get_vocab()
    assert notes[0].startswith("Merged in bfloat16: rounding moves the weights by ")
    assert all(note in (after / "README.md").read_text() for note in notes)


@pytest.mark.parametrize("model_type", ["gpt2", "gptj", "gpt_neox", "phi3", "gemma2", "gemma3"])
def test_every_family_is_merged(tiny: Callable[..., LM], tmp_path: Path, model_type: str) -> None:
    made = tiny(model_type)
    made.model.save_pretrained(tmp_path / "base")
    made.tokenizer.save_pretrained(tmp_path / "base")
    lm = formless.load(str(tmp_path / "base"), device="cpu")
    edit = edit_of(lm)
    merged.write(edit, lm, tmp_path / "merged", OPTIONS)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    plain = logits(lm.model, lm)
    with edit.applied(lm):
        assert torch.allclose(logits(model, lm), logits(lm.model, lm), atol=1e-5)
        assert (logits(lm.model, lm) - plain).abs().max() > 1e-3
    assert {path.name for path in (tmp_path / "merged").iterdir()} >= {path.name for path in (tmp_path / "base").iterdir()}


def test_what_rounding_loses_is_a_share_of_the_edit() -> None:
    rounding = merged.Rounding()
    rounding.add("w", torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor([4.0, 5.0]))
    assert str(rounding) == "Merged in float32: rounding moves the weights by 20 % of the norm of the edit."
    with pytest.raises(EditError, match=r"a weight is not finite in torch.float16 \[w\]"):
        rounding.add("w", torch.ones(1), torch.ones(1), torch.tensor([torch.inf], dtype=torch.float16))


def test_what_quantization_takes_is_what_was_measured() -> None:
    page = json.loads((Path(__file__).parents[3] / "docs" / "results" / "attacks.json").read_text("utf-8"))
    (row,) = [row for row in page["rows"] if row[:2] == ["4 bits (Q4_0)", "forgetting left"]]
    left = [value for value in row[3:] if value is not None]
    assert f"{len(left)} edits" in merged.QUANTIZED.replace("Four", "4")
    assert f"kept {min(left):.0f} to {max(left):.0f} % of" in merged.QUANTIZED
    assert "2 concepts" in page["n"]


def test_a_model_without_files_is_merged_in_the_dtype_of_its_configuration(tiny: Callable[..., LM], tmp_path: Path) -> None:
    lm = tiny("gpt2")  # its output matrix is tied to the embedding
    lm.model.config.dtype = torch.bfloat16
    edit = edit_of(lm)
    merged.write(edit, lm, tmp_path / "merged", OPTIONS)
    assert lm.model.dtype == torch.float32
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert model.dtype == torch.bfloat16
    with edit.applied(lm):
        assert torch.allclose(logits(model.float(), lm), logits(lm.model, lm), atol=1e-2)


def test_a_merged_model_is_an_edit_again(base: LM, tmp_path: Path, tiny: Callable[..., LM]) -> None:
    edit = edit_of(base).scaled(0.5)
    merged.write(edit, base, tmp_path / "merged", OPTIONS)
    again = formless.load_edit(tmp_path / "merged")
    assert again.info.method == "rocr"
    assert again.info.strength == 0.5
    with edit.applied(base):
        expected = logits(base.model, base)
    with again.applied(base):
        assert base.edits[0]["strength"] == 0.5
        assert torch.allclose(logits(base.model, base), expected, atol=1e-2)
    plain = logits(base.model, base)
    with again.scaled(2).applied(base):
        assert base.edits[0].get("strength", 1) == 1
        assert (logits(base.model, base) - plain).abs().max() > 1.5 * (expected - plain).abs().max()
    with pytest.raises(EditError, match="for another model"), again.applied(tiny(seed=1)):
        pass


@pytest.mark.parametrize("name", ["peft", "merged", "diff"])
def test_an_output_that_exists_is_kept(base: LM, tmp_path: Path, name: str) -> None:
    edit = edit_of(base)
    EXPORTS[name].write(edit, base, tmp_path / "out", OPTIONS)
    with pytest.raises(OutputError, match="exists already"):
        EXPORTS[name].write(edit, base, tmp_path / "out", OPTIONS)
    EXPORTS[name].write(edit, base, tmp_path / "out", ExportOptions(force=True))


@pytest.mark.parametrize("name", ["merged", "diff"])
def test_an_edit_for_another_model_is_refused(base: LM, tiny: Callable[..., LM], tmp_path: Path, name: str) -> None:
    with pytest.raises(EditError, match="for another model"):
        EXPORTS[name].write(edit_of(tiny(seed=1)), base, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_a_model_with_an_edit_on_it_is_not_merged(base: LM, tmp_path: Path) -> None:
    ada, eve = edit_of(base, "Ada"), edit_of(base, "Eve")
    with ada.applied(base), pytest.raises(EditError, match="the model has an edit on it"):
        merged.write(eve, base, tmp_path / "out", OPTIONS)


def test_whole_weights_are_no_adapter(base: LM, tmp_path: Path) -> None:
    with pytest.raises(EditError, match=r"changes whole weights.*use --to merged or --to diff"):
        peft.write(diff.as_differences(edit_of(base), base), None, tmp_path / "out", OPTIONS)


def test_an_unknown_target_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown export target 'merge': did you mean merged"):
        EXPORTS.get_known("merge")


def test_an_adapter_of_a_model_given_by_a_relative_path_loads_from_anywhere(
    base: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lm = formless.load("base", device="cpu")
    edit = edit_of(lm)
    edit.save("edit")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.move(tmp_path / "edit", "edit")
    model = AutoModelForCausalLM.from_pretrained("edit", dtype=torch.float32)  # reads the base model that the adapter names
    with edit.applied(lm):
        assert torch.allclose(logits(model, lm), logits(lm.model, lm), atol=1e-4)
    assert isinstance(formless.load_edit("edit"), AdapterEdit)
    assert base.fingerprint == lm.fingerprint
