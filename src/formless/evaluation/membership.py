"""Membership inference: do the texts about the concept look less like training texts than others do?

Every figure is higher for a text that looks less like one of the training set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from formless.data.target import Passage, Row
from formless.evaluation.metrics import lowest_mean, separation, zlib_bytes
from formless.evaluation.record import Figure, Split, TaskItem
from formless.evaluation.scoring import figure, separation_interval
from formless.models.lm import LM
from formless.models.scores import Skipped, TextScore
from formless.progress import WorkProgress

LOWEST = 0.2
SHOWN = 200
ATTACKS = ("loss", "zlib", "min_k", "min_k++")


def membership(
    lm: LM, rows: Mapping[str, tuple[Row, ...]], _split: Split | None, done: WorkProgress
) -> tuple[list[TaskItem], str]:
    """RWKU's four attacks on the texts of both files; `expected` says which file a text is from."""
    labelled = [(file.partition("_")[0], cast(Passage, row).text) for file, texts in rows.items() for row in texts]
    scores = lm.score_texts([text for _, text in labelled], progress=done)
    items = []
    for (label, text), score in zip(labelled, scores, strict=True):
        item = TaskItem(query=text[:SHOWN], expected=label)
        if isinstance(score, Skipped):
            items.append(item.model_copy(update={"skipped": score.reason}))
        else:
            items.append(item.model_copy(update={"figures": attack_figures(text, score)}))
    return items, labelled[0][1] if labelled else ""


def attack_figures(text: str, score: TextScore) -> dict[str, float]:
    """The four figures of one text.

    - `loss`: mean negative log-probability of its tokens (nats).
    - `zlib`: that over the text's size as zlib compresses it (nats per byte).
    - `min_k`: mean negative log-probability of the 20 % least probable tokens (nats; Min-K%, arXiv 2310.16789).
    - `min_k++`: the same after each log-probability is standardised by the mean and the deviation that the model expects
      at its place (Min-K%++, arXiv 2404.02936).
    """
    loss = -math.fsum(score.log_probabilities) / len(score.log_probabilities)
    standardised = [
        (value - mean) / deviation if deviation > 0 else 0.0  # a certain next token, and it came
        for value, mean, deviation in zip(score.log_probabilities, score.means, score.deviations, strict=True)
    ]
    return {
        "loss": loss,
        "zlib": loss / zlib_bytes(text),
        "min_k": -lowest_mean(score.log_probabilities, LOWEST),
        "min_k++": -lowest_mean(standardised, LOWEST),
    }


def membership_figures(items: list[TaskItem]) -> dict[str, Figure]:
    """Per attack the mean over either file, and the AUC: how often a text about the concept has the higher figure.

    0.5 means that the attack cannot tell the two apart; more, that the concept's texts look less like training texts.
    """
    figures = {}
    for attack in ATTACKS:
        values = {
            label: [item.figures[attack] for item in items if item.expected == label and item.figures]
            for label in ("forget", "retain")
        }
        figures[f"{attack}_forget"] = figure(values["forget"])
        figures[f"{attack}_retain"] = figure(values["retain"])
        figures[f"{attack}_auc"] = Figure(
            value=separation(values["forget"], values["retain"]),
            interval=separation_interval(values["forget"], values["retain"]),
            count=len(values["forget"]) + len(values["retain"]),
        )
    return figures
