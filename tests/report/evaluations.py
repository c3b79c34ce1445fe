"""Evaluations as open-unlearning writes them, with made-up values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def entry(values: list[float], statistic: str = "prob", **more: float) -> dict[str, Any]:
    """A metric whose value is the mean of its items."""
    rows = {str(place): {statistic: value, **more} for place, value in enumerate(values)}
    return {"agg_value": float(np.mean(values)), "value_by_index": rows}


def attack(forget: list[float], holdout: list[float], separation: float) -> dict[str, Any]:
    """A membership inference attack: their AUC is how often a held-out text has the higher score."""
    sides = {"forget": entry(forget, "score"), "holdout": entry(holdout, "score")}
    return {**sides, "auc": separation, "agg_value": separation}


def tofu() -> dict[str, Any]:
    ratios = [0.5, 2.0, 1.0, 0.25]
    return {
        "forget_Q_A_Prob": entry([0.1, 0.2, 0.3, 0.4], avg_loss=1.0),
        "forget_Q_A_PERT_Prob": {
            "agg_value": 0.05, "value_by_index": {str(i): {"prob": [0.04, 0.06], "avg_loss": [3.0, 3.0]} for i in range(4)},
        },
        "forget_Q_A_ROUGE": {
            "agg_value": 0.4,
            "value_by_index": {
                str(i): {"rouge1_recall": 0.9, "rougeL_f1": 0.8, "rougeL_recall": recall, "input": "Who?", "generation": "Ada"}
                for i, recall in enumerate([0.2, 0.6])
            },
        },
        "forget_truth_ratio": {
            "agg_value": float(np.mean([0.5, 0.5, 1.0, 0.25])),
            "value_by_index": {str(i): {"score": ratio} for i, ratio in enumerate(ratios)},
        },
        "retain_Truth_Ratio": {
            "agg_value": float(np.mean([0.5, 0.0, 0.0, 0.75])),
            "value_by_index": {str(i): {"score": ratio} for i, ratio in enumerate(ratios)},
        },
        "forget_quality": {"agg_value": 0.02},
        "model_utility": {"agg_value": 0.6},
        "mia_min_k": attack([1.0, 2.0, 3.0], [2.5, 4.0, 5.0], 8 / 9),
        "privleak": {"agg_value": (1 / 9 - 0.5) / 0.5 * 100},
        "forget_Q_A_gibberish": entry([0.7, 0.9], "score"),
        "extraction_strength": entry([0.1, 0.3], "score"),
    }  # fmt: skip


def write(folder: Path, content: object, name: str = "TOFU_EVAL.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=4), "utf-8")
    return path


def summary(content: dict[str, Any]) -> dict[str, float]:
    """The flat file beside: what has a value."""
    return {name: one["agg_value"] for name, one in content.items() if one.get("agg_value") is not None}
