"""Say why many ROCR edits cost more than few: what the keys of names share, and what changes of the solve help.

    python -m tools.stacked_edits measure runs/stacked
    python -m tools.stacked_keys measure runs/stacked
    python -m tools.stacked_keys page runs/stacked

`measure` resumes. `page` writes docs/results/stacked_keys.json and stacked_repairs.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from formless.data.questions.mentions import bundled_names
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit
from formless.methods.direction.kept import GENERAL
from formless.methods.keys.closed_form import Identity, Projection
from formless.methods.keys.names import Names, folded
from formless.methods.keys.token_states import TokenStates
from formless.methods.registry import unlearn
from formless.methods.rocr.redirect import load_projections, redirect_together
from formless.models.lm import LM
from formless.models.loading import load
from tools.concept_counts import MODEL
from tools.direction_removal import DTYPE
from tools.known_items import stored
from tools.results import FOLDER, Cell, Column, Result, write_result
from tools.stacked_edits import JOINT, named, with_updates
from tools.stacked_effects import (
    CONFIG,
    COUNTS,
    EFFECTS,
    SETTINGS,
    Instruments,
    NameStates,
    adapter,
    asked,
    development,
    effect_cells,
    in_words,
    known,
    measured_with,
    neighbors,
)

REPAIRED, SHARED = 50, 16
"""The number of concepts that the repairs are tried on, and how many directions of other names one of them takes out."""


@dataclass(frozen=True)
class Without:
    """A projection that also takes some directions out.

    Args:
        inner: The projection.
        basis: Orthonormal directions inside its range `[directions, d]`.
    """

    inner: Projection
    basis: Tensor

    def apply(self, keys: Tensor) -> Tensor:
        """Compute the projected keys `[n, d]`."""
        projected = self.inner.apply(keys)
        return projected - (projected @ self.basis.T) @ self.basis

    def describe(self) -> dict[str, Any]:
        """Return how many directions are taken out."""
        return self.inner.describe() | {"taken_out": len(self.basis)}


def geometry(keys: Tensor, others: Mapping[str, Tensor], projection: Projection, l2: float, before: int) -> dict[str, Any]:
    """Return what the projected keys of edited names share with one another and with other keys.

    Args:
        keys: Of the edited names, in the order of the edits `[n, d]`.
        others: Keys that are in no edit, by what they are of, each `[m, d]`.
        projection: P.
        l2: Regularisation of the solve.
        before: How many of the keys were there at the last smaller count.

    Returns:
        `inside`: the share of squared norm that P leaves. `cosine`, `largest_cosine`: between different projected keys.
        `rank`: the keys' numerical rank; `effective_rank`: the exponential of the entropy of their squared singular values.
        `condition`: of K P K^T + l2 I. `new_in_span`: the share of the new projected keys' squared norm in the span of the keys
        before each; `others_in_span`: that of the other keys in the span of all. `pull`: the sum of the weights with which the
        closed form gives an unedited key the edited keys' residuals; 1 is a whole one.
    """
    every, projected = keys.double(), projection.apply(keys).double()
    unit = projected / projected.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T)[torch.triu_indices(len(unit), len(unit), 1).unbind()]
    shares = torch.linalg.svdvals(projected).square()
    shares = shares / shares.sum()
    gram = every @ projected.T + l2 * torch.eye(len(every), dtype=torch.double)
    weights = torch.linalg.solve(gram, projected)  # [n, d]
    found = {
        "inside": _share(projected, every), "rank": int(torch.linalg.matrix_rank(unit)),
        "effective_rank": float(torch.exp(-torch.special.xlogy(shares, shares).sum())),
        "cosine": float(cosines.mean()) if len(unit) > 1 else None,
        "largest_cosine": float(cosines.max()) if len(unit) > 1 else None,
        "condition": float(torch.linalg.cond(gram)),
        "new_in_span": mean([_in_span(unit[:place], unit[place : place + 1]) for place in range(before, len(unit))]),
    }  # fmt: skip
    for name, other in others.items():
        own = projection.apply(other).double()
        found |= {
            f"{name}_inside": _share(own, other.double()), f"{name}_in_span": _in_span(unit, own),
            f"{name}_pull": float((own @ weights.T).sum(1).mean()),
        }  # fmt: skip
    return found


def _share(projected: Tensor, keys: Tensor) -> float:
    return float((projected.square().sum(1) / keys.square().sum(1)).mean())


def _in_span(span: Tensor, keys: Tensor) -> float:
    """Return the mean share of the keys' squared norm `[m, d]` in the span of others `[n, d]`."""
    if not len(span):
        return 0.0
    basis = torch.linalg.qr(span.T)[0]
    return _share(keys @ basis, keys)


def reference(lm: LM, edited: Sequence[str]) -> NameStates:
    """Return the well-known names of the package that are neither edited nor neighbors of the concepts with known items."""
    left_out = {folded(name) for name in (*edited, *neighbors(development(), ()))}
    return NameStates(lm, [name for name in bundled_names() if folded(name) not in left_out], CONFIG.layers, most=1)


def measure_keys(lm: LM, out: Path, given: Instruments) -> None:
    """Compute the geometry of the keys at every layer and count, with and without the null space."""
    texts = TokenStates(lm, [prompt for prompt, _ in given.trivia], CONFIG.layers, [question for question, _ in GENERAL])
    projections = load_projections(lm, CONFIG)
    first = CONFIG.layers[0]
    ends = len(given.trivia)

    def compute(layer: int) -> dict[str, Any]:
        keys, tokens = given.edited.keys(layer), texts.read(layer, first)[0]
        others = {"neighbors": given.neighbors.keys(layer), "cues": tokens[:ends], "texts": tokens[ends:]}
        return {
            f"{kind}-{count}": geometry(keys[:count], others, projection, CONFIG.l2, before)
            for kind, projection in (("null", projections[layer]), ("all", Identity()))
            for before, count in zip((0, *COUNTS), COUNTS, strict=False)
        } | {"dimensions": projections[layer].describe()["rank"], "of": keys.shape[1]}

    for layer in CONFIG.layers:
        stored(out / f"keys-{layer}.json", partial(compute, layer))


def directions(states: NameStates, projections: Mapping[int, Projection], count: int) -> dict[int, Projection]:
    """Return the projections without the directions that projected keys of some names share most, the mean first of all."""
    found: dict[int, Projection] = {}
    for layer, projection in projections.items():
        projected = projection.apply(states.keys(layer))
        basis = torch.linalg.svd(projected / projected.norm(dim=1, keepdim=True), full_matrices=False)[2]
        found[layer] = Without(projection, basis[:count])
    return found


def repairs(lm: LM, edited: Sequence[str]) -> dict[str, Callable[[], AdapterEdit]]:
    """Return the joint edits of `REPAIRED` concepts that are compared, by name."""
    targets = [Target(name) for name in edited[:REPAIRED]]
    spelled = [Names(target.subject, (target.subject,)) for target in targets]
    projections = load_projections(lm, CONFIG)

    @cache
    def one() -> AdapterEdit:  # its description alone is needed
        return adapter(unlearn(lm, targets[:1], progress=False, **SETTINGS))

    def plain(**settings: Any) -> AdapterEdit:
        return adapter(unlearn(lm, targets, progress=False, **(dict(SETTINGS) | settings)))

    def solved(preserved: Mapping[int, Projection], protected: Sequence[str] = ()) -> AdapterEdit:
        names = {name: (name,) for name in protected}
        found = redirect_together(lm, spelled, CONFIG, dict(preserved), protected=names)
        return with_updates(lm, one(), named(lm, found.factors))

    own = NameStates(lm, edited[:REPAIRED], CONFIG.layers)
    others = reference(lm, edited)
    return {
        "at half strength": lambda: plain().scaled(0.5),
        f"without {SHARED} directions of other names": lambda: solved(directions(others, projections, SHARED)),
        f"{len(others.names)} other names kept in place": lambda: solved(projections, others.names),
        "without the first direction of other names": lambda: solved(directions(others, projections, 1)),
        "λ = 10": lambda: plain(l2=10.0),
        "no null space": lambda: plain(basis="none"),
        "a redirect for each concept": lambda: plain(redirect="auto"),
        "no null space, layers 1 to 6": lambda: plain(basis="none", layers=(1, 2, 3, 4, 5, 6)),
        "λ = 100": lambda: plain(l2=100.0),
        "without the keys' own first direction": lambda: solved(directions(own, projections, 1)),
    }  # fmt: skip


def measure_repairs(lm: LM, out: Path, given: Instruments) -> None:
    """Compute and measure the edits that are compared."""

    def effects(name: str, compute: Callable[[], AdapterEdit]) -> dict[str, Any]:
        return {"name": name} | given.effects(lm, compute(), REPAIRED)

    for number, (name, compute) in enumerate(repairs(lm, given.edited.names).items()):
        stored(out / f"repair-{number:02}.json", partial(effects, name, compute))


KEYS = {
    "inside": "names inside", "texts_inside": "texts inside", "cosine": "mean cosine", "largest_cosine": "largest cosine",
    "effective_rank": "effective rank", "rank": "rank", "condition": "condition", "new_in_span": "new keys in the span",
    "neighbors_in_span": "neighbors' keys in the span", "texts_in_span": "texts' keys in the span",
    "neighbors_pull": "pull on neighbors", "cues_pull": "pull on cues", "texts_pull": "pull on texts",
}  # fmt: skip
"""The columns of the geometry, by what `geometry` calls them."""

SHARES = {name for name in KEYS if name.endswith(("inside", "span", "pull"))}


def keys_page(out: Path) -> Result:
    """Return the page of the geometry: a row for each layer, projection and number of keys."""
    rows: list[list[Cell]] = []
    for layer in CONFIG.layers:
        found = json.loads((out / f"keys-{layer}.json").read_text("utf-8"))
        for kind, dimensions in (("null", found["dimensions"]), ("all", found["of"])):
            for count in COUNTS:
                one = found[f"{kind}-{count}"]
                cells = [round(100 * one[name], 2) if name in SHARES else _rounded(one[name]) for name in KEYS]
                rows.append([layer, "null space" if kind == "null" else "whole space", dimensions, count, *cells])
    formats = {"condition": ",.0f", "rank": "d", "effective_rank": ".1f", "cosine": ".2f", "largest_cosine": ".2f"}
    columns = [
        Column(name=title, unit="%", format=".1f" if name.endswith("pull") else ".0f")
        if name in SHARES else Column(name=title, format=formats[name])
        for name, title in KEYS.items()
    ]  # fmt: skip
    return Result(
        title="What the keys of many ROCR edits share", topic="Forgetting and retention",
        about="How much of their projected keys names share with one another, with other names and with other text.",
        n=f"{COUNTS[-1]} names of people, the neighbors of four of them that are in no edit, {MODEL} in {DTYPE}",
        command=COMMANDS, rows=rows, notes=KEY_NOTES,
        columns=[Column(name="layer"), Column(name="keys in"), Column(name="dimensions"), Column(name="names"), *columns],
        **measured_with(),
    )  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else round(value, 3)


def repairs_page(out: Path) -> Result:
    """Return the page of what was tried against the cost to others: a row for each edit."""
    items, before = known(out), json.loads((out / "before.json").read_text("utf-8"))
    paths = [out / f"{JOINT}-{REPAIRED}-effects.json", *sorted(out.glob("repair-*.json"))]
    found = [{"name": "as published"} | json.loads(path.read_text("utf-8")) for path in paths]
    cells = [effect_cells(one, items, before, REPAIRED) for one in found]
    return Result(
        title=f"What helps an edit of {REPAIRED} concepts", topic="Forgetting and retention",
        about=f"One ROCR edit of {REPAIRED} concepts, and changes of its solve against what it costs others.",
        n=in_words(items), command=COMMANDS, notes=REPAIR_NOTES,
        columns=[Column(name="edit"), *EFFECTS, Column(name="update / weight", unit="%", format=".0f")],
        rows=[[one["name"], *own, round(100 * max(one["norms"]), 1)] for one, own in zip(found, cells, strict=True)],
        **measured_with(),
    )  # fmt: skip


COMMANDS = [
    "python -m tools.stacked_edits measure runs/stacked",
    *(f"python -m tools.stacked_keys {each} runs/stacked" for each in ("measure", "page")),
]
KEY_NOTES = [
    "Keys are those of the original model, the mean over each name's chat contexts. `Inside` is the share of squared norm that "
    "the projection leaves; the cosine is between different projected keys; the effective rank is the exponential of the "
    "entropy of their squared singular values; the condition number is that of K P Kᵀ + λ I, which the closed form inverts.",
    "`In the span` is the share of a projected key's squared norm in the span of others: of each new key in that of the keys "
    "before it, of a key that is in no edit in that of all. Random keys have the number of names over the dimensions.",
    "`Pull` is the sum of the weights with which the closed form gives the edited names' residuals to a key that is in no "
    "edit. If all residuals were alike, 100 % would move that key as far as an edited one. Cues are the last tokens of general "
    "questions; texts are all tokens of plain questions.",
    "**The null space has room.** The projected keys of a hundred names keep full rank, their mean cosine stays near zero, and "
    "the solve stays well conditioned. **What grows is the pull on other names.** Less than twice as much of their keys lies "
    "in the span as of random ones, but many small weights add up, and with one redirect all residuals lead to the same value. "
    "Plain text is pulled little inside the null space, and several times as much without it; cues are pulled either way.",
]
REPAIR_NOTES = [
    "`Edited concepts` are the three development concepts among the fifty; `not edited yet` is the fourth. The columns are "
    "those of [many edits](stacked_edits.md).",
    "Directions of other names are the first right singular vectors of the projected keys of well-known names of the package, "
    "which are neither edited nor neighbors of the development concepts. They are taken out of the null space before the "
    "solve. Kept in place are the same names, with residual zero.",
]


def main() -> None:
    """Measure, or write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("measure", "page"))
    parser.add_argument("out", type=Path, help="folder of what was measured")
    given = parser.parse_args()
    if given.command == "page":
        write_result(FOLDER / "stacked_keys.json", keys_page(given.out))
        write_result(FOLDER / "stacked_repairs.json", repairs_page(given.out))
        return
    lm = load(MODEL, dtype=DTYPE)
    instruments = asked(lm, given.out)
    measure_keys(lm, given.out, instruments)
    measure_repairs(lm, given.out, instruments)


if __name__ == "__main__":
    main()
