"""Edits of models that do not fit, on scaled-down files of the same kind."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import formless
from benchmarks.shapes import SHAPES
from formless.models.sources.bundled import bundled_model
from tools.large_edits import LAYERS, LLAMA_3_70B, MODELS, Measured, measure, write_model
from tools.results import FOLDER, load_results

LIMIT = 1.3
SMALL = SHAPES["Llama-3-8B"] | {
    "vocab_size": 49152, "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 24, "num_attention_heads": 16,
}  # fmt: skip
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the peak of one run is known on Linux only")


def written(folder: Path, shape: Mapping[str, Any]) -> Path:
    write_model(folder, shape, AutoTokenizer.from_pretrained(bundled_model()))
    return folder


@LINUX
@pytest.mark.slow
def test_an_edit_takes_little_more_than_the_layers_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**18))  # freed memory goes back, as that of large matrices does
    found = measure(written(tmp_path / "model", SMALL))
    assert found.whole > 2.5 * found.weights
    assert found.own_ratio < LIMIT
    assert 0 < found.residual_reduction <= 1


@LINUX
@pytest.mark.slow
def test_an_edit_of_a_model_of_eight_billion_parameters(tmp_path: Path) -> None:
    found = measure(written(tmp_path / "model", MODELS["Llama-3-8B"]))
    assert found.whole == 16_060_522_496
    assert found.ratio < LIMIT


def test_the_files_take_few_of_their_bytes_on_the_disk(tmp_path: Path, letters: PreTrainedTokenizerFast) -> None:
    folder = tmp_path / "model"
    write_model(folder, SMALL, letters)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == 25
    assert sum(path.stat().st_blocks * 512 for path in files) < 0.2 * sum(path.stat().st_size for path in files)
    lm = formless.load(str(folder), layers=LAYERS, dtype="bfloat16", device="cpu", progress=False)
    for parameter in lm.model.parameters():
        if not parameter.is_meta:
            assert bool((parameter == 1).all()) if parameter.ndim == 1 else bool(parameter.any())
    rows = lm.model.get_input_embeddings().weight[: len(letters)]
    assert len(torch.unique(rows, dim=0)) == len(letters)


def test_the_shape_of_the_largest_model() -> None:
    assert LLAMA_3_70B | {"vocab_size": 128256} == LLAMA_3_70B
    sizes = [LLAMA_3_70B[name] for name in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_key_value_heads")]
    assert sizes == [80, 8192, 28672, 8]


def test_the_ratios_are_of_the_peak() -> None:
    times = {"reading": 1.0, "loading": 2.0, "editing": 3.0, "fingerprint": 0.1}
    found = Measured(100, 1000, imports=20, loaded=115, peak=130, residual_reduction=1, **times)
    assert (found.ratio, found.own_ratio) == (1.3, 1.1)


def test_the_page_keeps_the_promise() -> None:
    page = load_results(FOLDER)["large_edits"]
    names = [column.name for column in page.columns]
    for row in page.rows:
        peak = row[names.index("peak of memory")]
        assert isinstance(peak, float)
        assert 1 < peak < LIMIT
