"""GGUF files: each is the model that it was written from, or is refused in one line."""

from __future__ import annotations

import math
import os
import re
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest
import torch
from gguf import GGMLQuantizationType

import formless
from formless import store
from formless.errors import ModelError, UnknownNameError
from formless.experiment.grid import model_digest
from formless.models.lm import LM
from formless.models.meta import load_meta
from formless.models.settings import find_model
from formless.models.sources import conversion, gguf_models
from formless.models.sources.gguf_header import ARCHITECTURES, read_header
from tests.models.made_gguf import F32, Q4_0, Q8_0, expected_tokenizer, made_lm, pieces, vocabulary, write_gguf

Tiny = Callable[..., LM]
MODEL_TYPES = {"gemma3": "gemma3_text"}
IDS = torch.tensor([[7, 30, 99, 200, 3, 150, 257, 12]])
TEXT = "Ada wrote to the court, naïvely."


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tiny: Tiny, tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", made_lm(tiny, "llama"))


@torch.no_grad()
def logits(lm: LM) -> torch.Tensor:
    return lm.model(input_ids=IDS).logits


def converted(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("gguf-*"))


def refusal(file: Path, kind: type[ModelError] | type[UnknownNameError] = ModelError) -> str:
    with pytest.raises(kind) as caught:
        formless.load(str(file), device="cpu", progress=False)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    return str(caught.value)


CASES = [(name, F32) for name in ARCHITECTURES] + [("llama", Q8_0), ("qwen2", Q8_0), ("llama", Q4_0), ("qwen2", Q4_0)]


@pytest.mark.parametrize(("architecture", "kind"), CASES, ids=lambda value: str(getattr(value, "name", value)))
def test_a_file_is_the_model_that_it_was_written_from(
    tiny: Tiny, tmp_path: Path, architecture: str, kind: GGMLQuantizationType
) -> None:
    lm = made_lm(tiny, MODEL_TYPES.get(architecture, architecture), kind)
    file = write_gguf(tmp_path / "tiny.gguf", lm, kind)
    lm.model.save_pretrained(tmp_path / "folder")
    lm.tokenizer.save_pretrained(tmp_path / "folder")
    plain = formless.load(str(tmp_path / "folder"), device="cpu", progress=False)
    loaded = formless.load(str(file), device="cpu", progress=False)
    torch.testing.assert_close(logits(loaded), logits(plain), rtol=1e-4, atol=1e-5)
    assert loaded.model.config.model_type == plain.model.config.model_type
    if not architecture.startswith("gemma"):  # Gemma's tokenizers are sentencepiece's
        assert loaded.tokenizer(TEXT)["input_ids"] == expected_tokenizer()(TEXT)["input_ids"]
    assert loaded.chat_prompt("Hello") == plain.chat_prompt("Hello") == "[user]Hello[assistant]"


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma2", "gemma3"])
def test_sentencepiece_tokenizers_are_read(tiny: Tiny, tmp_path: Path, architecture: str) -> None:
    lm = made_lm(tiny, MODEL_TYPES.get(architecture, architecture), vocab_size=len(pieces()))
    file = write_gguf(tmp_path / "tiny.gguf", lm, tokenizer="llama")
    tokenizer = formless.load(str(file), device="cpu", progress=False).tokenizer
    words = tokenizer.convert_ids_to_tokens(tokenizer("c abc ab")["input_ids"])
    prefix = [] if architecture.startswith("gemma") else ["▁"]
    assert words == ["<s>", *prefix, "c", "▁ab", "c", "▁ab"]
    assert tokenizer.decode(tokenizer("c abc é")["input_ids"], skip_special_tokens=True) == "c abc é"


@pytest.mark.parametrize(("kind", "bos", "expected"), [
    ("gpt2", None, False), ("gpt2", True, True), ("llama", None, True), ("llama", False, False), ("llama", True, True),
])  # fmt: skip
def test_texts_begin_with_bos_if_the_file_says_so(
    tiny: Tiny, tmp_path: Path, kind: str, bos: bool | None, expected: bool
) -> None:
    lm = made_lm(tiny, "llama", vocab_size=len(pieces() if kind == "llama" else vocabulary()))
    file = write_gguf(tmp_path / "tiny.gguf", lm, tokenizer=kind, bos=bos)
    tokenizer = formless.load(str(file), device="cpu", progress=False).tokenizer
    assert (tokenizer("ab")["input_ids"][0] == tokenizer.bos_token_id) is expected


def test_it_loads_in_the_asked_dtype_with_one_fingerprint(file: Path) -> None:
    whole, half = (formless.load(str(file), dtype=name, device="cpu", progress=False) for name in ("float32", "bfloat16"))
    assert (whole.model.dtype, half.model.dtype) == (torch.float32, torch.bfloat16)
    assert whole.fingerprint == half.fingerprint
    torch.testing.assert_close(logits(half).float(), logits(whole), rtol=0.1, atol=0.05)


def test_it_is_converted_once_and_says_first_what_that_needs(file: Path, cache: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    formless.load(str(file), device="cpu", progress=lambda *step: steps.append(step))
    assert steps[0][0].startswith("0 M weights are converted to float32, once: 0.1 GB of disk, 0.5 GB of memory, about 20 s")
    tensors = len(read_header(file).sizes)
    assert [step for step in steps if step[0] == "converting"] == [("converting", n, tensors) for n in range(tensors)]
    assert [step[0] for step in steps[-3:]] == ["writing", "computing hashes", "done"]
    (name,) = converted(cache)
    assert (cache / name) == store.converted_gguf_folder(store.file_sha256(file))
    lm = formless.load(str(file), device="cpu", progress=lambda *_: pytest.fail("it is converted again"))
    edit = formless.unlearn(lm, "Ada", "rocr", redirect="Bob", layers=[1, 2], basis="none")
    assert edit.info.model_source == lm.model.config._name_or_path == str(file)
    assert load_meta(str(file)).architecture.name == "llama"


def test_a_changed_file_is_never_taken_for_the_old_one(tiny: Tiny, file: Path, cache: Path) -> None:
    before, times = formless.load(str(file), device="cpu", progress=False), file.stat()
    digest = model_digest(find_model(str(file)), None)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1  # in the last weight
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = formless.load(str(file), device="cpu", progress=False)
    assert len(converted(cache)) == 2
    assert not torch.equal(logits(before), logits(after))
    assert model_digest(find_model(str(file)), None) != digest


def test_a_damaged_conversion_is_done_again(file: Path, cache: Path) -> None:
    before = logits(formless.load(str(file), device="cpu", progress=False))
    (folder,) = cache.glob("gguf-*")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.warns(UserWarning, match="cached model tiny.gguf is not as it was written, and is built again: the content of"):
        after = formless.load(str(file), device="cpu", progress=False)
    assert torch.equal(before, logits(after))
    (folder / "files.json").unlink()
    with pytest.warns(UserWarning, match="it has no list of its files"):
        formless.load(str(file), device="cpu", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        formless.load(str(file), device="cpu", progress=False)


def test_what_lies_beside_the_file_is_not_read(tiny: Tiny, file: Path) -> None:
    for name in ("tokenizer.json", "config.json", "tokenizer_config.json", "generation_config.json"):
        (file.parent / name).write_text("broken")
    assert formless.load(str(file), device="cpu", progress=False).tokenizer(TEXT)["input_ids"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"template": None}, "the GGUF file has no chat template .*: use the file of an instruct model, or add"),
        ({"tokenizer": None}, "the GGUF file has no tokenizer .*: use a file with a tokenizer of the kind gpt2 or llama"),
        ({"metadata": {"split.count": 3}}, "one of 3 parts of a GGUF file .*: put its parts together"),
        ({"metadata": {"rope.scaling.type": "yarn"}}, "would leave out rope.scaling.type = 'yarn'"),
        ({"metadata": {"expert_count": 8}}, "would leave out expert_count = 8 of the GGUF file"),
        ({"metadata": {"rope.dimension_count": 4}}, "transformers would take attention.key_length for 4, where .* has 8"),
        ({"metadata": {"attention.sliding_window": 64}}, "take attention.sliding_window for None, where the GGUF file has 64"),
        ({"change": lambda tensors: tensors.pop("blk.2.ffn_up.weight")}, r"header: 1 missing \(blk.2.ffn_up.weight\)"),
        (
            {"change": lambda tensors: tensors.update({"rope_factors_long.weight": numpy.ones(4, numpy.float32)})},
            r"header: 1 unexpected \(rope_factors_long.weight\) .*: download the file again, or load the unquantized model",
        ),
        (
            {"change": lambda tensors: tensors.update({"rope_freqs.weight": numpy.full(4, 2, numpy.float32)})},
            r"scales RoPE \(rope_freqs.weight\) in another way than Llama 3 .*: load the unquantized model",
        ),
        (
            {"change": lambda tensors: tensors.update({"output_norm.weight": numpy.ones(64, numpy.float32)})},
            r"header: 1 of another shape \(output_norm.weight: \[64\], not \[32\]\)",
        ),
        (
            {"change": lambda tensors: tensors["blk.1.ffn_gate.weight"].fill(numpy.nan)},
            "the weight model.layers.1.mlp.gate_proj.weight holds NaN or infinity",
        ),
    ],
)
def test_what_would_be_another_model_is_refused(
    tiny: Tiny, tmp_path: Path, cache: Path, options: dict[str, Any], said: str
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", made_lm(tiny, "llama"), **options)
    assert re.search(said, refusal(file))
    assert converted(cache) == []


def test_an_unknown_architecture_is_named(tiny: Tiny, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", made_lm(tiny, "qwen2"), architecture="qwen4")
    said = "unknown GGUF architecture 'qwen4' [{}]: did you mean qwen3 or qwen2?; load the unquantized model"
    assert refusal(file, UnknownNameError).startswith(said.format(file))


def test_a_sliding_window_is_kept(tiny: Tiny, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", made_lm(tiny, "phi3"), metadata={"attention.sliding_window": 64})
    assert formless.load(str(file), device="cpu", progress=False).model.config.sliding_window == 64


def test_the_scaled_rope_of_llama_3_is_kept(tiny: Tiny, tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    lm = made_lm(tiny, "llama", rope_parameters=rope | {"original_max_position_embeddings": 8192}, head_dim=16)
    # By hand: wavelengths 2 pi 500000^(i/8) are 6, 32, 167, 862 (under 8192/4: kept), 4443 (between), 22911 and more (divided).
    smooth = (8192 / (2 * math.pi * 500000 ** (4 / 8)) - 1) / (4 - 1)
    factors = numpy.array([1, 1, 1, 1, 1 / ((1 - smooth) / 32 + smooth), 32, 32, 32], numpy.float32)
    file = write_gguf(
        tmp_path / "tiny.gguf",
        lm,
        metadata={"rope.dimension_count": 16},
        change=lambda tensors: tensors.update({"rope_freqs.weight": factors}),
    )
    loaded = formless.load(str(file), device="cpu", progress=False)
    assert loaded.model.config.rope_parameters["factor"] == 32
    ids = torch.arange(400)[None] % 250
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, lm.model(ids).logits, rtol=1e-4, atol=1e-5)


def rewrite_type(file: Path, tensor: bytes, number: int) -> None:
    """Change the quantization type that the header states for a tensor."""
    content = bytearray(file.read_bytes())
    place = content.index(tensor) + len(tensor)
    (dimensions,) = struct.unpack_from("<I", content, place)
    struct.pack_into("<I", content, place + 4 + 8 * dimensions, number)
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("number", "said"),
    [(999, "the GGUF file has the unknown quantization type 999"), (24, "weights of the type I8 cannot be turned into floats")],
)
def test_unknown_quantization_types_are_named(file: Path, number: int, said: str) -> None:
    rewrite_type(file, b"blk.0.ffn_up.weight", number)
    assert refusal(file) == f"{said} [{file}]: use a file of another quantization, e.g. Q4_K_M or Q8_0"


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(file: Path, share: float, cache: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: max(4, int(share * len(content)))])
    assert refusal(file).startswith(f"the GGUF file is cut off or damaged [{file}]: download it again")
    assert converted(cache) == []


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04", b"\x80\x02."])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("model.gguf", "model.bin"):
        (tmp_path / name).write_bytes(content)
        assert refusal(tmp_path / name).startswith(f"this is no GGUF file [{tmp_path / name}]: give --model a GGUF file")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in (tmp_path / "none.gguf", Path("folder/none.gguf")):
        assert refusal(name) == f"there is no such file [{name}]: correct the path"


def test_too_little_disk_or_memory_is_said_before_the_conversion(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "convert", lambda *_, **__: pytest.fail("it is converted"))
    monkeypatch.setattr(gguf_models, "convert", conversion.convert)
    with monkeypatch.context() as patch:
        patch.setattr(store, "free_space", lambda path: 10**6)
        assert "the model needs 0.1 GB of disk, and 0.0 GB are free in" in refusal(file)
    full = psutil.virtual_memory()._replace(available=10**6)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: full)
    assert "the conversion needs 0.5 GB of memory, and 0.0 GB are free" in refusal(file)
    assert converted(cache) == []


def test_a_file_that_changes_meanwhile_is_not_kept(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = conversion.convert

    def convert(*arguments: Any, **options: Any) -> None:
        plain(*arguments, **options)
        os.utime(file, ns=(0, 0))

    monkeypatch.setattr(gguf_models, "convert", convert)
    assert "the file changed while it was read" in refusal(file)
    assert converted(cache) == []


def test_a_cache_that_cannot_be_written_is_named(file: Path, cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.raises(ModelError, match="the model cannot be kept"):
        formless.load(str(file), device="cpu", progress=False)


def test_a_file_without_its_ending_works(file: Path) -> None:
    shutil.move(file, file.with_name("weights"))
    assert formless.load(str(file.with_name("weights")), device="cpu", progress=False).architecture.name == "llama"
