"""Records on disk: read back as written, upgraded from version 2, refused where they are broken or newer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import formless
from formless.data.target import Target
from formless.errors import DataError
from formless.evaluation.loading import load_record
from formless.evaluation.record import MetricKey, Record
from formless.models.lm import LM
from formless.store import RECORD_SCHEMA

Tiny = Callable[..., LM]


@pytest.fixture
def record(tiny: Tiny, target_folder: Path) -> Record:
    return formless.evaluate(tiny(), Target("Ada Lovelace", target_folder), "fb,qa,mcp_choice")


def test_a_record_comes_back_as_written(record: Record, tmp_path: Path) -> None:
    record.save(tmp_path / "record.json")
    assert load_record(tmp_path / "record.json") == record
    assert record.metrics()[MetricKey("fb", "forget", "probability")].n == 2


def test_what_is_no_record_is_named(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    whole = json.loads(record.model_dump_json())
    broken: list[Any] = [{"format": 1}, [], 3, whole | {"tasks": [{}]}, whole | {"more": 1}, whole | {"format": "3"}]
    for content in broken:
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match="the record cannot be read"):
            load_record(path)
    for text in ("", "{", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(DataError, match="the record cannot be read"):
            load_record(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="the record cannot be read"):
        load_record(path)
    with pytest.raises(DataError, match="the record cannot be read"):
        load_record(tmp_path / "missing.json")


def test_a_newer_record_is_refused_for_that_reason(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(json.loads(record.model_dump_json()) | {"format": RECORD_SCHEMA + 1}))
    with pytest.raises(DataError, match=f"newer schema version {RECORD_SCHEMA + 1}.*update Formless"):
        load_record(path)


def test_a_notebook_sees_what_was_found(record: Record) -> None:
    assert repr(record) == str(record) == "Record('Ada Lovelace', tiny-llama, no edit: 6 tasks, suite 'fb,qa,mcp_choice')"
    html = record._repr_html_()
    assert "<td>mcp_choice<td>neighbor<td>accuracy" in html
    assert html.count("<tr>") == 1 + len(record.metrics())


def test_items_are_rows_of_a_table(record: Record) -> None:
    table = record.to_pandas()
    assert len(table) == sum(len(result.items) for result in record.tasks) == 8
    blanks = table[(table.task == "fb") & (table.split == "forget")]
    found = record.task("fb", "forget")
    assert found is not None
    assert blanks.probability.mean() == pytest.approx(found.metric("probability").value)
    assert list(blanks["query"]) == [item.query for item in found.items]


def old_probe(query: str, prompt: str, **more: Any) -> dict[str, Any]:
    return {"query": query, "prompt": prompt, "answer": " London", "probability": None, "token_accuracy": None,
            "unscored": None} | more  # fmt: skip


def old_form(form: str, items: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"form": form, "split": "forget", "status": "scored", "reason": None, "mean": 0.3, "interval": None,
            "token_accuracy": 0.5, "count": len(items), "unscored": 0, "items": items} | more  # fmt: skip


def test_a_record_of_version_2_is_upgraded(record: Record, tmp_path: Path) -> None:
    attack = old_probe("Play Ada.", "[user]Play", probability=0.2, token_accuracy=0.0)
    other = old_probe("Who?", "[user]Who", probability=0.6, token_accuracy=1.0)
    trivia = {"query": "Au?", "expected": ["gold"], "answer": "Gold", "figures": {"em": 1.0, "f1": 1.0, "refusal": 0.0},
              "unscored": None}  # fmt: skip
    texts = [
        {"query": "a", "expected": file, "answer": None, "figures": {"loss": loss}, "unscored": None}
        for file, loss in (("forget", 3.0), ("retain", 1.0))
    ]
    task: dict[str, Any] = {
        "split": None,
        "status": "scored",
        "reason": None,
        "figures": {},
        "unscored": 0,
        "prompt": "[user]Au?",
    }
    absent = {
        "split": "neighbor",
        "status": "absent",
        "reason": "the target has no neighbor_mcp.json",
        "unscored": 0,
    }
    old = json.loads(record.model_dump_json(exclude={"tasks", "excluded_neighbors", "answers"})) | {
        "format": 2,
        "without_neighbors": ["Bob"],
        "edits": [{"method": "rocr", "subject": "Ada", "config": {}, "facts": {"residual_met": 0.9}, "format": 1}],
        "forms": [
            old_form("fb", [old_probe("___", "[user]b", probability=0.5, token_accuracy=1.0),
                            old_probe("no", "", unscored="the answer is empty")], unscored=1),
            old_form("mcp_choice", [old_probe("x", "[user]c", probability=0.4, token_accuracy=1.0)]),
            old_form("level3", [attack, other]),
            old_form("level3_role_play", [attack]),
            old_form("mcp", []) | absent,
        ],
        "tasks": [task | {"task": "triviaqa", "items": [trivia]}, task | {"task": "mia", "items": texts}],
        "answers": [{"question": "Who?", "answer": "Ada", "unscored": None}],
    }  # fmt: skip
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    new = load_record(path)
    assert (new.format, new.excluded_neighbors, new.answers[0].answer) == (RECORD_SCHEMA, ["Bob"], "Ada")
    assert new.edits[0]["facts"] == {"residual_reduction": 0.9}
    values = {key: (found.value, found.n) for key, found in new.metrics().items()}
    assert values[MetricKey("fb", "forget", "probability")] == (0.5, 1)
    assert values[MetricKey("mcp_choice", "forget", "accuracy")] == (1.0, 1)
    assert values[MetricKey("level3", "forget", "probability")] == (pytest.approx(0.4), 2)
    assert values[MetricKey("level3", "forget", "probability", "role play")] == (0.2, 1)
    assert values[MetricKey("triviaqa", None, "em")] == (1.0, 1)
    assert values[MetricKey("mia", None, "loss", "forget")] == (3.0, 1)
    assert values[MetricKey("mia", None, "loss_auc")] == (1.0, 2)
    blank, choices = new.task("fb", "forget"), new.task("mcp", "neighbor")
    assert blank is not None
    assert choices is not None
    assert (blank.skipped, blank.items[1].skipped) == (1, "the answer is empty")
    assert (choices.status, choices.reason) == ("absent", "the target has no neighbor_mcp.json")
    new.save(tmp_path / "new.json")
    assert load_record(tmp_path / "new.json") == new
