"""Compare the null spaces of texts that a model samples with those of a corpus, and two halves of the corpus with each other.

    python -m tools.null_space_angles --rwku RWKU/Target --out runs/angles

It resumes: a second moment that lies in the folder is not computed again. It writes docs/results/null_space_angles.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

import formless
from formless import provenance, store
from formless.cli import terminal
from formless.data.corpus import corpus_texts
from formless.methods.rocr.nullspace import PUBLISHED_THRESHOLD
from formless.methods.rocr.sampled import SAMPLES
from formless.methods.rocr.statistics import CHUNK, SecondMoments
from formless.models.lm import LM
from formless.models.sampled_texts import OPENINGS, SampledTexts
from tools.results import FOLDER, Cell, Column, Result, write_result

MODEL, DTYPE, LAYERS = "smollm2", "bfloat16", (4, 5, 6)
HALVES = {"corpus, first half": (1, 3, 10, 14), "corpus, second half": (2, 4, 12, 18)}
"""The numbers of RWKU's targets in each half."""

SIZES = (SAMPLES // 4, SAMPLES // 2, SAMPLES)
OTHER = "sampled, other seed"
MAX_TOKENS = 1024
COLUMNS = [
    Column(name="layer"),
    Column(name="null space of"),
    Column(name="tokens", format=",d"),
    Column(name="dimensions"),
    Column(name="overlap with the first half", unit="%", format=".1f"),
    Column(name="with the second half", unit="%", format=".1f"),
    Column(name="median angle to the first half", unit="°", format=".0f"),
    Column(name="leak: first half", unit="%", format=".2f"),
    Column(name="leak: second half", unit="%", format=".2f"),
    Column(name="leak: sampled, other seed", unit="%", format=".2f"),
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
    """The eigenvectors of a second moment on both sides of the threshold.

    Args:
        null: `[d, dimension of the null space]`.
        kept: `[d, the rest]`.
    """

    null: Tensor
    kept: Tensor


def split(moment: Tensor, threshold: float = PUBLISHED_THRESHOLD) -> Split:
    """Return the null space of a second moment `[d, d]` and its complement."""
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


def rows(moments: dict[str, Moment]) -> list[list[Cell]]:
    """Return one row for each layer and null space."""
    found: list[list[Cell]] = []
    first, second = HALVES
    for layer in LAYERS:
        splits = {name: split(moment.by_layer[layer]) for name, moment in moments.items() if name != OTHER}
        for name, own in splits.items():
            angles = {half: cosines(own.kept, splits[half].kept) for half in HALVES}
            overlaps = [None if name == half else round(100 * float(angles[half].square().mean()), 1) for half in HALVES]
            median = None if name == first else round(float(angles[first].median().arccos().rad2deg()))
            leaks = [round(100 * leak(own.null, moments[texts].by_layer[layer]), 2) for texts in (first, second, OTHER)]
            found.append([layer, name, moments[name].tokens, own.null.shape[1], *overlaps, median, *leaks])
    return found


def measured(rwku: Path, out: Path) -> dict[str, Moment]:
    """Return the second moments of every corpus by name; compute those that do not lie in `out`."""
    lm = formless.load(MODEL, dtype=DTYPE, device="cpu")
    found: dict[str, Moment] = {}
    for name, targets in HALVES.items():
        texts = chain.from_iterable(corpus_texts(str(rwku), pattern=f"{number}_*/passage.json") for number in targets)
        found |= _computed(lm, out, name, texts, [None])
    found |= _computed(lm, out, "sampled", SampledTexts(lm), SIZES)
    found |= _computed(lm, out, OTHER, SampledTexts(lm, seed=1), [SIZES[0]])
    return found


def _computed(lm: LM, out: Path, name: str, texts: Iterator[str], sizes: Sequence[int | None]) -> dict[str, Moment]:
    """Return the moment of a corpus, or those of its first texts for each of several sizes."""
    moments = SecondMoments(lm, LAYERS, {})
    found = {}
    for size in sizes:
        label = name if len(sizes) < 2 else f"{name}, {size} texts"
        path = out / f"{label.replace(', ', '_').replace(' ', '_')}.safetensors"
        if not path.exists():
            while (size is None or moments.texts < size) and (chunk := list(islice(texts, CHUNK))):
                moments.add(chunk, MAX_TOKENS)
                terminal.log.print(f"{label}: {moments.texts} texts, {moments.tokens} tokens")
            means = {str(layer): moments.mean(layer) for layer in LAYERS}
            store.write_tensors(path, means, {"tokens": str(moments.tokens)})
        tensors, metadata = store.read_tensors(path)
        found[label] = Moment({layer: tensors[str(layer)] for layer in LAYERS}, int(metadata["tokens"]))
    return found


def result(moments: dict[str, Moment]) -> Result:
    """Return the results page."""
    halves = " and ".join(", ".join(map(str, targets)) for targets in HALVES.values())
    width = moments[OTHER].by_layer[LAYERS[0]].shape[0]
    return Result(
        title="Null spaces of sampled texts beside those of a corpus", topic="Data",
        about="How much of what a corpus preserves is preserved by texts that `smollm2` samples itself.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"8 RWKU targets' passages in two halves (targets {halves}); {SAMPLES} sampled texts",
        command="python -m tools.null_space_angles --rwku RWKU/Target --out runs/angles", columns=COLUMNS, rows=rows(moments),
        notes=[
            "The reference corpus is RWKU's Wikipedia passages about people, not the Wikipedia sample of the paper. The two "
            "halves are the yardstick: what another corpus of the same kind gives.",
            f"Overlap: the mean squared cosine of the principal angles between the preserved subspaces, the complements of the "
            f"null spaces, each of {width} dimensions less its null space. Angle 0 is a direction that both preserve.",
            "Leak: the share of the energy of a corpus's keys that lies in the null space, where an edit may change what the "
            "layer does. A corpus's leak into its own null space is what the threshold leaves; the others are held out.",
            f"The model in {DTYPE}, threshold {PUBLISHED_THRESHOLD:g}. This model has no BOS token, so its texts begin with "
            f"one of {len(OPENINGS)} openings.",
        ],
    )  # fmt: skip


def main() -> None:
    """Compute what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rwku", type=Path, required=True, help="the folder of RWKU's targets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the second moments")
    given = parser.parse_args()
    write_result(FOLDER / "null_space_angles.json", result(measured(given.rwku, given.out)))


if __name__ == "__main__":
    main()
