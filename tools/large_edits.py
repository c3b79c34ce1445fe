"""Measure edits of models that do not fit into memory, from files of their shape with random weights.

    python -m tools.large_edits --out runs/large Llama-3-8B Llama-3-70B
    python -m tools.large_edits --out runs/large --page

The files are sparse: of each matrix the first rows hold random numbers and the others are holes, which read as 0, so that a
model of 141 GB takes few of them on the disk. The largest model needs 18 GB of free memory. The first command writes what it
measures into its folder and removes the files of the weights; the second writes docs/results/large_edits.json.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.shapes import SHAPES
from formless import provenance
from formless.models.sources.bundled import bundled_model
from tools.results import FOLDER, Cell, Column, Result, write_result

LLAMA_3_70B = SHAPES["Llama-3-8B"] | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
}  # fmt: skip
MODELS: Mapping[str, dict[str, Any]] = {"Llama-3-8B": SHAPES["Llama-3-8B"], "Llama-3-70B": LLAMA_3_70B}
LAYERS = 7
"""The layers that ROCR with its default settings needs."""

FILLED = 16
"""One row in so many of each matrix is random."""

MEASURE = """
import json, sys, time
from pathlib import Path
import formless
from formless.experiment.run import Peak
from formless.methods.rocr.config import RocrConfig
from formless.methods.rocr.method import Rocr
from formless.models.meta import load_meta, stored_fingerprint
from formless.models.reading.partial import tensors_to_read
from formless.models.settings import find_model
folder, layers = sys.argv[1], int(sys.argv[2])
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
meta = load_meta(folder, dtype="bfloat16")
settings = {"layers": (layers - 3, layers - 2, layers - 1), "basis": "none", "redirect": "Charles Dickens"}
assert RocrConfig(**settings).needed_layers() == layers
tensors = tensors_to_read(meta.model, meta.architecture, layers, Path(folder))
start = time.perf_counter()
for tensor in tensors.values():
    for _ in tensor.pieces():
        pass
reading, start = time.perf_counter() - start, time.perf_counter()
mark = stored_fingerprint(meta)
fingerprint, imports, peak = time.perf_counter() - start, resident(), Peak()
start = time.perf_counter()
lm = formless.load(folder, dtype="bfloat16", device="cpu", layers=layers, progress=False)
loading, loaded = time.perf_counter() - start, peak.read().resident
assert (lm.fingerprint, lm.loaded_layers) == (mark, layers)
start = time.perf_counter()
edit = formless.unlearn(lm, "Albert Einstein", "rocr", progress=False, **settings)
editing = time.perf_counter() - start
print(json.dumps({
    "weights": sum(one.nbytes for one in lm.model.parameters() if not one.is_meta),
    "whole": sum(one.nbytes for one in lm.model.parameters()),
    "imports": imports, "loaded": loaded, "peak": peak.read().resident,
    "reading": reading, "loading": loading, "editing": editing, "fingerprint": fingerprint,
    "residual_reduction": edit.info.facts["residual_reduction"],
}))
"""


@dataclass(frozen=True)
class Measured:
    """What one edit takes.

    Args:
        weights: Bytes of the embeddings, the final norm and the first layers, in the model's dtype.
        whole: Bytes of the whole model.
        imports: Resident memory before the model is loaded, with all packages imported.
        loaded: Peak of resident memory until the layers are read.
        peak: The same until the edit is computed.
        reading: Seconds for the bytes of these layers alone, read from the same files.
        loading: Seconds until the layers are read, with tokenizer, checks and fingerprint.
        editing: Seconds for the edit.
        fingerprint: Seconds for the fingerprint.
        residual_reduction: What the edit reports.
    """

    weights: int
    whole: int
    imports: int
    loaded: int
    peak: int
    reading: float
    loading: float
    editing: float
    fingerprint: float
    residual_reduction: float

    @property
    def ratio(self) -> float:
        """The peak, with everything that is imported, over the weights."""
        return self.peak / self.weights

    @property
    def own_ratio(self) -> float:
        """The same without what is resident before the model is loaded."""
        return (self.peak - self.imports) / self.weights


def measure(folder: Path, layers: int = LAYERS) -> Measured:
    """Load the first layers of a model and edit the last three of them, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", MEASURE, str(folder), str(layers)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Measured(**json.loads(done.stdout))


def write_model(folder: Path, shape: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a model in bfloat16 as safetensors, one file for each layer and one for the rest, with holes for most weights.

    Norms are 1. Of every matrix in the first layers some rows are random; of the embeddings, those of the tokenizer.
    """
    config = AutoConfig.for_model(**{"tie_word_embeddings": False} | dict(shape), dtype="bfloat16")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    config.architectures = [type(model).__name__]
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    parts: dict[int, dict[str, torch.Size]] = {}
    for name, parameter in model.named_parameters():
        pieces = name.split(".layers.")
        parts.setdefault(int(pieces[1].split(".")[0]) + 1 if len(pieces) > 1 else 0, {})[name] = parameter.shape
    weight_map: dict[str, str] = {}
    for number, shapes in parts.items():
        file = f"model-{number + 1:05}-of-{len(parts):05}.safetensors"
        weight_map |= dict.fromkeys(shapes, file)
        _write_file(folder / file, shapes, len(tokenizer), is_filled=number <= LAYERS)
    index = {"metadata": {"total_size": sum(one.nbytes for one in model.parameters())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


def _write_file(path: Path, shapes: Mapping[str, torch.Size], tokens: int, *, is_filled: bool) -> None:
    starts, place = {}, 0
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, shape in shapes.items():
        starts[name], place = place, place + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [starts[name], place]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        start = file.tell()
        file.truncate(start + place)
        for name, shape in shapes.items():
            file.seek(start + starts[name])
            if len(shape) == 1:
                file.write(torch.ones(shape, dtype=torch.bfloat16).view(torch.uint8).numpy().data)
            elif is_filled and "lm_head" not in name:
                rows = tokens if "embed" in name else max(1, shape[0] // FILLED)
                for block in _random(rows * shape[1], seed=len(name) + shape[0]):
                    file.write(block.view(torch.uint8).numpy().data)


def _random(count: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield so many random numbers: one block again and again, of no size that a row divides."""
    torch.manual_seed(seed)
    block = (0.02 * torch.randn(2**22 + 1)).bfloat16()
    for first in range(0, count, len(block)):
        yield block[: count - first]


def page(out: Path) -> Result:
    """Return the page of what was measured."""
    paths = {name: out / f"{name}.json" for name in MODELS}
    found = {name: Measured(**json.loads(path.read_text("utf-8"))) for name, path in paths.items() if path.exists()}
    columns = [
        Column(name="model"), Column(name="weights that are read", unit="% of the model", format=".1f"),
        Column(name="peak of memory", unit="times these weights", format=".2f"),
        Column(name="without libraries", unit="times these weights", format=".2f"),
        Column(name="loading", unit="times reading the bytes", format=".1f"),
        Column(name="edit", unit="times reading the bytes", format=".1f"),
        Column(name="fingerprint", unit="times reading the bytes", format=".2f"),
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            f"{name}, bfloat16", round(100 * one.weights / one.whole, 1), round(one.ratio, 2), round(one.own_ratio, 2),
            round(one.loading / one.reading, 1), round(one.editing / one.reading, 1), round(one.fingerprint / one.reading, 2),
        ]
        for name, one in found.items()
    ]  # fmt: skip
    return Result(
        title="Edits of models that do not fit into memory",
        topic="Speed and memory",
        about="ROCR with its default layers on models of real shapes: the embeddings and the first seven layers are read, and "
        "nothing else.",
        date=date.today(),
        versions={name: version for name, version in provenance.versions().items() if name in ("torch", "transformers")},
        hardware="2 CPU cores, one of them used, others busy",
        n="one process per row",
        command=[line.strip() for line in (__doc__ or "").splitlines() if line.startswith("    python")],
        columns=columns,
        rows=rows,
        notes=[
            "The weights are random and most of them 0, in sparse files; the memory and the operations are those of real ones. "
            "Such files are read from memory, not from a disk: on a disk, loading takes as long as the disk needs.",
            "The peak is the process's resident memory (VmHWM), with Python, PyTorch and transformers; no weight lies in a "
            "mapped file, so the process's own memory is nearly all of it. The next column leaves out what is resident before "
            "the model is loaded.",
            "The edit preserves nothing (`basis=none`). Null spaces come on top: those of `formless stats` take up to half of "
            "a square matrix of the MLP's width for each edited layer.",
        ],
    )  # fmt: skip


def main() -> None:
    """Measure the named models, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[[], *MODELS], help="which shapes to measure")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is measured")
    parser.add_argument("--page", action="store_true", help="write the page from what is there")
    given = parser.parse_args()
    for name in given.models:
        folder = given.out / name
        try:
            write_model(folder, MODELS[name], AutoTokenizer.from_pretrained(bundled_model()))
            (given.out / f"{name}.json").write_text(json.dumps(asdict(measure(folder)), indent=2), "utf-8")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if given.page:
        write_result(FOLDER / "large_edits.json", page(given.out))


if __name__ == "__main__":
    main()
