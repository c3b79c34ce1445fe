"""The models and dtypes of which the share of the limit is measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import formless
from formless import store
from formless.models.lm import LM
from formless.models.sources.bundled import BUNDLED_MODELS

SIZES = {"smollm2": "135M", "qwen2.5-coder-1.5b": "1.5B"}
DTYPES = ("float32", "bfloat16")


def first_model() -> LM:
    """The model that the plain ways are run with too."""
    return formless.load("smollm2", dtype=DTYPES[0], device="cpu")


def other_models() -> Iterator[LM]:
    """The other dtype and the larger model, one at a time; what is not on this machine is left out with a word."""
    for name in SIZES:
        if not store.cached_files_path(BUNDLED_MODELS[name].folder).is_file():
            print(f"{name} is not on this machine: its rows are left out", file=sys.stderr)
            continue
        for dtype in DTYPES[name == "smollm2" :]:
            yield formless.load(name, dtype=dtype, device="cpu", progress=False)


def part_of(counts: dict[str, int], lm: LM) -> dict[str, int]:
    """Return how many rows of each task are measured: of the larger model a quarter, as it takes ten times as long."""
    return counts if lm.name == "smollm2" else {name: max(count // 4, 1) for name, count in counts.items()}


def label(lm: LM) -> str:
    """The model and its dtype, for a row."""
    return f"{SIZES[lm.name]}, {str(lm.model.dtype).removeprefix('torch.')}"
