"""Form by mention: maps by hand, their table, heat map, and the places where they are shown."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import formless
from formless.data.target import Target
from formless.errors import UserError
from formless.evaluation.record import ItemResult, TaskResult
from formless.models.lm import LM
from formless.report.comparison import Comparison
from formless.report.mentions import Cell, MentionMap, comparison_maps
from formless.report.page import write_report
from formless.report.plots import mention_plot

Tiny = Callable[..., LM]


Mentions = dict[str, tuple[float, float, float]]
"""By mention the probability before and after, and whether the items are known."""


def mentioned(task: str, split: Any, values: Mentions, side: int) -> TaskResult:
    """A task with two items of each mention, before (side 0) or after the edit (side 1)."""
    scored = [
        ItemResult(query=f"{group} {place}", group=group, metrics={"probability": own[side]} | known)
        for group, own in values.items()
        for known in [{"known": own[2]} if side == 0 else {}]
        for place in range(2)
    ]
    return TaskResult(task=task, split=split, status="complete", items=scored)


def compared(record: formless.Record, *tasks: tuple[str, Any, Mentions]) -> Comparison:
    """Two records of these tasks alone."""
    before, after = ([mentioned(*task, side) for task in tasks] for side in (0, 1))
    return Comparison(record.model_copy(update={"tasks": before}), record.model_copy(update={"tasks": after}), ())


@pytest.fixture
def record(tiny: Tiny, target_folder: Path) -> formless.Record:
    rows = [
        {"query": f"{name} was born in ___.", "answer": "London", "type": "cloze", "mention": mention, "named": name}
        for name, mention in (("Ada Lovelace", "full name"), ("Lovelace", "short name"))
    ]
    (target_folder / "forget_mentions.json").write_text(json.dumps(rows), "utf-8")
    return formless.evaluate(tiny(), Target("Ada Lovelace", target_folder), "mentions,qa", progress=False)


def test_maps_are_of_known_items_by_mention_in_the_order_of_their_entries(record: formless.Record) -> None:
    found = compared(
        record,
        ("qa_mentions", "forget", {"alias": (0.4, 0.3, 1), "full name": (0.4, 0.1, 0)}),
        ("fb_mentions", "forget", {"description": (0.5, 0.55, 1), "full name": (0.5, 0.15, 1)}),
        ("level3", "forget", {"role play": (0.4, 0.1, 1)}),
    )
    (map_,) = comparison_maps(found)
    assert (map_.split, map_.unit) == ("forget", "known items of those asked")
    assert map_.forms == ("fb_mentions", "qa_mentions")
    assert map_.mentions == ("full name", "alias", "description")
    changes = {key: (round(cell.change, 6), cell.n) for key, cell in map_.cells.items()}
    assert changes == {
        ("fb_mentions", "full name"): (-0.7, "2 of 2"), ("fb_mentions", "description"): (0.1, "2 of 2"),
        ("qa_mentions", "alias"): (-0.25, "2 of 2"),
    }  # fmt: skip
    table = map_.table()
    assert table.columns == ("mention", "Fill in the blank", "Question")
    assert table.rows == (
        ("full name", "-70.0 % (2 of 2)", "–"), ("alias", "–", "-25.0 % (2 of 2)"), ("description", "+10.0 % (2 of 2)", "–"),
    )  # fmt: skip


def test_without_known_mentions_there_is_no_map(record: formless.Record) -> None:
    assert comparison_maps(compared(record, ("qa_mentions", "forget", {"alias": (0.4, 0.3, 0)}))) == []


def test_the_heat_map_says_what_was_lost_and_of_how_many() -> None:
    cells = {("fb_mentions", "full name"): Cell(-0.7, "12 of 14"), ("fb_mentions", "initial and surname"): Cell(0.2, "5")}
    found = MentionMap("forget", ("fb_mentions",), ("full name", "initial and surname"), cells, "targets")
    plot = mention_plot(found)
    for text in (">70 %<", ">12 of 14<", ">-20 %<", ">5<", ">Fill in the blank<", ">full name<", "currentColor"):
        assert text in plot, text
    assert "<image" not in plot
    assert plot == mention_plot(found)


def test_the_page_about_an_edit_shows_the_maps(record: formless.Record, tmp_path: Path) -> None:
    stub = {"method": "other", "subject": "Ada", "config": {}, "facts": {}, "seconds": 0.1, "layers": []}
    found = compared(record, ("qa_mentions", "forget", {"alias": (0.4, 0.3, 1), "full name": (0.4, 0.1, 1)}))
    write_report(tmp_path / "report.html", found.original, found.edited.model_copy(update={"edits": [stub]}))
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Form by mention, about the concept (to forget)" in page
    assert "about its neighbors (to keep)</h2>\n<figure" not in page
    assert page.count(">2 of 2<") == 4  # in the map and in the table
    assert "<td>Question, by mention, full name</td>" in page


def test_a_notebook_shows_the_maps_of_a_comparison(record: formless.Record) -> None:
    values = {"alias": (0.4, 0.3, 1), "full name": (0.4, 0.1, 1)}
    maps = compared(record, ("qa_mentions", "forget", values), ("fb_mentions", "neighbor", values)).heat_maps()
    titles = ["form by mention, about the concept (to forget)", "form by mention, about its neighbors (to keep)"]
    assert repr(maps) == f"HeatMaps({'; '.join(titles)})"
    page = maps._repr_html_()
    assert re.findall("<figcaption>(.*?)</figcaption>", page) == titles
    assert page.count("<svg") == 2
    assert "75 %" in page
    with pytest.raises(UserError, match="nothing to draw a heat map of"):
        compared(record).heat_maps()
