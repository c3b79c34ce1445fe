"""Tables for people and programs from the same means."""

import csv
import io
import re
from pathlib import Path

import pytest

from formless.report.means import MethodMeans, method_means, plain_rows
from formless.report.runs import gather
from formless.report.tables import Table, as_csv, as_latex, as_markdown, detail_table, latex_text, overview_tables
from formless.report.text import figure_title
from tests.report.made_runs import fail_run, made_run, write_plan, write_runs


@pytest.fixture
def rows(tmp_path: Path) -> list[MethodMeans]:
    runs = write_runs(tmp_path, ("original", "rocr", "ga_lora"), targets=3)
    failed = made_run("npo", "1_Person_1")
    fail_run(tmp_path, failed)
    write_plan(tmp_path, [*runs, failed])
    return method_means(gather([tmp_path]))


def test_csv_reads_back_as_the_plain_rows(rows: list[MethodMeans]) -> None:
    plain = plain_rows(rows)
    back = list(csv.DictReader(io.StringIO(as_csv(plain))))
    assert [row["method"] for row in back] == ["original", "rocr", "ga_lora", "npo"]
    for row, wanted in zip(back, plain, strict=True):
        for name, value in wanted.items():
            if name not in ("model", "method"):
                assert row[name] == "" if value is None else float(row[name]) == value


def test_markdown_tables_are_whole(rows: list[MethodMeans]) -> None:
    text = as_markdown([*overview_tables(rows), *map(detail_table, rows)])
    for block in text.split("### ")[1:]:
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len(lines) >= 2
        assert len({line.count("|") for line in lines}) == 1
    forget = text.split("### tiny: about the concept, to forget")[1].split("###")[0]
    assert "| method | targets | Statement | Fill in the blank | Question | Question, letters alone |" in forget
    assert re.search(r"\| rocr \| 3 \| 0\.\d{3} \([+-]\d+\.\d %\)", forget)
    assert "Not in it: npo: 1 runs failed." in forget
    assert "a\\|b" in as_markdown([Table("t", ("a|b",), ())])


def test_latex_tables_are_whole(rows: list[MethodMeans]) -> None:
    text = as_latex([*overview_tables(rows), *map(detail_table, rows)])
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
    ("name", "title"),
    [
        ("forget_fb", "Fill in the blank, forget"), ("neighbor_sub_fb_letters", "Blank, letters alone, neighbor"),
        ("forgetting_qa", "Question, forgetting"), ("retention_statement", "Statement, retention"),
        ("mmlu_accuracy", "MMLU accuracy"), ("forget_gen_qa_rouge_l", "Question, in words rouge_l, forget"),
        ("form_gap", "form gap"), ("unlearning_seconds", "unlearning seconds"), ("forgetting", "forgetting"),
    ],
)  # fmt: skip
def test_figures_have_titles(name: str, title: str) -> None:
    assert figure_title(name) == title
