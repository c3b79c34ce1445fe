"""Tasks of lm-evaluation-harness on a model, beside our own in its record."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formless.errors import DataError, UnknownNameError, UserError
from formless.evaluation.record import HarnessSource, ItemResult, Record, TaskMetric, TaskResult
from formless.evaluation.statistics import mean_metric

if TYPE_CHECKING:
    from formless.models.lm import LM
    from formless.progress import Progress

OPTION = "--lm-eval"
PREFIX = "lm_eval_"
"""Before the names of lm-eval's tasks: some are ours, too, e.g. mmlu."""

BATCH = 8
CHUNK = 256
"""Requests between two reports of progress."""

SHOWN = 300
SEED = 1234  # lm-eval's own
NO_FILTER = "none"
UNSCORED = "lm-eval has no metric of a single document here"


@dataclass(frozen=True)
class Entry:
    """What lm-eval has under one name.

    Args:
        tasks: lm-eval's tasks by name: several for a group or a tag.
        pooled: Metrics of which a group also has the mean over all its documents.
    """

    tasks: Mapping[str, Any]
    pooled: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Harness:
    """Tasks of lm-eval with their data.

    Args:
        entries: By the name that the user gave.
        limit: The most documents of a task, its first ones.
        batch_size: Requests in one forward pass.
        version: Of lm-eval.
    """

    entries: Mapping[str, Entry]
    limit: int | None = None
    batch_size: int = BATCH
    version: str = ""

    def added(self, lm: LM, record: Record, report: Progress) -> Record:
        """Run the tasks on a model and return its record with their results.

        Args:
            lm: The model, as it was when the record was made.
            record: Our own evaluation of it.
            report: The progress callback.

        Raises:
            UserError: lm-eval refuses a task, e.g. one that runs code.
        """
        found = self._run(lm, report)
        tasks = [self._result(name, found) for name in self.entries]
        digest = hashlib.sha256(record.probes_digest.encode())
        for samples in found["samples"].values():
            for sample in samples:
                digest.update("".join(sample[f"{part}_hash"] for part in ("doc", "prompt", "target")).encode())
        update = {
            "tasks": [*record.tasks, *tasks], "probes_digest": digest.hexdigest()[:16],
            "versions": record.versions | {"lm_eval": self.version},
        }  # fmt: skip
        return record.model_copy(update=update)

    def _run(self, lm: LM, report: Progress) -> dict[str, Any]:
        """Return what `lm_eval.evaluate` returns, with every sample."""
        from lm_eval.evaluator import evaluate
        from transformers import set_seed

        leaves = {name: task for entry in self.entries.values() for name, task in entry.tasks.items()}
        for task in leaves.values():
            if task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", 0)
            task.set_fewshot_seed(SEED)
        set_seed(SEED)
        with _quiet():
            model = _model(lm, self.batch_size, report)
            try:
                options = {"limit": self.limit, "bootstrap_iters": 0, "log_samples": True}
                return dict(evaluate(model, {"tasks": leaves}, **options))
            except (AssertionError, ValueError) as error:
                raise UserError(f"lm-eval refuses: {_reason(error)}", where=OPTION, remedy="leave this task out") from error

    def _result(self, name: str, found: Mapping[str, Any]) -> TaskResult:
        """Return one entry's result: of a group or a tag, with a group of items for each of its tasks."""
        entry = self.entries[name]
        items: list[ItemResult] = []
        metrics: list[TaskMetric] = []
        for leaf in entry.tasks:
            group = leaf if list(entry.tasks) != [name] else None
            own = _items(found["samples"][leaf], group)
            metrics += _metrics(found["results"][leaf], own, group)
            items += [item if item.metrics else item.model_copy(update={"skipped": UNSCORED}) for item in own]
        pooled = dict.fromkeys(one.metric for one in metrics if one.metric.partition(",")[0] in entry.pooled)
        values = {metric: [item.metrics[metric] for item in items if metric in item.metrics] for metric in pooled}
        whole = [TaskMetric(metric=metric, **mean_metric(own).model_dump()) for metric, own in values.items() if own]
        kinds = {leaf: f"{_version(found['versions'][leaf])}, {found['n-shot'].get(leaf, 0)}-shot" for leaf in entry.tasks}
        better = {key: value for leaf in entry.tasks for key, value in found["higher_is_better"].get(leaf, {}).items()}
        directions = {one.metric: better.get(one.metric.partition(",")[0]) for one in metrics}
        source = HarnessSource(
            name=name, version=self.version, tasks=kinds,
            higher_is_better={metric: value for metric, value in directions.items() if value is not None},
        )  # fmt: skip
        return TaskResult(
            task=PREFIX + re.sub(r"[^\w-]", "_", name), status="complete", metrics=[*whole, *metrics], items=items,
            skipped=sum(not item.metrics for item in items), harness=source,
        )  # fmt: skip


def load_harness(
    names: str,
    include: Path | None = None,
    *,
    limit: int | None = None,
    batch_size: int = BATCH,
    report: Progress = lambda *_: None,
) -> Harness:
    """Find tasks of lm-eval and load their data.

    Args:
        names: Tasks, groups and tags, `hellaswag,arc_easy`.
        include: A folder with more tasks, whose YAML may name Python functions of the folder; they are run.
        limit: The most documents of a task.
        batch_size: Requests in one forward pass.
        report: The progress callback, once the names are known to be right.

    Raises:
        UnknownNameError: lm-eval has no such task.
        UserError: lm-eval is not installed, the folder is missing, or a task's data cannot be fetched.
    """
    if include and not include.is_dir():
        raise DataError("no such folder of tasks", where=include, remedy="give a folder with lm-eval's YAML files")
    try:
        from importlib.metadata import version

        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError("the package lm-eval is missing", where=OPTION, remedy="pip install 'formless[lm-eval]'") from None
    with _quiet():
        manager = TaskManager(include_path=str(include) if include else None)
        wanted = list(dict.fromkeys(name.strip() for name in names.split(",")))
        for name in wanted:
            if name not in manager.all_tasks:
                remedy = "`lm_eval ls tasks` lists them, --lm-eval-tasks adds a folder"
                raise UnknownNameError("lm-eval task", name, manager.all_tasks, where=OPTION, remedy=remedy)
        entries = {}
        for number, name in enumerate(wanted):
            report(f"loading the data of {name}", number, len(wanted))
            entries[name] = _load(manager, name)
        return Harness(entries, limit, batch_size, version("lm_eval"))


def _load(manager: Any, name: str) -> Entry:
    """Return lm-eval's tasks of a name with their data."""
    try:
        loaded = manager.load([name])
    except OSError as error:  # the errors of the hub and of datasets about data that are not there are OSErrors
        remedy = "connect to the hub, or give a task whose data are here with --lm-eval-tasks"
        raise UserError(f"the data of {name} cannot be fetched: {_reason(error)}", where=OPTION, remedy=remedy) from error
    except Exception as error:  # whatever the YAML and the code of a task run into
        remedy = "see that `lm_eval` runs it"
        raise UserError(f"the task {name} cannot be loaded: {_reason(error)}", where=OPTION, remedy=remedy) from error
    group = loaded.get("groups", {}).get(name)
    means = (group.aggregate_metric_list if group else None) or ()
    return Entry(loaded["tasks"], frozenset(mean.metric for mean in means if mean.weight_by_size))


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _model(lm: LM, batch_size: int, report: Progress) -> Any:
    """Return a model for lm-eval that shares the weights and says how far it is; lm-eval changes its copy of the tokenizer."""
    from lm_eval.models.huggingface import HFLM

    class Reporting(HFLM):  # type: ignore[misc]  # lm-eval has no types
        def loglikelihood(self, requests: list[Any], **_: Any) -> list[Any]:
            return self._in_chunks("scoring lm-eval's answers", super().loglikelihood, requests)

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[Any]:
            return self._in_chunks("scoring lm-eval's texts", super().loglikelihood_rolling, requests)

        def generate_until(self, requests: list[Any], **_: Any) -> list[Any]:
            return self._in_chunks("generating lm-eval's answers", super().generate_until, requests)

        def _in_chunks(self, title: str, run: Callable[..., list[Any]], requests: list[Any]) -> list[Any]:
            found: list[Any] = []
            for start in range(0, len(requests), CHUNK):
                report(title, start, len(requests))
                found += run(requests[start : start + CHUNK], disable_tqdm=True)
            return found

    found = Reporting(pretrained=lm.model, tokenizer=copy.deepcopy(lm.tokenizer), batch_size=batch_size)
    found._device = lm.device  # lm-eval takes that of the first weight, which is none where it is offloaded
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide lm-eval's log and bars, which would stand between our own lines."""
    from datasets import utils
    from lm_eval.api import task
    from lm_eval.models import huggingface
    from tqdm import tqdm

    def hidden(*values: Any, **options: Any) -> Any:
        return tqdm(*values, **{**options, "disable": True})

    logger, had_bars = logging.getLogger("lm_eval"), not utils.are_progress_bars_disabled()
    level, bars = logger.level, [(module, module.tqdm) for module in (task, huggingface)]
    logger.setLevel(logging.CRITICAL)
    utils.disable_progress_bars()
    for module, _ in bars:
        module.tqdm = hidden
    try:
        yield
    finally:
        for module, bar in bars:
            module.tqdm = bar
        logger.setLevel(level)
        if had_bars:
            utils.enable_progress_bars()


def _items(samples: Sequence[Mapping[str, Any]], group: str | None) -> list[ItemResult]:
    """Return an item for each document of a task; a sample is one document after one filter."""
    found: dict[int, ItemResult] = {}
    for sample in samples:
        item = found.setdefault(
            sample["doc_id"], ItemResult(query=str(sample["arguments"][0][0])[-SHOWN:], group=group, answer=_written(sample))
        )
        for metric in sample["metrics"]:
            if isinstance(sample[metric], Real) and math.isfinite(sample[metric]):
                item.metrics[_metric_name(metric, sample["filter"])] = float(sample[metric])
    return list(found.values())


def _version(value: Any) -> str:
    return "no version" if value == "Yaml" else f"version {value}"  # what lm-eval gives where a task states none


def _written(sample: Mapping[str, Any]) -> str | None:
    first = sample["filtered_resps"][0]
    return first if isinstance(first, str) else None


def _metric_name(metric: str, filter_name: str) -> str:
    return metric if filter_name == NO_FILTER else f"{metric}, {filter_name}"


def _metrics(result: Mapping[str, Any], items: Sequence[ItemResult], group: str | None) -> list[TaskMetric]:
    """Return lm-eval's metrics of a task: with a confidence interval where they are means over documents."""
    found = []
    for key, value in result.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, Real) or not math.isfinite(value):
            continue
        name = _metric_name(metric, filter_name)
        own = mean_metric([item.metrics[name] for item in items if name in item.metrics])
        if own.value is None or not math.isclose(own.value, value, rel_tol=1e-6, abs_tol=1e-9):
            for item in items:  # the mean of what they have is not the metric
                item.metrics.pop(name, None)
            own = own.model_copy(update={"value": float(value), "ci": None, "n": len(items)})
        found.append(TaskMetric(metric=name, group=group, **own.model_dump()))
    return found
