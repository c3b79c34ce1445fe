"""Evaluations of open-unlearning beside our records."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import formless
from formless.errors import DataError
from formless.evaluation.record import MetricKey
from formless.evaluation.registry import TASKS
from formless.evaluation.statistics import Estimate, mean_metric
from formless.report.open_unlearning import COUNTERPARTS, TOOL, read_evaluations
from formless.report.overview import methods_table
from formless.report.page import write_experiment_report
from formless.report.runs import collect
from formless.report.summary import Summary, evaluation_rows, source_notes, summarize
from formless.report.tables import metric_title
from tests.report.evaluations import summary, tofu, write
from tests.report.made_runs import write_runs


def read(*paths: Path) -> Any:
    (found,) = read_evaluations(paths, Counter())
    return found


def test_metrics_have_our_names_and_the_intervals_of_their_items(tmp_path: Path) -> None:
    found = read(write(tmp_path / "NPO" / "evals", tofu()))
    assert (found.name, found.folder, found.benchmarks) == ("NPO", tmp_path / "NPO" / "evals", ("TOFU",))
    values = {key: (metric.value, metric.n) for key, metric in found.metrics.items()}
    assert values == {
        MetricKey("answer", "forget", "probability"): (0.25, 4),
        MetricKey(TOOL, None, "forget_Q_A_PERT_Prob"): (0.05, 4),
        MetricKey("gen_answer", "forget", "rouge_l_recall"): (0.4, 2),
        MetricKey("truth_ratio", "forget", "truth_ratio"): (0.5625, 4),
        MetricKey("truth_ratio", "neighbor", "truth"): (0.3125, 4),
        MetricKey("forget_quality", None, "forget_quality"): (0.02, 0),
        MetricKey("model_utility", None, "model_utility"): (0.6, 0),
        MetricKey("mia_qa", None, "min_k_auc"): (pytest.approx(1 / 9), 6),
        MetricKey("privleak", None, "privleak_half"): (pytest.approx(-700 / 9), 0),
        MetricKey(TOOL, None, "forget_Q_A_gibberish"): (0.8, 2),
        MetricKey("answer_memorization", "forget", "extraction_strength"): (0.2, 2),
    }
    assert found.metrics[MetricKey("answer", "forget", "probability")].ci == mean_metric([0.1, 0.2, 0.3, 0.4]).ci
    assert found.metrics[MetricKey("truth_ratio", "neighbor", "truth")].ci == mean_metric([0.5, 0, 0, 0.75]).ci
    low, high = found.metrics[MetricKey("mia_qa", None, "min_k_auc")].ci
    assert low <= 1 / 9 <= high
    assert found.names[MetricKey("truth_ratio", "neighbor", "truth")] == "retain_Truth_Ratio"


def test_privleak_beside_the_logs_of_a_retain_model_is_another_metric(tmp_path: Path) -> None:
    content = tofu() | {"privleak": {"agg_value": (1 / 9 - 0.6) / 0.6 * 100}}
    found = read(write(tmp_path, content))
    assert MetricKey("privleak", None, "privleak") in found.metrics
    assert MetricKey("privleak", None, "privleak_half") not in found.metrics
    found = read(write(tmp_path / "muse", {"privleak": -53.9, "forget_knowmem_ROUGE": 0.4}, "MUSE_SUMMARY.json"))
    assert MetricKey(TOOL, None, "privleak") in found.metrics  # what it was compared with cannot be told


def test_a_summary_gives_the_values_alone(tmp_path: Path) -> None:
    found = read(write(tmp_path / "NPO", summary(tofu()), "TOFU_SUMMARY.json"))
    assert {metric.n for metric in found.metrics.values()} == {0}
    assert found.metrics[MetricKey("truth_ratio", "forget", "truth_ratio")].value == 0.5625
    write(tmp_path / "NPO", tofu())
    assert read(tmp_path).metrics[MetricKey("truth_ratio", "forget", "truth_ratio")].n == 4  # the one with items is preferred


def test_muse_and_the_harness_have_names_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, {"forget_verbmem_ROUGE": 0.2, "extraction_strength": 0.1, "mia_loss": 0.75}, "MUSE_SUMMARY.json")
    write(tmp_path, {"mmlu": {"mmlu_astronomy": [{"doc_id": 0}]}}, "LMEval_EVAL.json")
    write(tmp_path, {"mmlu/acc": 0.5, "mmlu/acc_stderr": 0.01}, "LMEval_SUMMARY.json")
    found = read(tmp_path)
    assert found.benchmarks == ("LMEval", "MUSE")
    assert {key: metric.value for key, metric in found.metrics.items()} == {
        MetricKey(TOOL, None, "mmlu/acc"): 0.5, MetricKey("verbmem", "forget", "rouge_l_f1"): 0.2,
        MetricKey("verbmem", "forget", "extraction_strength"): 0.1, MetricKey("mia_holdout", None, "loss_auc"): 0.25,
    }  # fmt: skip


def test_evaluations_of_checkpoints_are_rows_of_their_own(tmp_path: Path) -> None:
    for place in ("NPO/evals", "NPO/checkpoint-5/evals", "NPO/checkpoint-60/evals"):
        write(tmp_path / place, tofu())
    names = [one.name for one in read_evaluations([tmp_path, tmp_path / "NPO"], Counter())]
    assert names == ["NPO/checkpoint-5", "NPO/checkpoint-60", "NPO"]


def test_items_that_do_not_give_the_value_have_no_interval(tmp_path: Path) -> None:
    content = tofu()
    content["forget_Q_A_Prob"]["agg_value"] = 0.9
    content["mia_min_k"]["agg_value"] = 0.1
    found = read(write(tmp_path, content))
    for key in (MetricKey("answer", "forget", "probability"), MetricKey("mia_qa", None, "min_k_auc")):
        assert (found.metrics[key].value, found.metrics[key].ci, found.metrics[key].n) == (0.9, None, 0)


BROKEN = [
    ("", "the evaluation cannot be read"),
    ("{", "the evaluation cannot be read"),
    ("[]", "the evaluation is no JSON object"),
    ("{}", "the evaluation holds no metric"),
    ('{"forget_quality": {"agg_value": null}}', "the evaluation holds no metric"),
    ('{"forget_Q_A_Prob": {"agg_value": NaN}}', "forget_Q_A_Prob.agg_value"),
    ('{"model_utility": "0.5"}', "the metric model_utility is '0.5', no number"),
    ('{"model_utility": true}', "the metric model_utility is True, no number"),
    ('{"architectures": ["Llama"]}', r"the metric architectures is \['Llama'\], no number"),
    ('{"probes": {"digest": 1}}', "the metric probes has no agg_value"),
]


@pytest.mark.parametrize(("text", "said"), BROKEN)
def test_broken_files_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "a", text)
    for place in (path, tmp_path):
        with pytest.raises(DataError, match=said) as error:
            read(place)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    write(tmp_path / "b", tofu())
    left_out: Counter[str] = Counter()
    assert [one.name for one in read_evaluations([tmp_path], left_out)] == ["b"]
    assert left_out.total() == 1


def test_every_counterpart_is_a_metric_of_ours() -> None:
    for name, own in COUNTERPARTS.items():
        if own.task not in TASKS:
            continue
        task = TASKS[own.task]
        assert own.metric in {spec.name for spec in task.metrics}, name
        assert own.split in task.splits, name


def test_the_reference_lists_every_counterpart() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "tasks.md").read_text("utf-8")
    section = page.partition("## Names in open-unlearning")[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    for (benchmark, name), own in COUNTERPARTS.items():
        (row,) = [row for row in rows if benchmark in row[0] and f"`{name}`" in row[1]]
        assert f"`{own.task}`" in row[2], name
        assert f"`{own.metric}`" in row[4] or row[4] in ("the same", "as of TOFU"), name


def test_they_count_in_no_mean_and_say_where_they_are_from(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_runs(runs, ("original", "rocr"), targets=2)
    write(tmp_path / "saves" / "NPO" / "evals", tofu())
    alone, both = collect([runs]), collect([runs, tmp_path / "saves"])
    plain = [dict(one.metrics) for one in summarize(alone)]
    assert [dict(one.metrics) for one in summarize(both)] == plain
    (row,) = evaluation_rows(both)
    assert (row.condition.model, row.condition.method) == ("tiny", "NPO [open-unlearning]")
    assert str(tmp_path / "saves" / "NPO" / "evals") in source_notes([row])[0]
    assert row.metrics[MetricKey("answer", "forget", "probability")].baseline is None


def test_results_have_a_row_for_each_of_their_metrics(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", ("original", "rocr"), targets=2)
    write(tmp_path / "saves" / "NPO", tofu())
    table = formless.results(tmp_path / "runs", tmp_path / "saves")
    theirs = table[table.tool == TOOL]
    assert len(theirs) == len(tofu())
    assert set(theirs.method) == {"NPO"}
    assert theirs.model.isna().all()
    assert set(table[table.tool != TOOL].tool) == {"formless"}
    assert len(formless.results(tmp_path / "saves")) == len(tofu())


def test_the_page_shows_both(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_runs(runs, ("original", "rocr"), targets=2)
    write(tmp_path / "saves" / "<b>NPO", tofu() | {"mmlu": {"agg_value": 0.5}})
    write_experiment_report(tmp_path / "page.html", runs, beside=[tmp_path / "saves"])
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Beside other tools" in page
    assert "&lt;b&gt;NPO [open-unlearning]" in page
    write_experiment_report(tmp_path / "plain.html", runs)
    assert "Beside other tools" not in (tmp_path / "plain.html").read_text("utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no evaluations of open-unlearning"):
        write_experiment_report(tmp_path / "page.html", runs, beside=[tmp_path / "empty"])


def test_metrics_that_both_have_come_first_in_a_narrow_table(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", ("original", "rocr"), targets=2)
    write(tmp_path / "saves" / "NPO", tofu())
    both = collect([tmp_path / "runs", tmp_path / "saves"])
    shared = MetricKey("answer", "forget", "probability")
    ours = [replace(one, metrics={**one.metrics, shared: Summary(Estimate(0.5, None, 2))}) for one in summarize(both)]
    table = methods_table([*ours, *evaluation_rows(both)], 80)
    place = next(place for place, head in enumerate(table.columns) if head == metric_title(shared))
    assert [row[place] for row in table.rows] == ["0.500", "0.500", "0.250"]
