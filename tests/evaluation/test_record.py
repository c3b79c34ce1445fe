"""Records on disk: read back as written, refused where they are broken, older or newer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import formless
from formless.data.target import Target
from formless.errors import DataError
from formless.evaluation.loading import DamagedRecordError, load_record
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.registry import TASKS
from formless.models.lm import LM
from formless.report.ratios import ratios
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


def test_a_record_of_an_earlier_version_is_refused(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(json.loads(record.model_dump_json()) | {"format": RECORD_SCHEMA - 1}))
    with pytest.raises(
        DataError, match=f"schema version {RECORD_SCHEMA - 1}, which does not say what .* knows .*evaluate again"
    ):
        load_record(path)


def first_metric(found: Any) -> Any:
    return found["tasks"][0]["metrics"][0]


def first_item(found: Any) -> Any:
    return found["tasks"][0]["items"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda r: first_metric(r).update(value=0.9999),
            r"tasks.0 \(fb, forget\).metrics \(probability\).value: it",
        ),
        (
            lambda r: first_metric(r).update(value=1.5),
            r"\(probability\).value: 1.5 is no probability, .*between 0 and 1",
        ),
        (lambda r: first_metric(r).update(value=float("nan")), "nan is no finite number"),
        (lambda r: first_metric(r).update(ci=[0.0, float("inf")]), r"inf is no finite number, field tasks.0.metrics.0.ci.1"),
        (lambda r: first_metric(r).update(ci=[0.4, 0.3]), r"metrics \(probability\).ci: its ends"),
        (lambda r: first_metric(r).update(n=3), r"metrics \(probability\).n: it says 3, and 2 items"),
        (lambda r: first_metric(r).update(value=None), r"metrics \(probability\).value: it is None, and the mean of 2"),
        (lambda r: first_metric(r).update(n=-1), r"field tasks.0.metrics.0.n: .*greater than or equal to 0"),
        (lambda r: r["tasks"][0]["metrics"].append(first_metric(r)), "the metric is there twice"),
        (lambda r: r["tasks"][0]["metrics"].pop(0), "items.0.metrics.probability: no metric of the task"),
        (lambda r: first_item(r)["metrics"].update(probability=-0.1), r"items.0.metrics.probability: -0.1 is no probability"),
        (lambda r: first_item(r)["metrics"].update(token_accuracy="high"), "field tasks.0.items.0.metrics.token_accuracy"),
        (
            lambda r: first_item(r)["metrics"].update(known=1 - first_item(r)["metrics"]["known"]),
            r"items.0.metrics.known: it does not follow from the foils",
        ),
        (lambda r: first_item(r)["foils"].update(Bob=-1), r"items.0.foils.Bob: -1 is no probability"),
        (lambda r: first_item(r)["metrics"].clear(), r"skipped: it says 0, and 1 items have no metrics"),
        (lambda r: r["tasks"][0]["items"].pop(), r"metrics \(probability\).n: it says 2, and 1 items"),
        (lambda r: r["tasks"][0].update(status="absent"), "the task is absent, yet has items"),
        (lambda r: r["tasks"].append(r["tasks"][0]), r"tasks.6 \(fb, forget\): the task is there twice"),
        (lambda r: r.update(seconds=float("inf")), "inf is no finite number, field seconds"),
        (lambda r: r.update(token_budget="many"), "field token_budget: "),
        (lambda r: r.pop("dtype"), "field dtype: Field required"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(
    record: Record, tmp_path: Path, change: Callable[[Any], object], said: str
) -> None:
    whole = json.loads(record.model_dump_json())
    change(whole)
    (tmp_path / "r.json").write_text(json.dumps(whole))
    with pytest.raises(DamagedRecordError, match=rf"r\.json[:,] .*{said}"):
        load_record(tmp_path / "r.json")


def test_every_task_holds_together(tiny: Tiny, tmp_path: Path) -> None:
    target = formless.find_target("sample", "1")
    lm = tiny(context=2048)
    formless.evaluate(lm, target, ",".join(TASKS), limit=1, progress=False).save(tmp_path / "r.json")
    assert {result.task for result in load_record(tmp_path / "r.json").tasks} == set(TASKS)


def test_items_that_are_not_the_originals_are_named(record: Record) -> None:
    for change, said in ((0, "fb .forget., item 1, field query"), (None, "fb .forget., 1 items, not 2")):
        other = record.model_copy(deep=True)
        if change is None:
            other.tasks[0].items.pop()
        else:
            other.tasks[0].items[change].query = "Who else?"
        with pytest.raises(DataError, match=f"the items of a record are not those of its original .*{said}"):
            formless.compare(record, other)
        with pytest.raises(DataError, match="the items of a record"):
            ratios(record, other)
