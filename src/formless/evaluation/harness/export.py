"""Our tasks as tasks of lm-evaluation-harness: the same prompts and answers, split into the same tokens, and our metrics."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from formless import store
from formless.data.rows import SPLITS, Item
from formless.data.target import Target
from formless.errors import DataError
from formless.evaluation.harness import task_functions
from formless.evaluation.plan import Job, make_plan
from formless.evaluation.prompts import NEW_TOKENS
from formless.evaluation.task import (
    Generate,
    GradientNorm,
    MetricSpec,
    Query,
    ReadLayers,
    Request,
    Sample,
    ScoreAnswer,
    ScoreContinuation,
    ScoreLayers,
    ScoreText,
    SearchSuffix,
)
from formless.models.scoring import refusal

if TYPE_CHECKING:
    from formless.models.lm import LM

PREFIX = "formless"
METRICS = {
    task_functions.answer: ("probability",),
    task_functions.choice: ("probability", "accuracy"),
    task_functions.words: ("rouge_l", "refusal", "recall"),
    task_functions.said: ("recall",),
}
INEXPRESSIBLE: dict[type[Request], str] = {
    Sample: "it samples with our seeds", ScoreText: "it needs every token of a text", ScoreLayers: "it reads hidden layers",
    ScoreContinuation: "it needs every token of a text", GradientNorm: "it takes gradients",
    ReadLayers: "it reads hidden layers", SearchSuffix: "it searches a suffix by gradients",
}  # fmt: skip
NO_SPLIT = "it is about neither the concept nor its neighbors"
TOKENS = "its metrics need single tokens, and lm-eval returns one sum for each answer"
TOKENIZED = "lm-eval splits the prompt and its answer into other tokens"


@dataclass
class Export:
    """Tasks for lm-eval.

    Args:
        tasks: Documents and configuration of each task, by name.
        groups: The configuration of each group, by name.
        left_out: What lm-eval cannot have: the number of items by task and reason, 0 where the target has none.
    """

    tasks: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)

    def write(self, folder: Path, lm: LM, *, force: bool = False) -> None:
        """Write a YAML file for each task and group, the documents, the functions and a README.

        Args:
            folder: It is replaced as a whole.
            lm: The model whose prompts these are.
            force: Replace an older folder of tasks.

        Raises:
            OutputError: The folder exists and may not be replaced, or cannot be written.
        """
        with store.new_folder(folder, mark=store.TasksFolder.GROUP, force=force) as scratch:
            files = store.TasksFolder(scratch)
            for name, (docs, config) in self.tasks.items():
                store.write_text(files.documents(name), "".join(f"{json.dumps(doc)}\n" for doc in docs))
                store.write_text(files.task(name), _yaml(config))
            for name, config in self.groups.items():
                store.write_text(files.task(name), _yaml(config))
            store.write_text(files.functions, Path(task_functions.__file__).read_text("utf-8"))
            store.write_text(files.readme, self._readme(lm))

    def _readme(self, lm: LM) -> str:
        lines = [
            f"# Tasks for lm-evaluation-harness, with prompts for {lm.name}", "",
            "```bash", f"lm_eval --model hf --model_args pretrained=MODEL --include_path . --tasks {PREFIX}", "```", "",
            "The prompts are rendered already: leave `--apply_chat_template` out. They fit this model's tokenizer alone.", "",
            f"{len(self.tasks)} tasks. `token_accuracy` and `known` are Formless's alone. Left out:", "",
            *(f"- `{task}`, {items} items: {reason}" for (task, reason), items in self.left_out.items()),
        ]  # fmt: skip
        return "\n".join(lines) + "\n"


def export_tasks(lm: LM, targets: Sequence[Target], suite: str, limit: int | None = None) -> Export:
    """Express what a suite asks about targets as tasks for lm-eval.

    Groups: `formless_<target>_forget` and `formless_<target>_neighbor`, `formless_<target>` with both, `formless` with all
    targets, and one for each task that is reported by mention or kind, with the mean over its items.

    Args:
        lm: Renders and tokenizes the prompts; it needs no weights.
        targets: The targets with their files.
        suite: As for `evaluate`.
        limit: Most rows per file and task.

    Raises:
        DataError: Two targets have the same name, or nothing can be expressed.
        UserError: As `make_plan`.
    """
    found, whole = Export(), []
    for target in targets:
        name = f"{PREFIX}_{_slug(target.subject)}"
        if name in whole:
            raise DataError("two targets have the same name", where=target.subject, remedy="export them into two folders")
        plan = make_plan(target, suite, limit)
        own = []
        for split in SPLITS:
            group = f"{name}_{split}"
            members = [member for job in plan.jobs if job.split == split for member in _add_job(found, lm, job, group)]
            if members:
                found.groups[group] = {"group": group, "task": members}
                own.append(group)
        for job in plan.jobs:
            if job.split is None:
                found.left_out[job.task.name, job.absent or NO_SPLIT] += len(job.rows)
        if own:
            found.groups[name] = {"group": name, "task": own}
            whole.append(name)
    if not whole:
        raise DataError(f"lm-eval can have no task of the suite {suite!r}", where="--suite", remedy="choose forms or mentions")
    found.groups[PREFIX] = {"group": PREFIX, "task": whole}
    return found


def _add_job(found: Export, lm: LM, job: Job, group: str) -> Iterator[str]:
    """Add the tasks of a job, and yield the names of those that its group is to have."""
    if job.absent:
        found.left_out[job.task.name, job.absent] += 0
        return
    documents: dict[tuple[Any, str | None], list[dict[str, Any]]] = {}
    for (_, row), query in zip(job.rows, job.queries(lm), strict=True):
        for function, docs in _documents(lm, row, query, {spec.name for spec in job.task.metrics}):
            if isinstance(docs, str):
                found.left_out[job.task.name, docs] += 1
            else:
                documents.setdefault((function, (query.group or "other") if job.task.groups else None), []).extend(docs)
    for function, keys in groupby(sorted(documents, key=lambda key: list(METRICS).index(key[0])), key=lambda key: key[0]):
        name = f"{group}_{job.task.name}" + ("_said" if function is task_functions.said else "")
        specs = [spec for spec in job.task.metrics if spec.name in METRICS[function]]
        parts = []
        for key in keys:
            parts.append(f"{name}_{_slug(key[1])}" if key[1] else name)
            found.tasks[parts[-1]] = (documents[key], _config(parts[-1], function, specs))
        if parts != [name]:
            mean = [{"metric": spec.name, "aggregation": "mean", "weight_by_size": True} for spec in specs]
            found.groups[name] = {"group": name, "task": parts, "aggregate_metric_list": mean}
        yield name


def _documents(lm: LM, row: Any, query: Query, metrics: set[str]) -> Iterator[tuple[Any, list[dict[str, Any]] | str]]:
    """Yield a function that measures and its documents, or why there are none."""
    if query.skipped:
        yield None, query.skipped
        return
    if reason := next((INEXPRESSIBLE[type(one)] for one in query.requests if type(one) in INEXPRESSIBLE), None):
        yield None, reason
        return
    scored = [request for request in query.requests if isinstance(request, ScoreAnswer)]
    if scored and not query.sums:
        yield None, TOKENS
    elif query.sums == "answer":
        yield task_functions.answer, _answer(lm, query.text, scored[0])
    elif query.sums == "choice":
        versions = [list(own) for _, own in groupby(scored, key=lambda request: request.prompt)]
        found = [_choice(lm, query.text, version) for version in versions]
        failed = next((one for one in found if isinstance(one, str)), None)
        yield task_functions.choice, failed or [one for one in found if not isinstance(one, str)]
    for request in query.requests:
        if isinstance(request, Generate):
            yield (task_functions.words if "rouge_l" in metrics else task_functions.said), _line(lm, row, query.text, request)


def _answer(lm: LM, text: str, request: ScoreAnswer) -> list[dict[str, Any]] | str:
    """Return the document of an answer, or why there is none."""
    ours = lm.encode(request.prompt, request.answer)
    if skipped := refusal(lm, ours):
        return skipped.reason
    context, space = _split_space(request.prompt)
    ids, start = lm_eval_tokens(lm, context, space + request.answer)
    before, space_start = lm_eval_tokens(lm, context, space) if space else (ids[:start], start)
    if ids != ours.ids or before != ids[: ours.answer_start] or space_start != start:
        return TOKENIZED
    choices = [space + request.answer, *([space] if space else [])]
    return [{"query": text, "context": context, "choices": choices, "tokens": len(ids) - ours.answer_start}]


def _choice(lm: LM, text: str, version: Sequence[ScoreAnswer]) -> dict[str, Any] | str:
    """Return the document of one order of a question's options, or why there is none."""
    context, space = _split_space(version[0].prompt)  # white space before every choice leaves their shares as they are
    for request in version:
        ours = lm.encode(request.prompt, request.answer)
        if skipped := refusal(lm, ours):
            return skipped.reason
        ids, start = lm_eval_tokens(lm, context, space + request.answer)
        spaces = len(lm_eval_tokens(lm, context, space)[0]) - start if space else 0
        if ids != ours.ids or start + spaces != ours.answer_start:
            return TOKENIZED
    return {"query": text, "context": context, "choices": [space + request.answer for request in version]}


def _line(lm: LM, row: Any, text: str, request: Generate) -> list[dict[str, Any]] | str:
    """Return the document of an answer in words, or why there is none."""
    if not isinstance(row, Item) or request != Generate(request.prompt, NEW_TOKENS, one_line=True):
        return f"it does not write one line of at most {NEW_TOKENS} tokens"
    if not row.answer.replace(".", "").strip():
        return "the right answer has no word"
    ids = lm.encode(request.prompt).ids
    if reason := lm.context_overflow(len(ids), request.max_new_tokens):
        return reason
    if lm_eval_tokens(lm, request.prompt)[0] != ids:
        return TOKENIZED
    return [{"query": text, "context": request.prompt, "answer": row.answer, "accepted": [row.answer, *row.aliases]}]


def _split_space(prompt: str) -> tuple[str, str]:
    """Return a prompt without the white space at its end, and that white space."""
    return prompt.rstrip(), prompt[len(prompt.rstrip()) :]


def lm_eval_tokens(lm: LM, context: str, continuation: str = "") -> tuple[list[int], int]:
    """Return the tokens of a text and how many of them are the context, as lm-eval splits it.

    The rules are those of `HFLM.tok_encode` and `TemplateLM._encode_pair` of lm-eval 0.4.13, without `add_bos_token`. The
    context ends with no white space.
    """
    tokenizer = lm.tokenizer
    first = next((token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if isinstance(token, int)), None)
    begin = "" if first is None else str(tokenizer.decode([first]))

    def encode(text: str) -> list[int]:
        special = not (begin and text.startswith(begin))
        return list(tokenizer.encode(text, add_special_tokens=special))

    if context or not continuation:
        return encode(context + continuation), len(encode(context))
    ids = list(tokenizer.encode(continuation, add_special_tokens=False))
    return (ids, 1) if first is None or ids[:1] == [first] else ([first, *ids], 1)


# --- Files


class _Function(str):
    """A function beside the YAML file, which lm-eval imports."""


class _Dumper(yaml.SafeDumper):
    """Writes functions with lm-eval's tag."""


_Dumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))


def _yaml(config: dict[str, Any]) -> str:
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _function(function: Any) -> _Function:
    return _Function(f"{store.TasksFolder.MODULE}.{function.__name__}")


def _config(name: str, function: Any, specs: Sequence[MetricSpec]) -> dict[str, Any]:
    """Return the configuration of a task."""
    scored = function in (task_functions.answer, task_functions.choice)
    kind: dict[str, Any] = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": 0}
    if not scored:
        kind = {"output_type": "generate_until", "doc_to_target": "answer"}
        kind["generation_kwargs"] = {"until": ["\n"], "do_sample": False, "max_gen_toks": NEW_TOKENS}
    return {
        "task": name, "custom_dataset": _function(task_functions.documents), "test_split": "test",
        "dataset_kwargs": {"jsonl": store.TasksFolder(Path()).documents(name).name},
        **kind, "doc_to_text": "context", "target_delimiter": "", "num_fewshot": 0, "process_results": _function(function),
        "metric_list": [
            {"metric": spec.name, "aggregation": "mean", "higher_is_better": spec.higher_is_better} for spec in specs
        ],
        "metadata": {"version": 1},
    }  # fmt: skip


def _slug(text: str) -> str:
    """Return a text as part of a name: `Albert Einstein` -> `albert_einstein`."""
    return re.sub(r"\W+", "_", text.casefold()).strip("_")
