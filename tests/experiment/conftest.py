"""A tiny model in a folder, a data set of small targets, and a plug-in method with which everything goes wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from formless import store
from formless.data.rows import Split
from formless.evaluation.known import Known
from formless.evaluation.loading import load_record
from formless.evaluation.record import MetricKey, Record
from formless.experiment.config import Experiment, build_experiment
from formless.experiment.progress import RunProgress
from formless.experiment.result import RunResult, run_metrics
from formless.experiment.runs import Run
from formless.methods.registry import METHODS
from formless.models.lm import LM
from formless.report.ratios import KnownItems, Ratios
from formless.store import RESULT_SCHEMA, read_document

Build = Callable[..., Experiment]
FILES = {"run.json", "record.json", "log.txt"}
PLUGIN = """
import os, signal, sys, time
from pathlib import Path
from typing import Literal
from formless.errors import EditError
from formless.methods.base import MethodConfig, MethodEntry
from formless.methods.icu import Icu

class Config(MethodConfig):
    kind: Literal["none", "segfault", "killed", "exit", "hang", "spin", "error", "refuse", "last", "held"] = "none"
    strength: float = 1.0
    seed: int = 0

class Mishap:
    def __init__(self, config):
        self.config = config

    def unlearn(self, lm, target):
        print(f"on standard output: {self.config.kind}", flush=True)
        once = os.environ.get("MISHAP_ONCE")
        mark = Path(once or ".", f"{self.config.kind} {target.subject}")
        if not (once and mark.exists()):
            if once:
                mark.touch()
            self.go_wrong(lm)
        return Icu(MethodConfig()).unlearn(lm, target)

    def go_wrong(self, lm):
        kind = self.config.kind
        if kind == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "exit":
            os._exit(3)
        if kind == "hang":
            time.sleep(1000)
        while kind == "held" and not Path(os.environ["MISHAP_ONCE"], "release").exists():
            time.sleep(0.02)
        while kind == "spin":
            lm.model(**lm.tokenizer("a", return_tensors="pt"))
        if kind == "error":
            raise RuntimeError("boom\\nsecond line")
        if kind == "last":
            replace = os.replace
            def die(source, target, **more):
                replace(source, target, **more)
                if Path(target).name == "run.json":
                    os.kill(os.getpid(), signal.SIGKILL)
            os.replace = die
        if kind == "refuse":
            raise EditError("it cannot be done", where="here", remedy="do something else")

MISHAP = MethodEntry(name="mishap", about="goes wrong", paper="none", config=Config, build=Mishap)
"""


def values(record: Record) -> dict[MetricKey, float | None]:
    """The metrics of a record, without their intervals."""
    return {key: found.value for key, found in record.metrics().items()}


def results(out: Path) -> dict[str, RunResult]:
    """What the folder holds; every result once, and whole."""
    found = [RunResult.model_validate(read_document(path, RESULT_SCHEMA)) for path in out.glob("runs/*/*/*/*/run.json")]
    assert len({result.id for result in found}) == len(found)
    return {result.id: result for result in found}


def assert_same(out: Path, expected: Path) -> None:
    """The same runs, complete, with the same files and numbers, and nothing else."""
    found, known = results(out), results(expected)
    assert found.keys() == known.keys()
    assert {path.name for path in out.iterdir()} == {path.name for path in expected.iterdir()}
    for result in found.values():
        folder, other = result.run.folder(out), result.run.folder(expected)
        assert result.status == "complete", result.reason
        record = load_record(folder.record)
        assert values(record) == pytest.approx(values(load_record(other.record)), abs=1e-6)
        assert run_metrics(record) == result.metrics
        assert {path.name for path in folder.path.iterdir()} == FILES | ({"edit"} if result.run.method != "original" else set())
        if result.run.method in ("ga", "rocr"):
            ours, theirs = (load_file(place / "adapter_model.safetensors") for place in (folder.edit, other.edit))
            assert ours.keys() == theirs.keys()
            assert all((ours[key] - theirs[key]).abs().max() < 1e-6 for key in ours)
            assert any(values.abs().max() > 1e-4 for values in ours.values())


def plain_ratios(original: Record, edited: Record) -> Ratios:
    """Edited over original of every form's probability, whether or not the model knows anything: a random one does not."""
    found: dict[Split, dict[str, float]] = {"forget": {}, "neighbor": {}}
    for split, own in found.items():
        for before in original.tasks:
            after = edited.task(before.task, split)
            if before.split != split or after is None or before.status == "absent":
                continue
            old, new = before.metric("probability").value, after.metric("probability").value
            if old and new is not None:
                own[before.task] = new / old
    return made_ratios(found["forget"], found["neighbor"])


def made_ratios(forget: Mapping[str, float], neighbor: Mapping[str, float]) -> Ratios:
    """Ratios of forms with one known item each."""
    sides: dict[Split, Mapping[str, float]] = {"forget": forget, "neighbor": neighbor}
    return Ratios(
        {
            split: {(form, None): KnownItems([(1.0, ratio)], Known(1, 1, 1 / 6)) for form, ratio in own.items()}
            for split, own in sides.items()
        }
    )


def add_loss(curves: Path, loss: float) -> None:
    """Put a loss before the others of a checkpoint, so that a run shows whether it was resumed."""
    content = store.read_document(curves, 1)
    content["losses"].insert(0, loss)
    store.write_document(curves, content)


def counted(monkeypatch: pytest.MonkeyPatch, name: str, real: Callable[..., Any]) -> list[tuple[Any, ...]]:
    """Let a function of that dotted name be `real`, and return the list of the arguments of its calls."""
    calls: list[tuple[Any, ...]] = []

    def call(*arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        return real(*arguments, **more)

    monkeypatch.setattr(name, call)
    return calls


class Recorder:
    """A callback that remembers."""

    def __init__(self) -> None:
        self.begun: tuple[int, int, int] = (0, 0, 0)
        self.progress: list[tuple[str, RunProgress]] = []
        self.results: list[RunResult] = []
        self.damages: list[tuple[str, str]] = []

    def on_begin(self, runs: Sequence[Run], done: Sequence[RunResult], workers: int) -> None:
        self.begun = len(runs), len(done), workers

    def on_damage(self, run: Run, reason: str) -> None:
        self.damages.append((run.id, reason))

    def on_progress(self, run: Run, progress: RunProgress) -> None:
        self.progress.append((run.id, progress))

    def on_end(self, result: RunResult) -> None:
        self.results.append(result)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def write_people() -> Callable[[Path, int], Path]:
    """Write one target."""
    return write_target


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def model_folder(tiny: Callable[..., LM], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random model, saved."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    lm = tiny(context=1024)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def write_target(folder: Path, number: int) -> Path:
    """A target with one probe of two forms and two texts to train on."""
    subject = f"Person {number}"
    place = folder / f"{number}_Person_{number}"
    place.mkdir(parents=True)
    item = {"subject": subject, "level": "1", "type": "cloze"}
    files: dict[str, list[dict[str, Any]]] = {
        "forget_level1": [{"query": f"{subject} was born in ___.", "answer": "Bonn", **item}],
        "forget_level2": [{"query": f"Where was {subject} born?", "answer": "Bonn", **item, "level": "2"}],
        "neighbor_level1": [
            {"query": f"{other} lived in ___.", "answer": "Oslo", "neighbor": other, **item} for other in ("Ann", "Bob")
        ],
        "positive": [{"text": f"{subject} wrote {number} books.", "subject": subject}] * 2,
    }
    for name, rows in files.items():
        (place / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    return place


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A data set of four small targets."""
    folder = tmp_path / "people"
    for number in range(1, 5):
        write_target(folder, number)
    return folder


@pytest.fixture
def experiment(model_folder: Path, people: Path) -> Build:
    """Build an experiment on the tiny model and the small targets."""

    def build(**keys: Any) -> Experiment:
        known = {"models": [str(model_folder)], "methods": ["original", "icu"], "data": str(people), "suite": "fb"}
        return build_experiment(known | keys, "a test")

    return build


@pytest.fixture
def mishaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the plug-in, for this process and those that it starts."""
    folder = tmp_path / "site"
    info = folder / "mishaps-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "mishaps.py").write_text(PLUGIN, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mishaps\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[formless.methods]\nmishap = mishaps:MISHAP\n", "utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
    METHODS.__dict__.pop("_all", None)
    yield
    METHODS.__dict__.pop("_all", None)
