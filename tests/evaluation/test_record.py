"""Records on disk: read back as written, upgraded from version 2, refused where they are broken or newer."""

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
from formless.report.independence import ratios
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
    edit = {
        "format": 1, "method": "rocr", "subject": "Ada", "config": {}, "facts": {"residual_met": 0.9}, "model": "m",
        "model_source": "m", "model_revision": None, "model_fingerprint": "f", "dtype": "float32", "layers": [], "seconds": 1.0,
        "created": "", "versions": {},
    }  # fmt: skip
    old = json.loads(record.model_dump_json(exclude={"tasks", "excluded_neighbors", "answers"})) | {
        "format": 2,
        "without_neighbors": ["Bob"],
        "edits": [edit],
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
