"""Compare the null spaces of texts that a model samples with those of a corpus, and two halves of the corpus with each other.

    python -m tools.null_space_angles --rwku RWKU/Target --out runs/angles

It makes the null spaces of `basis=sampled` if they are not kept yet. It resumes: a second moment that lies in the folder is not
computed again. It writes docs/results/null_space_angles.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain, islice
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

import formless
from formless import provenance, store
from formless.cli import terminal
from formless.data.corpus import corpus_texts
from formless.methods.rocr.nullspace import PUBLISHED_THRESHOLD
from formless.methods.rocr.sampled import sampled_projections
from formless.methods.rocr.statistics import CHUNK, SecondMoments
from formless.models.lm import LM
from formless.models.sampled_texts import OPENINGS
from tools.results import FOLDER, Cell, Column, Result, write_result

MODEL, DTYPE, LAYERS, WIDTH = "smollm2", "bfloat16", (4, 5, 6), 1536
HALVES = {"corpus, first half": (1, 3, 10, 14), "corpus, second half": (2, 4, 12, 18)}
"""The numbers of RWKU's targets in each half."""

MAX_TOKENS = 1024
COLUMNS = [
    Column(name="layer"),
    Column(name="null space of"),
    Column(name="tokens", format=",d"),
    Column(name="dimensions"),
    Column(name="overlap with the first half", unit="%", format=".1f"),
    Column(name="with the second half", unit="%", format=".1f"),
    Column(name="by chance", unit="%", format=".1f"),
    Column(name="median angle to the first half", unit="°", format=".0f"),
    Column(name="leak of the first half", unit="%", format=".2f"),
    Column(name="leak of the second half", unit="%", format=".2f"),
]


@dataclass(frozen=True)
class Moment:
    """The second moments of a corpus.

    Args:
        by_layer: `[d, d]` for each layer, float64.
        tokens: Number of tokens.
    """

    by_layer: dict[int, Tensor]
    tokens: int


@dataclass(frozen=True)
class Split:
    """Orthonormal bases of a null space and of what it preserves.

    Args:
        null: `[d, dimension of the null space]`.
        kept: `[d, the rest]`.
    """

    null: Tensor
    kept: Tensor


def split(moment: Tensor, threshold: float) -> Split:
    """Return the eigenvectors of a symmetric matrix `[d, d]` under a threshold, and the others."""
    values, vectors = torch.linalg.eigh(moment)
    is_null = values < threshold
    return Split(vectors[:, is_null], vectors[:, ~is_null])


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """Return the cosines of the principal angles between two orthonormal bases `[d, n]` and `[d, m]`, the largest first."""
    found: Tensor = torch.linalg.svdvals(one.T @ other)
    return found.clamp(max=1)


def leak(null: Tensor, moment: Tensor) -> float:
    """Return the share of the energy of keys with a second moment `[d, d]` that lies in a null space."""
    return float((null.T @ moment @ null).trace() / moment.trace())


def rows(halves: dict[str, Moment], sampled: dict[int, Split], tokens: int) -> list[list[Cell]]:
    """Return one row for each layer and null space.

    Args:
        halves: The moments of the two halves of the corpus.
        sampled: The null space of the sampled texts by layer.
        tokens: Number of tokens of the sampled texts.
    """
    found: list[list[Cell]] = []
    first, second = halves
    for layer in LAYERS:
        own = {name: split(moment.by_layer[layer], PUBLISHED_THRESHOLD) for name, moment in halves.items()}
        for name, space in (own | {"sampled": sampled[layer]}).items():
            angles = {half: cosines(space.kept, own[half].kept) for half in halves}
            overlaps = [None if name == half else round(100 * float(angles[half].square().mean()), 1) for half in halves]
            chance = max(space.kept.shape[1], own[second if name == first else first].kept.shape[1]) / len(space.kept)
            median = None if name == first else round(float(angles[first].median().arccos().rad2deg()))
            leaks = [round(100 * leak(space.null, halves[half].by_layer[layer]), 2) for half in halves]
            count = halves[name].tokens if name in halves else tokens
            found.append([layer, name, count, space.null.shape[1], *overlaps, round(100 * chance, 1), median, *leaks])
    return found


def mean_leaks(found: Sequence[Sequence[Any]]) -> str:
    """Return a note with the mean leaks over layers and halves, from the rows of the page."""
    pairs = [
        (row[1] == half, row[1] == "sampled", leaked) for row in found for half, leaked in zip(HALVES, row[-2:], strict=True)
    ]
    own, other, sampled = (
        mean(leaked for is_own, is_sampled, leaked in pairs if (is_own, is_sampled) == wanted)
        for wanted in ((True, False), (False, False), (False, True))
    )
    shares = [100 * row[3] / WIDTH for row in found]
    return (
        f"Mean leak over layers and halves: {own:.0f} % into a half's own null space, {other:.0f} % into that of the other "
        f"half, {sampled:.0f} % into that of the sampled texts. Into random subspaces of these sizes it would be "
        f"{min(shares):.0f} to {max(shares):.0f} %, their share of the {WIDTH:,} dimensions."
    )


def corpus_moment(lm: LM, rwku: Path, name: str, out: Path) -> Moment:
    """Return the moments of one half of the corpus; compute them if they do not lie in `out`."""
    path = out / f"{name.replace(', ', '_').replace(' ', '_')}.safetensors"
    if not path.exists():
        texts = chain.from_iterable(corpus_texts(str(rwku), pattern=f"{number}_*/passage.json") for number in HALVES[name])
        moments = SecondMoments(lm, LAYERS, {})
        while chunk := list(islice(texts, CHUNK)):
            moments.add(chunk, MAX_TOKENS)
            terminal.log.print(f"{name}: {moments.texts} texts, {moments.tokens} tokens")
        store.write_tensors(path, {str(layer): moments.mean(layer) for layer in LAYERS}, {"tokens": str(moments.tokens)})
    tensors, metadata = store.read_tensors(path)
    return Moment({layer: tensors[str(layer)] for layer in LAYERS}, int(metadata["tokens"]))


def sampled_spaces(lm: LM, out: Path) -> tuple[dict[int, Split], int, list[str]]:
    """Return the null spaces of sampled texts, the number of their tokens, and a note about their cost if it was measured."""
    cost, said, start = out / "cost.json", [], time.perf_counter()

    def report(step: str, *_: int) -> None:
        said.append(step)
        terminal.log.print(step)

    found = sampled_projections(lm, LAYERS, PUBLISHED_THRESHOLD, report)
    if said:
        store.write_text(cost, json.dumps({"said": said[0], "seconds": round(time.perf_counter() - start)}))
    spaces = {}
    for layer, projection in found.items():
        width = int(projection.describe()["dimension"])
        spaces[layer] = split(torch.eye(width).double() - projection.apply(torch.eye(width).double()), 0.5)
    notes = []
    if cost.exists():
        measured = json.loads(cost.read_text("utf-8"))
        took = measured["said"].partition(", once")[0]
        notes.append(f"The first use said: {took}. It took {measured['seconds']} s, on one core of a machine with other work.")
    return spaces, int(found[LAYERS[0]].describe()["tokens"]), notes


def main() -> None:
    """Compute what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rwku", type=Path, required=True, help="the folder of RWKU's targets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the second moments")
    given = parser.parse_args()
    lm = formless.load(MODEL, dtype=DTYPE, device="cpu")
    halves = {name: corpus_moment(lm, given.rwku, name, given.out) for name in HALVES}
    spaces, tokens, notes = sampled_spaces(lm, given.out)
    found = rows(halves, spaces, tokens)
    targets = " and ".join(", ".join(map(str, numbers)) for numbers in HALVES.values())
    page = Result(
        title="Null spaces of sampled texts beside those of a corpus", topic="Data",
        about="How much of what a corpus preserves is preserved by texts that `smollm2` samples itself.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"8 RWKU targets' passages in two halves (targets {targets}); the sampled texts of `basis=sampled`",
        command="python -m tools.null_space_angles --rwku RWKU/Target --out runs/angles", columns=COLUMNS,
        rows=found,
        notes=[
            "The reference corpus is RWKU's Wikipedia passages about people, not the Wikipedia sample of the paper. The two "
            "halves are the yardstick: what another corpus of the same kind gives.",
            "Overlap: the mean squared cosine of the principal angles between the preserved subspaces, the complements of the "
            "null spaces; by chance: that of random subspaces of these sizes (with the second half in the first row).",
            "Leak: the share of the energy of a corpus's keys that lies in the null space, where an edit may change what the "
            "layer does. A corpus's leak into its own null space is what the threshold leaves; the others are held out.",
            mean_leaks(found),
            f"The model in {DTYPE}, threshold {PUBLISHED_THRESHOLD:g}. The model's tokenizer adds no BOS token, so the "
            f"texts begin with one of {len(OPENINGS)} openings.",
            *notes,
        ],
    )  # fmt: skip
    write_result(FOLDER / "null_space_angles.json", page)


if __name__ == "__main__":
    main()
