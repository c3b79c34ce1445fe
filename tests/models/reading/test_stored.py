import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import formless
from formless.errors import ModelError
from formless.models.families import known_model_types
from formless.models.lm import LM
from formless.models.meta import load_meta, stored_fingerprint
from formless.models.reading.fingerprint import fingerprint
from formless.models.reading.stored import StoredTensor, spaced, stored_tensors, weight_files

Tiny = Callable[..., LM]


def saved(lm: LM, folder: Path, *, shards: str = "5GB") -> Path:
    lm.model.save_pretrained(folder, max_shard_size=shards)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model_type", known_model_types())
def test_the_files_tell_the_fingerprint_of_every_family(tiny: Tiny, tmp_path: Path, model_type: str) -> None:
    lm = tiny(model_type)
    folder = saved(lm, tmp_path)
    assert stored_fingerprint(load_meta(str(folder))) == lm.fingerprint


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_a_model_that_is_in_files_only_has_the_fingerprint_of_the_whole(tiny: Tiny, tmp_path: Path, model_type: str) -> None:
    lm = tiny(model_type, vocab_size=1024, dtype=torch.bfloat16)  # its embeddings are read value by value
    folder = saved(lm, tmp_path, shards="50KB")
    assert len(weight_files(folder)) > 2
    absent = AutoModelForCausalLM.from_pretrained(folder, device_map={"": "meta"})
    assert fingerprint(absent, folder) == lm.fingerprint
    assert fingerprint(absent) != lm.fingerprint


@pytest.mark.parametrize("tied", [True, False])
def test_offloaded_layers_do_not_change_the_fingerprint(tiny: Tiny, tmp_path: Path, tied: bool) -> None:
    lm = tiny(tie_word_embeddings=tied)
    folder = saved(lm, tmp_path / "model")
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "disk", "lm_head": "cpu"}
    places |= {f"model.layers.{i}": "cpu" if i < 2 else "disk" for i in range(4)}
    found = formless.load(str(folder), device_map=places, progress=False)
    assert any(parameter.is_meta for parameter in found.model.parameters())
    assert found.fingerprint == lm.fingerprint


def test_files_that_name_the_base_model_alone_are_found(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny("gpt2")
    folder = saved(lm, tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("transformer."): value for name, value in weights.items()}, folder / "model.safetensors")
    assert stored_fingerprint(load_meta(str(folder))) == lm.fingerprint


def test_other_safetensors_in_the_folder_are_not_read(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    folder = saved(lm, tmp_path)
    other = {name: value + 1 for name, value in load_file(folder / "model.safetensors").items()}
    save_file(other, folder / "z_other.safetensors")
    assert stored_fingerprint(load_meta(str(folder))) == lm.fingerprint


@pytest.mark.parametrize("shape", [(0,), (), (3,), (64,), (65,), (700, 100), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_sample_is_that_of_the_tensor_in_memory(tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.randn(shape).to(dtype)
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(5), "b": values}, path)
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    start = 8 + int.from_bytes(path.read_bytes()[:8], "little") + header["b"]["data_offsets"][0]
    assert torch.equal(StoredTensor(path, start, dtype, shape).sample(), spaced(values))


def test_a_broken_file_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    folder = saved(lm, tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    for broken in (content[:100], content[:-4], b"", (10**9).to_bytes(8, "little") + content[8:]):
        (folder / "model.safetensors").write_bytes(broken)
        with pytest.raises(ModelError, match="weights cannot be read"):
            stored_tensors(lm.model, folder)
    (folder / "model.safetensors").unlink()
    assert stored_tensors(lm.model, folder) == {}
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(ModelError, match="weights cannot be read"):
        stored_tensors(lm.model, folder)
