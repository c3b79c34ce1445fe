"""Form by mention: maps by hand, their table, heat map, and the places where they are shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import formless
from formless.data.target import Target
from formless.evaluation.record import MetricKey
from formless.evaluation.statistics import Metric
from formless.models.lm import LM
from formless.report.comparison import Change, Comparison
from formless.report.mentions import Cell, MentionMap, comparison_maps
from formless.report.page import write_report
from formless.report.plots import mention_plot

Tiny = Callable[..., LM]


def change(task: str, split: Any, group: str | None, relative: float | None, metric: str = "probability") -> Change:
    one = Metric(value=0.5, n=4)
    found = None if relative is None else Metric(value=relative, n=3)
    return Change(MetricKey(task, split, metric, group), one, one, one, found, 0)


@pytest.fixture
def record(tiny: Tiny, target_folder: Path) -> formless.Record:
    rows = [
        {"query": f"{name} was born in ___.", "answer": "London", "type": "cloze", "mention": mention, "named": name}
        for name, mention in (("Ada Lovelace", "full name"), ("Lovelace", "short name"))
    ]
    (target_folder / "forget_mentions.json").write_text(json.dumps(rows), "utf-8")
    return formless.evaluate(tiny(), Target("Ada Lovelace", target_folder), "mentions,qa", progress=False)


def test_maps_are_of_mentions_alone_in_the_order_of_their_entries(record: formless.Record) -> None:
    changes = (
        change("qa_mentions", "forget", "alias", -0.25), change("fb_mentions", "forget", "description", 0.1),
        change("fb_mentions", "forget", "full name", -0.7), change("fb_mentions", "forget", None, -0.9),
        change("fb_mentions", "forget", "full name", -0.8, "token_accuracy"), change("qa", "forget", None, -0.9),
        change("level3", "forget", "role play", -0.9), change("qa_mentions", "forget", "full name", None),
    )  # fmt: skip
    (found,) = comparison_maps(Comparison(record, record, changes))
    assert (found.split, found.unit) == ("forget", "items")
    assert found.forms == ("fb_mentions", "qa_mentions")
    assert found.mentions == ("full name", "alias", "description")
    assert found.cells == {
        ("fb_mentions", "full name"): Cell(-0.7, 3), ("fb_mentions", "description"): Cell(0.1, 3),
        ("qa_mentions", "alias"): Cell(-0.25, 3),
    }  # fmt: skip
    table = found.table()
    assert table.columns == ("mention", "Fill in the blank", "Question")
    assert table.rows == (
        ("full name", "-70.0 % (3)", "–"), ("alias", "–", "-25.0 % (3)"), ("description", "+10.0 % (3)", "–"),
    )  # fmt: skip


def test_without_mentions_there_is_no_map(record: formless.Record) -> None:
    assert comparison_maps(Comparison(record, record, (change("qa", "forget", None, -0.9),))) == []


def test_the_heat_map_says_what_was_lost_and_of_how_many() -> None:
    cells = {("fb_mentions", "full name"): Cell(-0.7, 12), ("fb_mentions", "initial and surname"): Cell(0.2, 5)}
    found = MentionMap("forget", ("fb_mentions",), ("full name", "initial and surname"), cells, "items")
    plot = mention_plot(found)
    for text in (">70 %<", ">n = 12<", ">-20 %<", ">n = 5<", ">Fill in the blank<", ">full name<", "currentColor"):
        assert text in plot, text
    assert "<image" not in plot
    assert plot == mention_plot(found)


def test_the_page_about_an_edit_shows_the_maps(record: formless.Record, tmp_path: Path) -> None:
    stub = {"method": "other", "subject": "Ada", "config": {}, "facts": {}, "seconds": 0.1, "layers": []}
    edited = record.model_copy(update={"edits": [stub]})
    write_report(tmp_path / "report.html", record, edited)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Form by mention, about the concept (to forget)" in page
    assert "about its neighbors (to keep)</h2>\n<figure" not in page
    assert page.count(">n = 1<") == 4
