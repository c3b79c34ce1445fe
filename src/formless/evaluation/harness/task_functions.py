"""Documents and metrics of tasks for lm-eval; `formless export-tasks` puts a copy beside the tasks that it writes.

A document holds the texts that lm-eval scores or continues. Only the metrics of answers in words need Formless.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def documents(jsonl: str, **_: Any) -> dict[str, Any]:
    """Return the documents of a file beside this one, as the split `test`."""
    from datasets import Dataset

    text = Path(__file__).with_name(jsonl).read_text("utf-8")
    return {"test": Dataset.from_list([json.loads(line) for line in text.split("\n") if line])}


def answer(doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Return `probability`, the geometric mean of the probabilities of an answer's tokens.

    lm-eval counts white space at the end of a prompt as part of the answer. A second choice, that white space alone, takes it
    out.
    """
    log, *spaces = (log for log, _ in results)
    return {"probability": math.exp((log - math.fsum(spaces)) / doc["tokens"])}


def choice(_doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Return `probability`, the share of the first choice, which is right, and `accuracy`, whether it is the largest."""
    logs = [log for log, _ in results]
    top = max(logs)
    shares = [math.exp(log - top) for log in logs]
    return {"probability": shares[0] / math.fsum(shares), "accuracy": float(logs[0] == top)}


def words(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return `rouge_l`, the recall of the right answer's words, `refusal` and `recall` of a generated line."""
    from formless.data.refusals import is_refusal
    from formless.evaluation.metrics import rouge_l_recall

    text = results[0].strip()
    return {"rouge_l": rouge_l_recall(text, doc["answer"]), "refusal": float(is_refusal(text)), **said(doc, results)}


def said(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return `recall`, whether a generated line says an accepted answer."""
    from formless.evaluation.metrics import says

    return {"recall": float(says(results[0].strip(), doc["accepted"]))}
