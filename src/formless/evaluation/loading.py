"""Read records, of this schema version and of the one before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from formless import store
from formless.edits.edit import upgrade_edit_info
from formless.errors import DataError
from formless.evaluation.record import ItemResult, Record, TaskResult
from formless.evaluation.registry import TASKS
from formless.evaluation.task import Task
from formless.evaluation.verification import faults


class DamagedRecordError(DataError):
    """A file that is a record, but not as it was written, or of a newer version."""


def load_record(path: str | Path) -> Record:
    """Read a record, of this schema version or of version 2.

    Raises:
        DataError: The file is missing or holds no record.
        DamagedRecordError: The file holds a record of a newer version, or one with a field that is missing, is none of its
            type or contradicts another.

    Examples:
        >>> import formless
        >>> lm = formless.load("smollm2")
        >>> target = formless.find_target("sample", "Marie Curie")
        >>> formless.evaluate(lm, target, "qa", limit=2, progress=False).save("marie_curie.json")
        >>> formless.load_record("marie_curie.json").subject
        'Marie Curie'
    """
    remedy, path = "give a file that `formless eval --out` wrote", Path(path)
    is_record = _looks_like_a_record(path)
    kind = DamagedRecordError if is_record else DataError
    try:
        found = store.read_document(path, store.RECORD_SCHEMA, error=kind)
        record = Record.model_validate(upgraded(found) if found.get("format") == 2 else found)
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        place = ".".join(map(str, first["loc"])) if first else ""
        reason = f", field {place}: {first['msg']}" if first and place else f": {_reason(error)}" if is_record else ""
        raise kind("the record cannot be read", where=f"{path}{reason}", remedy=remedy) from error
    if fault := next(faults(record), None):
        field, reason = fault
        remedy = "evaluate again; the file has changed since it was written"
        raise DamagedRecordError("the record contradicts itself", where=f"{path}, {field}: {reason}", remedy=remedy)
    return record


def _looks_like_a_record(path: Path) -> bool:
    """Return whether a file holds the field that every record has, however damaged the rest is."""
    try:
        return path.is_file() and b'"probes_digest"' in path.read_bytes()
    except OSError:
        return False


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return (str(error).splitlines() or [type(error).__name__])[0]


def upgraded(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of version 2 as one of version 3.

    Version 2 kept forms and tasks apart, and every attack of level 3 as a form of its own. Metrics are computed from the items
    anew; the confidence intervals of membership inference differ by the noise of their resampling.
    """
    new = {name: value for name, value in old.items() if name not in ("forms", "tasks", "without_neighbors")}
    attacks: dict[tuple[str, str], str] = {}
    results: list[dict[str, Any]] = []
    for form in old["forms"]:
        whole, _, attack = form["form"].partition("level3_")
        if not whole and attack:
            attacks |= {(item["query"], item["prompt"]): attack.replace("_", " ") for item in form["items"]}
            continue
        probes = [_upgraded_probe(TASKS[form["form"]], item) for item in form["items"]]
        results.append(form | {"task": form["form"], "items": probes})
    if attacks and not any(result["task"] == "level3" for result in results):
        own = [item for form in old["forms"] if form["form"].startswith("level3_") for item in form["items"]]
        whole = {"task": "level3", "split": "forget", "status": "scored", "reason": None}
        results.append(whole | {"items": [_upgraded_probe(TASKS["level3"], item) for item in own]})
    results += [task | {"items": [_upgraded_item(task, item) for item in task["items"]]} for task in old["tasks"]]
    new["tasks"] = []
    for result in results:
        items = [ItemResult.model_validate(item) for item in result["items"]]
        if result["task"] == "level3":
            for item in items:
                item.group = attacks.get((item.query, item.prompt or ""))
        scored = result["status"] == "scored"
        found = TaskResult(
            task=result["task"], split=result["split"], status="complete" if scored else "absent", reason=result["reason"],
            metrics=TASKS[result["task"]].summarize(items) if scored else [],
            skipped=sum(not item.metrics for item in items), items=items,
        )  # fmt: skip
        new["tasks"].append(found.model_dump())
    new["answers"] = [
        {("skipped" if name == "unscored" else name): value for name, value in answer.items()} for answer in old["answers"]
    ]
    new["edits"] = [upgrade_edit_info(edit) for edit in old["edits"]]
    return new | {"format": store.RECORD_SCHEMA, "excluded_neighbors": old.get("without_neighbors", [])}


def _upgraded_probe(task: Task, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item of a form, whose two metrics were fields of their own."""
    pairs = zip(task.metrics, (item.get("probability"), item.get("token_accuracy")), strict=True)
    metrics = {spec.name: value for spec, value in pairs if value is not None}
    return {
        "query": item["query"], "prompt": item["prompt"], "expected": item["answer"], "metrics": metrics,
        "skipped": item.get("unscored"),
    }  # fmt: skip


def _upgraded_item(task: Mapping[str, Any], item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item of a task; membership inference said in `expected` which file it is from."""
    in_files = task["task"] == "mia"
    return {
        "query": item["query"], "prompt": task["prompt"] if item is task["items"][0] else None,
        "expected": None if in_files else item.get("expected"), "group": item.get("expected") if in_files else None,
        "answer": item.get("answer"), "metrics": item.get("figures", {}), "skipped": item.get("unscored"),
    }  # fmt: skip
