"""Our tasks run by lm-eval, and lm-eval's tasks in our records, on tiny random models."""

from __future__ import annotations

import builtins
import json
import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from tokenizers.processors import TemplateProcessing

import formless
from formless.data.target import Target
from formless.errors import DataError, UnknownNameError, UserError
from formless.evaluation.harness import export, run
from formless.evaluation.harness.export import export_tasks
from formless.evaluation.harness.run import load_harness
from formless.evaluation.loading import DamagedRecordError, load_record
from formless.evaluation.record import HarnessSource, Record
from formless.models.lm import LM
from formless.models.overlay import Factors
from formless.report.page import write_report
from tests.conftest import byte_tokenizer, tiny_model

SUITE = "statement,fb,qa,mcp,sub_qa,choices,qa_mentions,qa_alone,gen_qa,reverse,sample_qa,sub_qa_letters,mmlu"


@pytest.fixture(autouse=True)
def _own_tasks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval reads 14,000 YAML files of its own for six seconds."""
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))


def ignore(*_: object) -> None:
    """No progress is shown."""


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")


@pytest.fixture
def target(target_folder: Path) -> Target:
    """A small target with questions by mention and in reverse."""
    common = {"answer": "London", "type": "question"}
    mentions = [("lower case", "ada lovelace"), ("alias", "the countess"), ("lower case", "a. lovelace")]
    rows = [{"query": f"Where was {name} born?", "mention": kind, "named": name, **common} for kind, name in mentions]
    write(target_folder, "forget_mentions", rows)
    write(target_folder, "forget_reverse", [{"query": "Who wrote the first program?", "answer": "Ada Lovelace"}])
    return Target("Ada Lovelace", target_folder)


def with_bos(lm: LM) -> LM:
    lm.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return lm


def with_written_bos(lm: LM) -> LM:
    lm.tokenizer.chat_template = "<s>" + lm.tokenizer.chat_template
    return with_bos(lm)


def with_newline(lm: LM) -> LM:
    lm.tokenizer.chat_template += "\n"
    return lm


def plain(lm: LM) -> LM:
    return lm


@pytest.mark.parametrize("changed", [plain, with_bos, with_written_bos, with_newline])
def test_lm_eval_gives_our_metrics(changed: Callable[[LM], LM], target: Target, tmp_path: Path) -> None:
    lm = changed(tiny_model(byte_tokenizer(), context=2048))
    exported = export_tasks(lm, [target], SUITE)
    exported.write(tmp_path / "tasks", lm)
    record = formless.evaluate(lm, target, SUITE, progress=False)
    harness = load_harness(",".join(exported.tasks), tmp_path / "tasks", batch_size=2)
    found = {
        (result.task.removeprefix("lm_eval_formless_ada_lovelace_"), one.metric): one.value
        for result in harness.added(lm, record, ignore).tasks[len(record.tasks) :]
        for one in result.metrics
    }
    ours = {}
    for result in record.tasks:
        for one in result.metrics:
            part = f"_{one.group.replace(' ', '_')}" if one.group else ""
            suffix = "_said" if (result.task, one.metric) == ("reverse", "recall") else ""
            ours[f"{result.split}_{result.task}{part}{suffix}", one.metric] = one.value
    assert found == {key: pytest.approx(ours[key], rel=1e-4, abs=1e-7) for key in found}
    tasks = ["statement", "fb", "qa", "mcp", "sub_qa", "mcp_choice", "tf_choice", "qa_alone", "gen_qa"]
    assert {name for name, _ in found} == {
        *(f"{split}_{task}" for split in ("forget", "neighbor") for task in tasks),
        *("forget_qa_mentions_lower_case", "forget_qa_mentions_alias", "forget_reverse", "forget_reverse_said"),
    }
    assert exported.left_out == {
        ("sub_qa_letters", export.TOKENS): 2, ("sample_qa", "it samples with our seeds"): 2,
        ("statement", "the blank is not at the end"): 2,
        ("qa_mentions", "the target has no neighbor_mentions.json"): 0, ("mmlu", "the target has no retain_mmlu.json"): 0,
        ("reverse", "the target has no neighbor_reverse.json"): 0,
    }  # fmt: skip


def test_groups_have_forget_and_neighbor_and_every_target(tiny: Callable[..., LM], target: Target, tmp_path: Path) -> None:
    lm, other = tiny(), Target("Charles Babbage", target.folder)
    exported = export_tasks(lm, [target, other], "qa,qa_mentions")
    exported.write(tmp_path / "tasks", lm)
    groups = {name: config["task"] for name, config in exported.groups.items() if name.count("babbage") == 0}
    forget, neighbor = "formless_ada_lovelace_forget", "formless_ada_lovelace_neighbor"
    assert groups == {
        "formless": ["formless_ada_lovelace", "formless_charles_babbage"], "formless_ada_lovelace": [forget, neighbor],
        forget: [f"{forget}_qa", f"{forget}_qa_mentions"], neighbor: [f"{neighbor}_qa"],
        f"{forget}_qa_mentions": [f"{forget}_qa_mentions_lower_case", f"{forget}_qa_mentions_alias"],
    }  # fmt: skip
    loaded = lm_eval.tasks.TaskManager(include_path=str(tmp_path / "tasks")).load(["formless"])
    assert set(loaded["tasks"]) == set(exported.tasks)
    record = formless.evaluate(lm, target, "qa_mentions", progress=False)
    result = load_harness(f"{forget}_qa_mentions", tmp_path / "tasks").added(lm, record, ignore).tasks[-1]
    whole = record.task("qa_mentions", "forget").metric("probability")  # type: ignore[union-attr]
    assert result.metric("probability").value == pytest.approx(whole.value, rel=1e-4)
    assert result.metric("probability", f"{forget}_qa_mentions_alias").n == 1
    with pytest.raises(DataError, match="two targets have the same name"):
        export_tasks(lm, [target, Target("ada lovelace", target.folder)], "qa")
    with pytest.raises(DataError, match="lm-eval can have no task of the suite 'sample_qa'"):
        export_tasks(lm, [target], "sample_qa")


def test_what_lm_eval_would_split_otherwise_is_left_out(
    tiny: Callable[..., LM], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny()
    monkeypatch.setattr(export, "lm_eval_tokens", lambda lm, context, continuation="": ([0], 1))
    with pytest.raises(DataError, match="can have no task"):
        export_tasks(lm, [target], "qa,tf_choice,gen_qa")
    monkeypatch.undo()
    short = tiny(context=64)
    exported = export_tasks(short, [target], "statement,qa")
    assert list(exported.tasks) == ["formless_ada_lovelace_forget_statement", "formless_ada_lovelace_neighbor_statement"]
    assert all("tokens are more than the model's 64" in reason for _, reason in exported.left_out if _ == "qa")


# --- lm-eval's tasks


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Tasks that lm-eval can run without a hub: two in a group, and one whose metric is no mean."""
    folder = tmp_path / "own"
    folder.mkdir()
    rows = [{"text": f"{n} plus 1 is", "choices": [str(n + 1), "a fish"], "right": n % 2} for n in range(8)]
    (folder / "sums.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    files = {"test": str(folder / "sums.jsonl")}
    data = {"dataset_path": "json", "test_split": "test", "dataset_kwargs": {"data_files": files}}
    choice = {"output_type": "multiple_choice", "doc_to_text": "text", "doc_to_choice": "choices", "doc_to_target": "right"}
    for name in ("sums", "other_sums"):
        metrics = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")]
        config = {"task": name, **data, **choice, "metric_list": metrics, "metadata": {"version": 2}}
        (folder / f"{name}.yaml").write_text(json.dumps(config), "utf-8")
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "text", "metadata": {"version": 1}}
    (folder / "texts.yaml").write_text(json.dumps({"task": "texts", **data, **rolling}), "utf-8")
    (folder / "bare.yaml").write_text(json.dumps({"task": "bare", **data, **choice}), "utf-8")
    mean = [{"metric": "acc", "weight_by_size": True}]
    both = {"group": "both", "task": ["sums", "other_sums"], "aggregate_metric_list": mean}
    (folder / "both.yaml").write_text(json.dumps(both), "utf-8")
    (folder / "faraway.yaml").write_text(json.dumps({"task": "faraway", "dataset_path": "nobody/nothing"}), "utf-8")
    (folder / "wrong.yaml").write_text(json.dumps({"task": "wrong", **data, "output_type": "dance"}), "utf-8")
    return folder


@pytest.fixture
def record(tiny: Callable[..., LM], target: Target) -> Record:
    """Our own evaluation, to which lm-eval's is added."""
    return formless.evaluate(tiny(), target, "qa", progress=False)


def test_the_difference_of_a_task_has_an_interval_over_its_documents(
    tiny: Callable[..., LM], target: Target, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = tiny(context=2048)
    before_weights, setup = lm.model.state_dict(), lm.setup_hash
    before_weights = {name: value.clone() for name, value in before_weights.items()}
    capsys.readouterr()
    harness = load_harness("sums,texts", tasks, limit=6)
    seen: list[tuple[str, int, int]] = []
    original = harness.added(lm, formless.evaluate(lm, target, "qa", progress=False), lambda *step: seen.append(step))
    down = lm.model.get_submodule("model.layers.1.mlp.down_proj").weight
    updates = {"model.layers.1.mlp.down_proj": Factors(down[:, :2].detach().clone() * 40, 3 + down[:2].detach().clone())}
    info = {"method": "cdr", "subject": "Ada Lovelace", "config": {}, "facts": {}, "layers": [], "seconds": 0.0}
    with lm.overlaid(updates, info):
        edited = harness.added(lm, formless.evaluate(lm, target, "qa", progress=False), ignore)
    assert capsys.readouterr() == ("", "")
    assert seen[0] == ("scoring lm-eval's answers", 0, 12)
    assert lm.setup_hash == setup
    assert all((before_weights[name] == value).all() for name, value in lm.model.state_dict().items())
    comparison = formless.compare(original, edited)
    change = comparison.change("lm_eval_sums", metric="acc")
    pairs = [
        (old.metrics["acc"], new.metrics["acc"])
        for old, new in zip(original.tasks[-2].items, edited.tasks[-2].items, strict=True)
    ]
    assert len(pairs) == 6
    assert change.original.value == sum(old for old, _ in pairs) / 6
    assert change.difference.value == pytest.approx(sum(new - old for old, new in pairs) / 6)
    assert change.difference.ci is not None
    perplexity = comparison.change("lm_eval_texts", metric="word_perplexity")
    assert perplexity.difference.value == pytest.approx(perplexity.edited.value - perplexity.original.value)
    assert perplexity.difference.value != 0
    assert perplexity.difference.ci is None
    source = original.task("lm_eval_sums").harness  # type: ignore[union-attr]
    assert str(source) == f"sums of lm-eval {harness.version} (version 2, 0-shot)"
    assert source.higher_is_better == {"acc": True, "acc_norm": True}
    write_report(tmp_path / "r.html", original, edited)
    page = " ".join((tmp_path / "r.html").read_text("utf-8").split())
    assert f"{source}; texts of lm-eval" in page
    assert "lm_eval_sums, acc" in page
    assert original.probes_digest == edited.probes_digest
    assert original.probes_digest != load_harness("sums", tasks).added(lm, original, ignore).probes_digest
    original.save(tmp_path / "r.json")
    assert load_record(tmp_path / "r.json") == original


@pytest.mark.slow  # simple_evaluate starts pip to list packages
def test_values_are_those_of_lm_eval(tiny: Callable[..., LM], record: Record, tasks: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    lm = tiny()
    result = load_harness("sums", tasks).added(lm, record, ignore).tasks[-1]
    loaded = lm_eval.tasks.TaskManager(include_path=str(tasks))
    model = HFLM(pretrained=lm.model, tokenizer=byte_tokenizer(), batch_size=1)
    theirs = lm_eval.simple_evaluate(model, tasks=["sums"], task_manager=loaded, bootstrap_iters=0)["results"]["sums"]
    for metric in ("acc", "acc_norm"):
        assert result.metric(metric).value == theirs[f"{metric},none"]


def test_a_group_has_its_tasks_apart_and_together(tiny: Callable[..., LM], record: Record, tasks: Path) -> None:
    result = load_harness("both", tasks).added(tiny(), record, ignore).tasks[-1]
    assert [(one.metric, one.group, one.n) for one in result.metrics if one.metric == "acc"] == [
        ("acc", None, 16), ("acc", "sums", 8), ("acc", "other_sums", 8),
    ]  # fmt: skip
    assert result.metric("acc_norm").value is None
    assert math.isclose(result.metric("acc").value, result.metric("acc", "sums").value)
    bare = load_harness("bare", tasks).added(tiny(), record, ignore).tasks[-1]
    assert bare.harness is not None
    assert bare.harness.tasks == {"bare": "no version, 0-shot"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("sumz", "unknown lm-eval task 'sumz' [--lm-eval]: did you mean sums?"),
        ("sums,", "unknown lm-eval task ''"),
        ("faraway", "the data of faraway cannot be fetched: "),
        ("wrong", "the task wrong cannot be loaded: Got invalid output_type 'dance'"),
    ],
)
def test_tasks_that_cannot_be_run(names: str, said: str, tasks: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_harness(names, tasks)
    assert said in str(caught.value)
    assert isinstance(caught.value, UnknownNameError) == said.startswith("unknown")


def test_no_folder_and_no_package(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no such folder of tasks \[nowhere\]"):
        load_harness("sums", Path("nowhere"))
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("lm_eval"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"the package lm-eval is missing \[--lm-eval\]: pip install 'formless\[lm-eval\]'"):
        load_harness("sums", tasks)


def test_what_lm_eval_refuses_is_one_line(tiny: Callable[..., LM], record: Record, tasks: Path) -> None:
    config = json.loads((tasks / "sums.yaml").read_text("utf-8"))
    (tasks / "unsafe.yaml").write_text(json.dumps(config | {"task": "unsafe", "unsafe_code": True}), "utf-8")
    with pytest.raises(UserError, match="lm-eval refuses: Attempted to run task: unsafe which is marked as unsafe"):
        load_harness("unsafe", tasks).added(tiny(), record, ignore)


def test_a_record_with_a_false_source_is_refused(record: Record, tmp_path: Path) -> None:
    source = HarnessSource(name="qa", version="0.4.13", tasks={"qa": "version 1, 0-shot"})
    hidden = source.model_copy(update={"name": "\x1b[31m"})
    for name, update in (("qa", {"harness": source}), ("lm_eval_qa", {"harness": hidden})):
        tasks = [record.tasks[0].model_copy(update={"task": name, **update}), *record.tasks[1:]]
        record.model_copy(update={"tasks": tasks}).save(tmp_path / "r.json")
        with pytest.raises(DamagedRecordError, match=r"harness: (the task is Formless's own|it holds the character)"):
            load_record(tmp_path / "r.json")


def test_lm_eval_itself_stays_as_it_was() -> None:
    from lm_eval.api import task
    from lm_eval.models import huggingface

    def state() -> tuple[Any, ...]:
        return task.tqdm, huggingface.tqdm, logging.getLogger("lm_eval").level

    before = state()
    with run._quiet():
        assert all(one != other for one, other in zip(state(), before, strict=True))
    assert state() == before
