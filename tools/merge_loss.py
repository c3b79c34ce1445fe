"""Write how much of an edit's forgetting is left once it is merged into weights of fewer bits.

    python -m tools.merge_loss

It writes docs/results/merge_loss.json, from the small model in a few minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import date
from functools import partial
from typing import Any

import torch

import formless
from formless import provenance
from formless.data.ort import find_target
from formless.data.target import Target
from formless.evaluation.record import Record
from formless.experiment.attacks.quantization import quantized
from formless.models.lm import LM
from formless.report.ratios import FORGETTING, forgetting_key, ratios
from tools.results import FOLDER, Cell, Column, Result, write_result

MODEL, TARGETS = "smollm2", ("Albert Einstein", "Isaac Newton")
TASKS, LIMIT = {"statement": "statements", "fb": "blanks", "qa": "questions"}, 24


@contextmanager
def bfloat16(lm: LM) -> Iterator[None]:
    """Round all weights to bfloat16; afterwards the very same tensors are back."""
    originals = {name: parameter.data for name, parameter in lm.model.named_parameters()}
    try:
        for parameter in lm.model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16).to(parameter.dtype)
        yield
    finally:
        for name, parameter in lm.model.named_parameters():
            parameter.data = originals[name]


STORED: Mapping[str, Callable[[LM], AbstractContextManager[Any]]] = {
    "float32": lambda _lm: nullcontext(),
    "bfloat16": bfloat16,
    "8 bits (Q8_0)": partial(quantized, scheme="Q8_0"),
    "4 bits (Q4_0)": partial(quantized, scheme="Q4_0"),
}
"""How the merged weights are stored."""


def measure(lm: LM, target: Target) -> dict[str, tuple[Record, Record]]:
    """Return the records of the original and of the edited model, both stored alike, by how they are stored."""
    edit = formless.unlearn(lm, target)
    ask = partial(formless.evaluate, lm, target, ",".join(TASKS), limit=LIMIT)
    found = {}
    for name, stored in STORED.items():
        with stored(lm):
            original = ask()
        with edit.applied(lm), stored(lm):
            found[name] = original, ask()
    return found


def rows(subject: str, records: Mapping[str, tuple[Record, Record]]) -> Iterator[list[Cell]]:
    """Yield the forgetting by form, its mean, and the share of the mean that is left."""
    metrics = {name: ratios(*pair).metrics() for name, pair in records.items()}
    named = {f"forgotten of {title}": forgetting_key(task) for task, title in TASKS.items()} | {"forgotten, mean": FORGETTING}
    for title, key in named.items():
        yield [subject, title, *(_percent(metrics[name].get(key)) for name in STORED)]
    whole = metrics["float32"].get(FORGETTING)
    left = [metrics[name].get(FORGETTING) for name in STORED]
    yield [subject, "forgetting left", *(_percent(one / whole) if one is not None and whole else None for one in left)]


def page(records: Mapping[str, Mapping[str, tuple[Record, Record]]]) -> Result:
    """Return the results page."""
    change = {"unit": "%", "format": ".1f"}
    return Result(
        title="What merging loses", topic="Robustness",
        about="How much of an edit's forgetting is left once it is merged into weights that are rounded to fewer bits.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{len(records)} concepts of the sample set, {MODEL}, at most {LIMIT} items of each kind; no confidence interval "
        "over so few concepts",
        command="python -m tools.merge_loss",
        columns=[Column(name="concept"), Column(name="measured"), *(Column(name=name, **change) for name in STORED)],
        rows=[row for subject, found in records.items() for row in rows(subject, found)],
        notes=[
            "The edit is that of concept direction removal with its defaults. Forgetting is 1 - edited/original over what the "
            "original model knows. Both models are stored alike, so that what rounding alone loses is no forgetting.",
            "All weights are rounded to bfloat16. To 8 and 4 bits, the projections of the decoder layers are, as llama.cpp "
            "does it; llama.cpp rounds the embeddings too. The bundled model was quantized to 4 bits before, in another way.",
            "More edits and attacks in 4 bits are in [edits under attack](attacks.md).",
        ],
    )  # fmt: skip


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 1)


def main() -> None:
    """Measure, and write the page."""
    lm = formless.load(MODEL, dtype="float32", device="cpu", progress=False)
    write_result(FOLDER / "merge_loss.json", page({name: measure(lm, find_target("sample", name)) for name in TARGETS}))


if __name__ == "__main__":
    main()
