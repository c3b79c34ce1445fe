"""Tables for people and programs from the same means."""

import csv
import io
import re
from pathlib import Path

import pytest

from formless.evaluation.record import MetricKey
from formless.report.ratios import FORGETTING, FORM_GAP, forgetting_key, retention_key
from formless.report.runs import SECONDS, collect
from formless.report.summary import MethodSummary, summarize
from formless.report.tables import (
    Table,
    as_csv,
    as_latex,
    as_markdown,
    column_name,
    detail_table,
    latex_text,
    metric_title,
    number,
    overview_tables,
    percent,
    plain_rows,
)
from tests.report.made_runs import fail_run, made_run, write_plan, write_runs


@pytest.fixture
def summaries(tmp_path: Path) -> list[MethodSummary]:
    runs = write_runs(tmp_path, ("original", "rocr", "ga_lora"), targets=3)
    failed = made_run("npo", "1_Person_1")
    fail_run(tmp_path, failed)
    write_plan(tmp_path, [*runs, failed])
    return summarize(collect([tmp_path]))


def test_csv_reads_back_as_the_plain_rows(summaries: list[MethodSummary]) -> None:
    plain = plain_rows(summaries)
    back = list(csv.DictReader(io.StringIO(as_csv(plain))))
    assert [row["method"] for row in back] == ["original", "rocr", "ga_lora", "npo"]
    for row, wanted in zip(back, plain, strict=True):
        for name, value in wanted.items():
            if name not in ("model", "method"):
                assert row[name] == "" if value is None else float(row[name]) == value


def test_markdown_tables_are_whole(summaries: list[MethodSummary]) -> None:
    text = as_markdown([*overview_tables(summaries), *map(detail_table, summaries)])
    for block in text.split("### ")[1:]:
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len(lines) >= 2
        assert len({line.count("|") for line in lines}) == 1
    forget = text.split("### tiny: about the concept, to forget")[1].split("###")[0]
    assert "| method | targets | Statement | Fill in the blank | Question | Question, letters alone |" in forget
    assert re.search(r"\| rocr \| 3 \| 0\.\d{3} \([+-]\d+\.\d %\)", forget)
    assert "Does not count: npo: 1 runs failed." in forget
    assert "a\\|b" in as_markdown([Table("t", ("a|b",), ())])


def test_latex_tables_are_whole(summaries: list[MethodSummary]) -> None:
    text = as_latex([*overview_tables(summaries), *map(detail_table, summaries)])
    tables = text.split(r"\begin{table}")[1:]
    assert len(tables) == 4 + 4
    for table in tables:
        columns = re.search(r"\\begin\{tabular\}\{(lr*)\}", table)
        assert columns
        body = table.split(r"\toprule")[1].split(r"\bottomrule")[0]
        for line in body.splitlines():
            if line.endswith(r"\\"):
                assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1
        assert table.count("{") - table.count(r"\{") == table.count("}") - table.count(r"\}")
    assert r"ga\_lora" in text
    assert not re.search(r"(?<!\\)%(?!$| \\usepackage)", text, re.MULTILINE)


def test_latex_characters_are_written_out() -> None:
    assert latex_text(r"a_b & 5 % #1 {x} \y ~ ^ $") == (
        r"a\_b \& 5 \% \#1 \{x\} \textbackslash{}y \textasciitilde{} \textasciicircum{} \$"
    )
    assert latex_text("-0.1 … +2, ga-2, 3.0e-04") == r"$-$0.1 \ldots{} +2, ga-2, 3.0e-04"


@pytest.mark.parametrize(
    ("key", "title", "short", "column"),
    [
        (
            MetricKey("fb", "forget", "probability"), "Fill in the blank, probability of the right answer, forget",
            "Fill in the blank", "fb.forget.probability",
        ),
        (
            MetricKey("fb", "neighbor", "token_accuracy"), "Fill in the blank, token accuracy, neighbor",
            "Fill in the blank, token accuracy", "fb.neighbor.token_accuracy",
        ),
        (
            MetricKey("level3", "forget", "probability", "role play"),
            "Adversarial, probability of the right answer, role play, forget", "Adversarial, role play",
            "level3.forget.role_play.probability",
        ),
        (MetricKey("mmlu", None, "accuracy"), "MMLU, accuracy", "MMLU, accuracy", "mmlu.accuracy"),
        (MetricKey("theirs", None, "a_score"), "theirs, a score", "theirs, a score", "theirs.a_score"),
        (forgetting_key("qa"), "Question, forgetting", "Question, forgetting", "qa.forgetting"),
        (retention_key("statement"), "Statement, retention", "Statement, retention", "statement.retention"),
        (FORGETTING, "forgetting", "forgetting", "forgetting"),
        (FORM_GAP, "form gap", "form gap", "form_gap"),
        (SECONDS, "unlearning seconds", "unlearning seconds", "unlearning_seconds"),
    ],
)  # fmt: skip
def test_metrics_have_titles_and_columns(key: MetricKey, title: str, short: str, column: str) -> None:
    assert (metric_title(key), metric_title(key, short=True), column_name(key)) == (title, short, column)


def test_small_numbers_stay_readable() -> None:
    assert [number(value) for value in (None, 0.0, 0.12345, 0.00012)] == ["–", "0.000", "0.123", "1.2e-04"]
    assert [percent(value) for value in (None, -0.6, 0.051)] == ["–", "-60.0 %", "+5.1 %"]
