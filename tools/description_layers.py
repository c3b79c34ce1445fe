"""Write at which layer and token a model resolves a description, by patching the residual stream.

    python -m tools.description_layers measure smollm2 runs/layers
    python -m tools.description_layers page smollm2 runs/layers

`measure` resumes; the last one writes docs/results/description_layers_smollm2.json; `coder` is the larger model. The same
question is asked about another concept, and the output of one layer at one token is replaced by that of the right question.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from formless import provenance
from formless.data.ort import find_target
from formless.data.rows import Aliases, Mention, MentionItem
from formless.data.target import Target
from formless.evaluation.foils import Foils
from formless.evaluation.task import ScoreAnswer, Source
from formless.evaluation.tasks.question import ask_question
from formless.models.cache import expanded, prefix_cache
from formless.models.lm import LM
from formless.models.loading import load
from formless.models.scores import Score, Skipped
from tools.known_items import DEVELOPMENT, MODELS, stored
from tools.results import FOLDER, Cell, Column, Result, write_result

STEP = 3
"""Of how many layers one is patched, the last of each group."""

MENTIONS: tuple[Mention, ...] = ("full name", "description")
Place = Literal["mention", "prompt"]
PLACES: Mapping[Place, str] = {"mention": "its last token", "prompt": "last token of the prompt"}
LEAST = 1.0
"""Nats by which the other concept must lower the answer's log-probability for an item to count."""

States = Mapping[int, Tensor]
"""By layer, its output at one token, `[hidden]`."""


def known_rows(lm: LM, target: Target) -> list[MentionItem]:
    """Return the questions with the full name or a description that the model knows, in file order."""
    foils = Foils(target)
    rows = [row for row in target.rows("forget_mentions", MentionItem) if row.type == "question" and row.mention in MENTIONS]
    queries = [ask_question(lm, row, Source("forget_mentions", "forget", foils, target)) for row in rows]
    asked = [[cast(ScoreAnswer, one) for one in (*query.requests, *query.foils)] for query in queries]
    scores = iter(lm.score([(one.prompt, one.answer) for own in asked for one in own]))
    known = []
    for row, own in zip(rows, asked, strict=True):
        right, *others = (one.probability for one in (next(scores) for _ in own) if isinstance(one, Score))
        if others and right > max(others):
            known.append(row)
    return known


def renamed(row: MentionItem, other: Aliases) -> MentionItem:
    """Return a question about another concept, named in the same way."""
    named = other.name if row.mention == "full name" else other.descriptions[0]
    if row.named[:1].isupper() and row.mention == "description":
        named = named[:1].upper() + named[1:]
    return row.model_copy(update={"query": row.query.replace(row.named, named), "named": named})


def place_of(lm: LM, prompt: str, row: MentionItem, place: Place) -> int | None:
    """Return the index of the token at a place; None where the token goes on after it."""
    text = prompt if place == "prompt" else prompt[: prompt.rindex(row.named) + len(row.named)]
    ids = lm.encode(text).ids
    return len(ids) - 1 if lm.encode(prompt).ids[: len(ids)] == ids else None


@torch.no_grad()
def patched_scores(lm: LM, prompt: str, answer: str, place: int, states: States) -> list[float]:
    """Score an answer with the output of one layer replaced at one token, then without a change.

    Args:
        lm: The model.
        prompt: The prompt.
        answer: The answer.
        place: Index of the token, from 1 on.
        states: What the layers' outputs are replaced by, each in a row of its own.

    Returns:
        The log-probability of the answer in nats, by layer in the order of `states`; the last one is without a change.
    """
    item = lm.encode(prompt, answer)
    rows, size = len(states) + 1, len(item.ids) - item.answer_start
    prefix = prefix_cache(lm, item.ids[:place])
    if prefix is None:
        raise ValueError("the first token cannot be replaced")
    batch = lm.pad([item.ids] * rows)
    rest: dict[str, Any] = {
        "input_ids": batch["input_ids"][:, place:], "attention_mask": batch["attention_mask"],
        lm.cache_argument: expanded(prefix, rows),
    }  # fmt: skip
    with ExitStack() as stack:
        for row, (layer, state) in enumerate(states.items()):
            module = lm.architecture.layer(lm.model, layer)
            stack.callback(module.register_forward_hook(_replacing(row, state)).remove)
        logits = cast(Any, lm.model)(**rest, use_cache=True, logits_to_keep=size + 1).logits[:, :-1]
    ids = torch.tensor(item.ids[item.answer_start :], device=logits.device)
    chosen = logits.float().log_softmax(-1).gather(-1, ids.expand(rows, size)[..., None])[..., 0]
    return [float(value) for value in chosen.sum(1)]


def _replacing(row: int, state: Tensor) -> Callable[..., Any]:
    """Return a hook that replaces a layer's output in one row of the batch, at its first token."""

    def hook(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        stream = (output if isinstance(output, Tensor) else output[0]).clone()
        stream[row, 0] = state.to(stream)
        return stream if isinstance(output, Tensor) else (stream, *output[1:])

    return hook


def measure(lm: LM, target: Target, other: Target) -> dict[str, Any]:
    """Patch every known question of a target into the same question about another one."""
    (entry,) = (one for one in other.rows("aliases", Aliases) if one.name == other.subject)
    layers = range(STEP - 1, lm.architecture.depth(lm.model), STEP)
    items = []
    for row in known_rows(lm, target):
        right, wrong = (ask_question(lm, one, Source("forget_mentions", "forget")).prompt for one in (row, renamed(row, entry)))
        for place in PLACES:
            start, end = place_of(lm, right, row, place), place_of(lm, wrong, renamed(row, entry), place)
            text = right if place == "prompt" else right[: right.rindex(row.named) + len(row.named)]
            (states,) = lm.read_layers([text])
            if start is None or end is None or isinstance(states, Skipped):
                continue
            found = {layer: torch.from_numpy(states[layer]) for layer in layers}
            answer = f" {row.answer}"
            items.append({
                "mention": row.mention, "place": place, "query": row.query,
                "right": patched_scores(lm, right, answer, start, {})[0],
                "patched": patched_scores(lm, wrong, answer, end, found),
            })  # fmt: skip
    return {"layers": [*layers], "items": items}


def page(name: str, out: Path) -> Result:
    """Return the results page of one model."""
    found = [stored(out / f"{name}-{target.subject}.json", dict) for target in _targets()]
    layers = found[0]["layers"]
    columns, shares, counts = [Column(name="after layer")], [], {}
    for mention in MENTIONS:
        for place, title in PLACES.items():
            chosen = [*_counted(found, mention, place)]
            counts[mention] = len(chosen)
            columns.append(Column(name=f"{mention}: {title}", unit="%", format=".0f"))
            shares.append([restored(chosen, turn) for turn in range(len(layers))])
    model, dtype = MODELS[name]
    rows: list[list[Cell]] = [[layer, *(column[turn] for column in shares)] for turn, layer in enumerate(layers)]
    return Result(
        title=f"Where a description is resolved, {model}", topic="Forgetting and retention",
        about="The share of the right answer's log-probability that comes back when the output of one layer at one token is "
        "taken from the question about the right concept, in the same question about another.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{len(found)} development concepts of the sample set, {model} in {dtype}: {counts['full name']} questions with the "
        f"full name and {counts['description']} with a description",
        command=[f"python -m tools.description_layers {each} {name} runs/layers" for each in ("measure", "page")],
        columns=columns, rows=rows, notes=NOTES,
    )  # fmt: skip


def _counted(found: Sequence[Mapping[str, Any]], mention: str, place: str) -> Iterator[Mapping[str, Any]]:
    """Yield the items of a mention and place that the other concept lowers by enough."""
    for own in found:
        for item in own["items"]:
            if (item["mention"], item["place"]) == (mention, place) and item["right"] - item["patched"][-1] >= LEAST:
                yield item


def restored(items: Sequence[Mapping[str, Any]], turn: int) -> float | None:
    """Return the restored share in percent: the sum of what comes back over the sum of what the other concept takes."""
    lost = sum(item["right"] - item["patched"][-1] for item in items)
    return round(100 * sum(item["patched"][turn] - item["patched"][-1] for item in items) / lost, 1) if lost else None


def _targets() -> list[Target]:
    return [find_target("sample", number) for number in DEVELOPMENT]


NOTES = [
    "100 % is the log-probability of the whole answer in the right question, 0 % that in the question about the other concept, "
    "named in the same way: the next of the four, its first description. Shares are of sums over items. Only items count that "
    f"the original model knows and whose answer the other concept makes less probable by at least {LEAST:g} nat.",
    f"One layer is replaced at a time, the last of each group of {STEP}; layers count from 0. All later tokens are computed "
    "anew, and the other tokens of the mention stay those of the other concept.",
    "An answer of several tokens is predicted in part by its own first tokens, which no patch at the prompt's last token "
    "reaches.",
]


def main() -> None:
    """Measure one model, or write its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("measure", "page"))
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("out", type=Path, help="folder of what was measured")
    given = parser.parse_args()
    if given.command == "page":
        write_result(FOLDER / f"description_layers_{given.model}.json", page(given.model, given.out))
        return
    model, dtype = MODELS[given.model]
    lm, targets = load(model, dtype=dtype), _targets()
    for target, other in zip(targets, targets[1:] + targets[:1], strict=True):
        stored(given.out / f"{given.model}-{target.subject}.json", partial(measure, lm, target, other))


if __name__ == "__main__":
    main()
