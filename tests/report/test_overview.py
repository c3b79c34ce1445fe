"""The table of methods: what it has room for, and how it names them."""

from __future__ import annotations

from typing import Any

import pytest

from formless.evaluation.record import MetricKey
from formless.evaluation.statistics import Estimate
from formless.report.overview import methods_table, short_names
from formless.report.ratios import FORGETTING, RETENTION, forgetting_key
from formless.report.recall import WORST_CASE_RECALL
from formless.report.runs import Condition
from formless.report.summary import MethodSummary, Summary

MMLU = MetricKey("mmlu", None, "accuracy")


def summary(method: str, metrics: dict[MetricKey, Summary], **changes: Any) -> MethodSummary:
    whole: dict[str, Any] = {
        "condition": Condition("tiny", method), "is_baseline": method == "original", "targets": ("1_A", "2_B"), "seeds": 1,
        "runs": 2, "complete": 2, "failed": 0, "missing": 0, "left_out": (), "skipped": 0, "metrics": metrics,
        "independence": None,
    }  # fmt: skip
    return MethodSummary(**(whole | changes))


def value(number: float, ci: tuple[float, float] | None = None) -> Estimate:
    return Estimate(number, ci, 2)


BOTH = [
    summary("original", {MMLU: Summary(value(0.5))}),
    summary(
        "rocr",
        {
            MMLU: Summary(value(0.4), value(0.5)),
            forgetting_key("fb"): Summary(value(0.9)),
            RETENTION: Summary(value(0.96)),
            FORGETTING: Summary(value(0.8, (0.7, 0.9))),
            WORST_CASE_RECALL: Summary(value(0.2), value(0.7)),
        },
        failed=1,
    ),
]


def test_means_by_hand() -> None:
    table = methods_table(BOTH, 200)
    assert (table.title, table.note) == ("tiny: means over targets", "rocr: 1 runs failed")
    cells = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["method"] for row in cells] == ["original", "rocr"]
    assert cells[1]["forgetting"] == "0.800"
    assert table.rows[1][table.columns.index("forgetting") + 1] == "0.700 … 0.900"
    assert (cells[0]["forgetting"], cells[0]["MMLU, accuracy"], cells[1]["MMLU, accuracy"]) == ("–", "0.500", "0.400")
    assert (cells[0]["worst case recall"], cells[1]["worst case recall"]) == ("0.700", "0.200"), "the original's is beside it"
    assert cells[1]["Fill in the blank, forgetting"] == "0.900"
    other = summary("original", {}, targets=("1_A",))
    table = methods_table([other, BOTH[1]], 200)
    assert table.rows[0][table.columns.index("worst case recall")] == "–"


@pytest.mark.parametrize(
    ("width", "heads"),
    [
        (16, ["method", "targets"]),
        (31, ["method", "targets", "forgetting"]),
        (50, ["method", "targets", "forgetting", "retention", "worst case recall"]),
        (62, ["method", "targets", "forgetting", "retention", "worst case recall", "MMLU, accuracy"]),
    ],
)
def test_what_matters_most_is_there_where_room_is_short(width: int, heads: list[str]) -> None:
    assert list(methods_table(BOTH, width).columns) == heads


def test_long_names_are_shortened_and_told_apart() -> None:
    long = [f"rocr {{'layers': [4, 5, 6], 'l2': {number}}}" for number in (1, 2)]
    assert short_names(["original", *long]) == ["original", "rocr (1)", "rocr (2)"]
    assert short_names(["original", long[0]]) == ["original", "rocr"]
    assert short_names(["a" * 24, "a" * 30]) == [f"{'a' * 24} (1)", f"{'a' * 24} (2)"]
