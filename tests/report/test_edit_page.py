"""The page about one edit."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

import formless
from formless.data.target import Split, Target
from formless.evaluation.record import MetricKey
from formless.evaluation.statistics import Metric
from formless.models.lm import LM
from formless.report.comparison import Change, compare
from formless.report.page import write_report
from formless.report.plots import training_plot
from formless.report.side_effects import tone
from formless.report.tables import comparison_tables, number, percent, record_tables

Tiny = Callable[..., LM]


def test_the_page_holds_everything_and_needs_nothing_else(tiny: Tiny, target_folder: Path, tmp_path: Path) -> None:
    (target_folder / "neighbor_mcp.json").unlink()
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    edit = formless.unlearn(lm, target, redirect="Bob", layers=[1], basis="none")
    original = formless.evaluate(lm, target)
    with edit.applied(lm):
        edited = formless.evaluate(lm, target)
    edited.answers[0].answer = "<script>alert(1)</script>"
    path = tmp_path / "report.html"
    comparison = write_report(path, original, edited, command="formless demo")
    assert comparison == compare(original, edited)
    page = path.read_text("utf-8")

    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append((tag, dict(attrs)))  # type: ignore[method-assign]
    parser.feed(page)
    assert not any(tag in ("script", "link", "img", "iframe") for tag, _ in tags)
    assert not re.search(r"(src|href)=[\"']https?:", page.replace("xmlns:xlink", ""))
    assert sum(tag == "svg" for tag, _ in tags) == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "the target has no neighbor_mcp.json" in page
    assert "model.layers.1.mlp.down_proj" in page
    assert "currentColor" in page
    forms = [change for change in comparison.changes if change.key.metric == "probability"]
    assert {change.key.split for change in forms} == {"forget", "neighbor"}
    for change in forms:
        assert number(change.edited.value) in page
        assert change.relative is None or percent(change.relative.value) in page


@pytest.mark.parametrize(
    ("split", "task", "metric", "ci", "expected"),
    [
        ("forget", "fb", "probability", (-0.3, -0.1), "fell"),
        ("forget", "tf", "probability", (0.1, 0.3), "warned"),
        ("forget", "fb", "probability", (-0.3, 0.1), ""),
        ("forget", "fb", "probability", None, ""),
        ("forget", "gen_fb", "refusal", (0.1, 0.3), ""),
        ("neighbor", "fb", "probability", (-0.3, -0.1), "warned"),
        ("neighbor", "fb", "probability", (0.1, 0.3), ""),
        (None, "mmlu", "accuracy", (-0.3, -0.1), "warned"),
        (None, "fluency", "repetition", (0.1, 0.3), "warned"),
        (None, "fluency", "repetition", (-0.3, -0.1), ""),
    ],
)
def test_a_change_has_the_color_of_its_interval(
    split: Split | None, task: str, metric: str, ci: tuple[float, float] | None, expected: str
) -> None:
    difference = Metric(value=sum(ci) / 2 if ci else -0.2, ci=ci, n=9)
    change = Change(MetricKey(task, split, metric), Metric(), Metric(), difference, None, 0)
    assert tone(change) == expected


def test_tasks_are_on_the_page_with_what_could_not_be_measured(tiny: Tiny, target_folder: Path, tmp_path: Path) -> None:
    example = {"task": "t", "question": "2 + 2?", "choices": ["1", "2", "3", "4"], "answer": 3}
    (target_folder / "retain_mmlu.json").write_text(json.dumps([example, example | {"question": "x" * 600}]))
    (target_folder / "retain_bbh.json").write_text(
        json.dumps([{"task": "t", "question": "x" * 600, "answer": "<b>", "cot": "c"}])
    )
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    record = formless.evaluate(lm, target, "qa,mmlu,bbh,gen_qa,mia")
    stub = {"method": "other", "subject": "Ada", "config": {}, "facts": {}, "seconds": 0.1, "layers": []}
    edited = record.model_copy(update={"edits": [stub]})  # a method without a concept to redirect to
    write_report(tmp_path / "r.html", record, edited)
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "(+1 skipped)" in page
    assert "bbh: no item could be measured, the first because a prompt of" in page
    assert "mia: the target has no forget_mia.json" in page
    rows = [row for table in record_tables(record) for row in table.rows]
    assert ("mmlu", "accuracy", "1 (+1 skipped)") in [(*row[:2], row[-1]) for row in rows]
    rows = [row for table in comparison_tables(compare(record, edited)) for row in table.rows]
    assert [row[-1] for row in rows if row[0] == "mmlu"] == ["1 (+1 skipped)"] * 2


def test_equal_records_give_equal_pages(tiny: Tiny, target_folder: Path, tmp_path: Path) -> None:
    record = formless.evaluate(tiny(), Target("Ada Lovelace", target_folder), "fb")
    for name in ("a", "b"):
        write_report(tmp_path / name, record, record)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_curves_of_a_training_run_are_on_the_page(tiny: Tiny, target_folder: Path, tmp_path: Path) -> None:
    (target_folder / "positive.json").write_text(json.dumps([{"text": f"Ada wrote {n} programs."} for n in range(4)]))
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    edit = formless.unlearn(
        lm,
        target,
        "ga",
        learning_rate=0.01,
        num_train_epochs=3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=1,
        warmup_steps=0,
    )
    original = formless.evaluate(lm, target, "fb")
    with edit.applied(lm):
        edited = formless.evaluate(lm, target, "fb")
    write_report(tmp_path / "r.html", original, edited)
    page = (tmp_path / "r.html").read_text("utf-8")
    assert page.count("<svg") == 3
    assert "probability of a token" in page
    assert "8 weights" in page
    plot = training_plot({"steps": 7, "losses": [3.0, 2.0, 1.0]})  # of a longer training run, without probabilities
    assert plot is not None
    assert "probability of a token" not in plot
    assert training_plot({}) is None
