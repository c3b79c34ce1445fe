"""Every call that changes files fails once: one clear line, nothing lost, and the repeated command ends as if undisturbed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from formless import store
from formless.cli import data as data_commands
from formless.data.ort import find_target
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit
from formless.edits.loading import load_edit
from formless.errors import OutputError, UserError
from formless.evaluation.evaluate import evaluate
from formless.evaluation.loading import load_record
from formless.methods.registry import build_method, method_config
from formless.methods.training.trainer import Checkpoints
from formless.models.lm import LM
from formless.models.sources import cached_files
from formless.progress import Progress
from tests.data.synthetic.test_training_files import scripted
from tests.experiment.conftest import plain_ratios, write_target
from tests.faults.attempt import Ended
from tests.faults.commands import (
    GA,
    TRAINING,
    assert_one_line,
    assert_same,
    formless,
    lay_out,
    metrics,
    scratch,
    tensors,
    texts,
)
from tests.faults.injection import ALL, Faults, chosen, injected
from tests.test_store import full_disk

ROCR_SETTINGS = {"layers": [1, 2], "basis": "none", "l2": 1e-6, "redirect": "Bob"}
CODES = (errno.ENOSPC, errno.EIO)
# What may fail without any consequence: a log, how far a run is, the cache, and what is no longer needed.
HARMLESS = ("* *log.txt", "* *progress.json*", "* cache*", "* tmp*", "unlink *", "rmdir *", "* *.training*", "* *.forms.jsonl",
            "* *.training.jsonl", "* *.partial.safetensors", "* *.part/*")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command and what it leaves.

    Args:
        arguments: The command line.
        result: What the folder holds, apart from times.
        prepare: Lays more files into the folder.
        few: How many calls fail in an ordinary test run.
    """

    arguments: Sequence[str]
    result: Callable[[Path], Mapping[str, Any]]
    prepare: Callable[[Path], object] = lambda folder: None
    few: int = 5


def settings(pairs: Sequence[str]) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


def runs(folder: Path) -> dict[str, Any]:
    """The records' metrics, the edits' weights, and how each run ended."""
    ended = {str(path): json.loads(path.read_text())["status"] for path in folder.rglob("run.json")}
    found = {str(Path(name).relative_to(folder)): status for name, status in ended.items()}
    return found | metrics(folder / "out") | tensors(folder / "out")


def recipe_values(folder: Path) -> dict[str, Any]:
    """What a recipe says of each setting, and what it chose."""
    found = yaml.safe_load((folder / "out" / "recipe.yaml").read_text("utf-8"))
    return {"rows": str(found["evidence"]["rows"]), "rocr": str(found["methods"]["rocr"])}


def write_experiment(folder: Path) -> None:
    keys = {"models": "model", "methods": ["original", "icu", GA], "data": "people", "targets": "1", "suite": "fb"}
    (folder / "x.yaml").write_text(yaml.safe_dump(keys), "utf-8")


def finish_runs(folder: Path) -> None:
    keys = {"models": "model", "methods": ["original", "icu"], "data": "people", "suite": "fb"}
    (folder / "y.yaml").write_text(yaml.safe_dump(keys), "utf-8")
    assert formless(folder, "run", "y.yaml", "--out", "runs").code == 0


def write_ada(folder: Path) -> None:
    """A target of the name that the scripted model writes about."""
    place = folder / "ada" / "1_Ada_Lovelace"
    place.mkdir(parents=True)
    for path in (folder / "people" / "1_Person_1").iterdir():
        (place / path.name).write_text(path.read_text("utf-8").replace("Person 1", "Ada Lovelace"), "utf-8")


UNLEARN = ("unlearn", "--model", "model", "-t", "Person 1", "--out", "out")
ROCR_OPTIONS = ("--method", "rocr", "--redirect", "Bob", *settings(["layers=[1,2]", "basis=none", "l2=1e-6"]))
CASES = {
    "unlearn": Case((*UNLEARN, *ROCR_OPTIONS), lambda folder: tensors(folder / "out")),
    "unlearn and merge": Case((*UNLEARN, *ROCR_OPTIONS, "--merge"), lambda folder: tensors(folder / "out"), few=8),
    "unlearn by training": Case(
        (*UNLEARN, "--method", "ga", "--data", "people", *settings(TRAINING)), lambda folder: tensors(folder / "out"), few=8
    ),
    "unlearn by training all weights": Case(
        (*UNLEARN, "--method", "ga", "--data", "people", *settings([*TRAINING[:-1], "full=true"])),
        lambda folder: tensors(folder / "out"), few=4,
    ),
    "run": Case(("run", "x.yaml", "--out", "out"), runs, write_experiment, few=6),
    "tune": Case(
        ("tune", "--method", "rocr", "--model", "model", "--data", "people", "--targets", "1", "--window", "1",
         "--first-layers", "1", "--values", "1", "--suite", "fb", "--out", "out", *settings(["basis=none", "redirect=Bob"])),
        recipe_values, few=5,
    ),
    "stats": Case(
        ("stats", "--model", "model", "--corpus", "corpus.txt", "--layers", "1", "--threshold", "1e-4", "--out", "out"),
        lambda folder: tensors(folder / "out"),
    ),
    "eval": Case(
        ("eval", "--model", "model", "-t", "1", "--data", "people", "--suite", "fb", "--out", "record.json"), metrics, few=4
    ),
    "data forms": Case(("data", "forms", "--data", "people"), lambda folder: texts(folder / "people", "*.json"), few=6),
    "data new": Case(
        ("data", "new", "-t", "Ada Lovelace", "--facts", "facts.txt", "--out", "new"),
        lambda folder: texts(folder / "new", "*.json"), few=6,
    ),
    "data train": Case(
        ("data", "train", "--model", "model", "--data", "ada", "-t", "1", "--rows", "3", "--files", "reject,counterfact",
         "--out", "new"),
        lambda folder: texts(folder / "new", "*.json"), write_ada, few=6,
    ),
    "report": Case(
        ("report", "runs", "--out", "page.html"), lambda folder: {"size": (folder / "page.html").stat().st_size // 1000},
        finish_runs, few=3,
    ),
    "summarize": Case(
        ("summarize", "runs", "--csv", "a.csv", "--markdown", "a.md", "--latex", "a.tex"),
        lambda folder: texts(folder, "a.*"), finish_runs, few=4,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _checkpoint_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    every = "formless.methods.training.method.Checkpoints"
    monkeypatch.setattr(every, lambda folder, steps, identity: Checkpoints(folder, 1, identity))


def assert_told(ended: Ended, faults: Faults) -> None:
    """Exit code 2 and one line, 1 and a failed run that is named, or 0 where the call is of no matter."""
    assert "Traceback" not in ended.out + ended.err, ended
    if ended.code == 0:
        assert faults.is_any_of(HARMLESS), faults.failed
    elif ended.code == 1:
        assert "failed: model " in ended.out, ended
    else:
        assert_one_line(ended)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(is not kept|cannot be removed)")
@pytest.mark.parametrize("name", CASES)
def test_a_command_whose_call_fails_is_repeated(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    monkeypatch.setattr(data_commands, "sampler", lambda lm: scripted)
    if name == "tune":
        monkeypatch.setattr("formless.report.runs.ratios", plain_ratios)
    first = lay_out(tmp_path / "start", model)
    case.prepare(first)
    undisturbed = shutil.copytree(first, tmp_path / "undisturbed", symlinks=True)
    with injected(Faults(undisturbed)) as seen:
        assert formless(undisturbed, *case.arguments).code == 0
    expected, ended = case.result(undisturbed), {0: 0, 1: 0, 2: 0}
    assert not scratch(undisturbed)
    for place, number in enumerate(chosen(len(seen.calls), case.few)):
        for code in CODES if ALL else (CODES[place % 2],):
            folder = shutil.copytree(first, tmp_path / f"{number} {code}", symlinks=True)
            with injected(Faults(folder, number, code)) as faults:
                failed = formless(folder, *case.arguments)
            if faults.failed is None:  # a report about how far a run is comes by the clock
                assert failed.code == 0
                continue
            assert_told(failed, faults)
            ended[failed.code] += 1
            before = finished(folder)
            again = failed if failed.code == 0 else formless(folder, *case.arguments)
            if "exists already" in again.err:  # it was the second of two outputs
                again = formless(folder, *case.arguments, "--force")
            assert again.code == 0, (faults.failed, failed, again)
            assert before.items() <= finished(folder).items()
            assert_same(case.result(folder), expected)
            if failed.code:
                assert not scratch(folder), faults.failed
            shutil.rmtree(folder)
    print(f"{name}: {len(seen.calls)} calls; {sum(ended.values())} failed; exit codes {ended}")
    assert ended[2]


def finished(folder: Path) -> dict[str, str]:
    """When each complete run ended."""
    found = {path: json.loads(path.read_text()) for path in folder.rglob("run.json")}
    return {str(path): result["finished"] for path, result in found.items() if result["status"] == "complete"}


def refusal(call: Callable[[], object]) -> UserError | None:
    """The error that a call ends in."""
    try:
        call()
    except UserError as error:
        return error
    return None


def edits(lm: LM, people: Path) -> dict[str, Any]:
    """One edit of each kind."""
    target = find_target(people, "1")
    training = {name: value for name, value in GA.items() if name != "method"}
    differences = {name: value for name, value in training.items() if name != "r"} | {"full": True}
    return {
        "adapter": build_method("rocr", method_config(lm.settings, "rocr", ROCR_SETTINGS)).unlearn(lm, Target("Ada")),
        "difference": build_method("ga", method_config(lm.settings, "ga", differences)).unlearn(lm, target),
        "prompt": build_method("icu", method_config(lm.settings, "icu", {})).unlearn(lm, target),
    }


def assert_saved_once(save: Callable[[Path], object], read: Callable[[Path], Mapping[str, Any]], folder: Path, few: int) -> int:
    """Save with each call failing once; without an older output and over one, which stays whole."""
    (folder / "undisturbed").mkdir(parents=True)
    save(folder / "undisturbed" / "output")
    expected, tried = read(folder / "undisturbed" / "output"), 0
    for older in (False, True):
        counted = folder / f"counted {older}"
        counted.mkdir()
        if older:
            save(counted / "output")
        with injected(Faults(counted)) as seen:
            save(counted / "output")
        for number in chosen(len(seen.calls), few):
            for code in CODES:
                place = folder / f"{older} {number} {code}"
                place.mkdir()
                output = place / "output"
                if older:
                    save(output)
                with injected(Faults(place, number, code)) as faults:
                    error = refusal(lambda: save(output))  # noqa: B023 - called at once
                if error is None:
                    assert faults.is_any_of(("unlink *", "rmdir *")), faults.failed
                else:
                    assert isinstance(error, OutputError)
                    assert re.search(r"^cannot write: .+ \[.+\]: .+$", str(error))
                    assert output.exists() == older, faults.failed
                    if older:
                        assert_same(read(output), expected)
                assert faults.failed
                save(output)
                assert_same(read(output), expected)
                assert [path.name for path in place.iterdir()] == ["output"], faults.failed
                tried += 1
    return tried


def read_edit(folder: Path) -> dict[str, Any]:
    edit = load_edit(folder)
    return {"info": edit.info.model_dump_json()} | tensors(folder)


@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("adapter", "difference")), "prompt"]
)
def test_an_edit_is_saved_whole_or_not_at_all(kind: str, tiny: Callable[..., LM], tmp_path: Path) -> None:
    write_target(tmp_path / "people", 1)
    edit = edits(tiny(), tmp_path / "people")[kind]
    assert assert_saved_once(lambda path: edit.save(path, force=True), read_edit, tmp_path / kind, few=8) >= 20


@pytest.mark.slow
def test_a_merged_model_is_saved_whole_or_not_at_all(tiny: Callable[..., LM], tmp_path: Path) -> None:
    lm = tiny()
    edit = build_method("rocr", method_config(lm.settings, "rocr", ROCR_SETTINGS)).unlearn(lm, Target("Ada"))
    assert isinstance(edit, AdapterEdit)
    assert assert_saved_once(lambda path: edit.save_merged(lm, path, force=True), tensors, tmp_path / "merged", few=6) >= 20


def test_a_tokenizer_that_cannot_be_written_is_one_line(
    tiny: Callable[..., LM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is worded by Rust, and is no OSError."""
    lm = tiny()
    edit = build_method("rocr", method_config(lm.settings, "rocr", ROCR_SETTINGS)).unlearn(lm, Target("Ada"))
    assert isinstance(edit, AdapterEdit)
    monkeypatch.setattr(type(lm.model), "save_pretrained", lambda *_, **__: None)  # the weights are larger than the limit
    with full_disk(), pytest.raises(OutputError, match=r"cannot write: file too large \[.*merged\]: free space"):
        edit.save_merged(lm, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_a_record_is_saved_whole_or_not_at_all(tiny: Callable[..., LM], tmp_path: Path) -> None:
    write_target(tmp_path / "people", 1)
    record = evaluate(tiny(), find_target(tmp_path / "people", "1"), "fb", progress=False)

    def read(path: Path) -> dict[str, Any]:
        return {"record": load_record(path).model_dump_json()}

    assert assert_saved_once(record.save, read, tmp_path / "record", few=6) >= 16


def test_the_model_in_the_cache_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(new: Path, report: Progress) -> None:
        (new / "config.json").write_text("{}")
        save_file({"weight": torch.arange(3.0)}, new / "model.safetensors")

    seen: set[str] = set()
    for number in count(1):
        folder = tmp_path / str(number)
        (folder / "tmp").mkdir(parents=True)
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
        place = folder / "cache" / "one-1.0"
        with injected(Faults(folder, number, CODES[number % 2])) as faults:
            error = refusal(partial(cached_files.cached_folder, place, "one", build))
        if error:
            assert re.search(rf"the model cannot be kept: .* \[{re.escape(str(place))}\]: free space", str(error))
            seen.add((faults.failed or "").partition(" ")[0])
        if faults.failed is None:
            break
        cached_files.cached_folder(place, "one", build)
        assert load_file(place / "model.safetensors")["weight"].tolist() == [0.0, 1.0, 2.0]
        assert cached_files.damage(place, None) is None
        assert sorted(path.name for path in place.iterdir()) == ["config.json", "files.json", "model.safetensors"]
        assert {path.name for path in place.parent.iterdir()} <= {"one-1.0", store.lock_path(place).name}
    assert number > 10
    assert {"create", "write", "fsync", "replace", "mkdir"} <= seen


def test_a_damaged_list_of_the_cache_is_not_needed(tmp_path: Path) -> None:
    """The list learns a file's new time; a disk that refuses that write changes no answer."""
    (tmp_path / "weights").write_text("weights")
    cached_files.list_files(tmp_path).save(tmp_path)
    for number in count(1):
        os.utime(tmp_path / "weights", ns=(number, number))
        with injected(Faults(tmp_path, number)) as faults:
            assert cached_files.damage(tmp_path, "") is None
        if faults.failed is None:
            break
        assert cached_files.damage(tmp_path, "") is None
        assert sorted(path.name for path in tmp_path.iterdir()) == ["files.json", "weights"]
    assert number > 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [("status", "runs"), ("summarize", "runs"), ("report", "runs", "--out", "page.html"), ("compare", "runs", "runs"),
     ("run", "y.yaml", "--out", "runs"), ("data", "check", "people"), ("data", "forms", "--data", "people", "--force")],
)  # fmt: skip
def test_a_file_that_cannot_be_read_once(arguments: tuple[str, ...], model: Path, tmp_path: Path) -> None:
    first = lay_out(tmp_path / "start", model)
    finish_runs(first)
    shutil.copytree(first, tmp_path / "undisturbed", symlinks=True)
    with injected(Faults(tmp_path / "undisturbed", reads=True)) as seen:
        known = formless(tmp_path / "undisturbed", *arguments)
    codes = set()
    for number in chosen(len(seen.calls), 4):
        folder = shutil.copytree(first, tmp_path / str(number), symlinks=True)
        with injected(Faults(folder, number, errno.EIO, reads=True)) as faults:
            failed = formless(folder, *arguments)
        assert faults.failed
        assert "Traceback" not in failed.out + failed.err
        if failed.code == 2:
            assert_one_line(failed, r"error: .+ \[.+\]")
        codes.add(failed.code)
        assert failed.code in (0, 1, 2), (faults.failed, failed)
        again = formless(folder, *arguments, *(["--force"] if arguments[0] == "report" else []))
        assert (again.code, finished(folder).keys()) == (
            known.code,
            {name.replace("/start/", f"/{number}/") for name in finished(first)},
        )
    assert codes
