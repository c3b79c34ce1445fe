"""The paper's commands, as they are typed."""

from __future__ import annotations

import csv
import importlib
import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from transformers import LlamaConfig, MistralConfig

from formless.cli.main import app
from formless.data.rows import Split
from formless.evaluation.record import ItemResult, TaskMetric, TaskResult
from formless.experiment.executors.base import Resources
from formless.experiment.executors.local import InProcess
from formless.methods.memory import estimate_memory
from formless.methods.registry import method_config
from formless.methods.rocr.config import PUBLISHED_REDIRECT
from formless.models.lm import LM
from formless.models.meta import load_meta
from formless.models.settings import settings_for

PAPER = Path(__file__).parents[2] / "paper"
README = (PAPER / "README.md").read_text("utf-8")
TYPES = ["original", "ga_lora", "npo_lora", "rt_lora", "cft_lora", "dpo_lora", "dpo_lora_reject", "rocr"]
Paper = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Paper:
    """A command in a folder of its own: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(PAPER))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def command(line: str) -> tuple[int, str, str]:
        script, *arguments = shlex.split(line)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(PAPER / script), run_name="__main__")
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return command


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Three small targets."""
    for number, name in ((1, "Ann"), (2, "Bob"), (10, "Cid")):
        folder = tmp_path / "data" / "ORT" / "Target" / f"{number}_{name}"
        folder.mkdir(parents=True)
        item = {"subject": name, "level": "1", "type": "cloze"}
        rows: dict[str, list[dict[str, Any]]] = {
            "forget_level1": [{"query": f"{name} was born in ___.", "answer": place, **item} for place in ("Bonn", "May")],
            "neighbor_level1": [{"query": "Eve lived in ___.", "answer": "Oslo", "neighbor": "Eve", **item}],
            "positive": [{"text": f"{name} wrote {number} books.", "subject": name}] * 2,
        }
        for split, found in rows.items():
            (folder / f"{split}.json").write_text(json.dumps(found), "utf-8")
    return tmp_path / "data" / "ORT" / "Target"


@pytest.fixture
def tiny_yaml(tiny: Callable[..., LM], tmp_path: Path, people: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's file of a tiny random model; its runs are done in this process, to be quick."""
    lm = tiny(context=1024)
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    training = {
        "method": "ga",
        "learning_rate": 1e-2,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "warmup_steps": 1,
    }
    types = {
        "original": {"method": "original"}, "ga_lora": training,
        "idle": training | {"warmup_steps": 100, "per_device_train_batch_size": 2},
        "rocr": {"method": "rocr", "basis": "data/tiny"},
    }  # fmt: skip
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({"path": "model", "dtype": "float32", "suite": "fb", "types": types}), "utf-8")
    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Resources, "executor", lambda self, hold: InProcess())
    return file


def rows() -> dict[str, dict[str, str]]:
    """The summary of the only model, by method."""
    (file,) = Path().glob("*_total_result.csv")
    with file.open(encoding="utf-8", newline="") as lines:
        return {row["method"]: row for row in csv.DictReader(lines)}


def probabilities(folder: str, task: str = "forget_fb") -> dict[str, float]:
    """What the result files of a type say, by target."""
    files = Path("results/lora", folder).glob(f"*/{task}.json")
    return {file.parent.name: json.loads(file.read_text("utf-8"))["probability"] for file in files}


def mean(values: Any) -> float:
    return sum(values) / len(values)


@pytest.mark.slow
def test_on_the_built_in_model(paper: Paper, rwku: Path, tmp_path: Path) -> None:
    """With worker processes, and the published flags, on two of RWKU's targets."""
    for name in ("1_Stephen_King", "2_Confucius"):
        shutil.copytree(rwku / name, tmp_path / "data" / "ORT" / "Target" / name)
    keys = yaml.safe_load((PAPER / "models" / "smollm2.yaml").read_text("utf-8"))
    keys["types"]["ga_lora"] |= {"max_rows": 8, "max_length": 32}
    (tmp_path / "smollm2.yaml").write_text(yaml.safe_dump(keys), "utf-8")
    small = "--end_idx=100 --suite=fb,qa,sub_fb --limit=2"
    for flags in (
        "--type=original --model=smollm2",
        "--type=rocr --gpu=0 --model=smollm2",
        "--type=ga_lora --model=smollm2.yaml",
    ):
        code, output, errors = paper(f"run_expr_lora.py {flags} {small}")
        assert (code, output.startswith("2 of 2 targets complete, 0 failed")) == (0, True), errors
    code, output, _ = paper("summarize.py --model=smollm2 --type=rocr")
    assert (code, output.splitlines()[-1]) == (0, "written: smollm2_total_result.csv")
    found = rows()
    assert list(found) == ["original", "ga_lora", "rocr"]
    for method in found:
        for task in ("forget_fb", "forget_qa", "sub_forget_fb", "neighbor_fb", "neighbor_qa", "sub_neighbor_fb"):
            own, before = (mean(probabilities(f"smollm2/{name}", task).values()) for name in (method, "original"))
            change = "" if method == "original" else f"({100 * (own / before - 1):.2f}%)"
            assert found[method][task] == f"{own:.4f}{change}"
    assert probabilities("smollm2/rocr") != probabilities("smollm2/original")
    assert probabilities("smollm2/ga_lora") != probabilities("smollm2/original")
    assert len(list(Path("results/runs/smollm2/rocr").glob("runs/*/*/*/*/edit/adapter_model.safetensors"))) == 2


def test_metrics_have_their_published_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    layout = importlib.import_module("layout")

    def task(name: str, split: Split | None, *metrics: tuple[str, str | None, float], groups: Sequence[str] = ()) -> Any:
        found = [TaskMetric(metric=metric, group=group, value=value, n=1) for metric, group, value in metrics]
        items = [ItemResult(query="Who?", group=group, skipped="too long") for group in groups]
        return TaskResult(task=name, split=split, status="complete", metrics=found, skipped=len(items), items=items)

    attack = (("probability", None, 0.5), ("probability", "prefix injection", 0.25))
    tasks = [
        task("sub_fb", "neighbor", ("probability", None, 0.5), ("token_accuracy", None, 1)),
        task("level3", "forget", *attack, groups=("prefix injection", "cross lingual")),
        task("mmlu", None, ("accuracy", None, 0.5), ("probability", None, 0.25)),
        task("gen_qa", "forget", ("rouge_l", None, 0.5)),
        task("truthfulqa", None, ("mc1", None, 0.5)),
        task("mia", None, ("loss", "forget", 2.5), ("loss_auc", None, 0.5)),
    ]
    record = SimpleNamespace(tasks=tasks)
    assert layout.task_metrics(record) == {
        "sub_neighbor_fb": {"probability": 0.5, "token_accuracy": 1, "count": 1, "skipped": 0},
        "forget_level3": {"probability": 0.5, "count": 1, "skipped": 2},
        "forget_level3_prefix_injection": {"probability": 0.25, "count": 1, "skipped": 1},
        "mmlu": {"acc": 0.5, "probability": 0.25, "skipped": 0},
        "forget_gen_qa": {"rouge_l": 0.5, "skipped": 0},
        "truthful": {"MC1": 0.5, "skipped": 0},
        "mia": {"loss_forget": 2.5, "loss_auc": 0.5, "skipped": 0},
    }
    assert layout.columns(record) == {
        "sub_neighbor_fb": 0.5, "forget_level3": 0.5, "forget_level3_prefix_injection": 0.25, "mmlu_acc": 0.5,
        "mmlu_probability": 0.25, "forget_gen_qa_rouge_l": 0.5, "truthful_MC1": 0.5, "mia_loss_forget": 2.5,
        "mia_loss_auc": 0.5,
    }  # fmt: skip


@pytest.mark.slow
def test_stretches_add_up_and_nothing_is_computed_twice(paper: Paper, tiny_yaml: Path) -> None:
    command = "run_expr_lora.py --type=ga_lora --model=tiny.yaml"
    code, output, errors = paper(f"{command} --start_idx=1 --end_idx=2")
    assert (code, output) == (0, "1 of 1 targets complete, 0 failed; results: results/lora/tiny/ga_lora\n"), errors
    assert list(probabilities("tiny/ga_lora")) == ["2_Bob"]
    (done,) = Path("results/runs/tiny/ga_lora").glob("runs/*/*/*/*/run.json")
    stamp = done.stat().st_mtime_ns
    shutil.rmtree("results/lora")
    code, output, errors = paper(f"{command} --end_idx=100")
    assert (code, output.startswith("3 of 3 targets complete")) == (0, True), errors
    assert "3 runs in results/runs/tiny/ga_lora, 1 of them complete; 2 to do" in errors
    assert done.stat().st_mtime_ns == stamp
    assert set(probabilities("tiny/ga_lora")) == {"1_Ann", "2_Bob", "10_Cid"}  # from the record too, without a new run
    paper(f"{command} --name=10_Cid --test_id=mine")
    assert list(probabilities("tiny/ga_lora_mine")) == ["10_Cid"]
    assert probabilities("tiny/ga_lora_mine")["10_Cid"] == probabilities("tiny/ga_lora")["10_Cid"]
    assert paper("summarize.py --model=tiny --type=ga_lora_mine")[0] == 0
    assert {method: row["targets"] for method, row in rows().items()} == {"ga_lora": "3", "ga_lora_mine": "1"}


def test_other_settings_or_data_are_never_mixed(paper: Paper, tiny_yaml: Path, people: Path) -> None:
    command = "run_expr_lora.py --type=ga_lora --model=tiny.yaml --end_idx=1"
    assert paper(command)[0] == 0
    before = probabilities("tiny/ga_lora")
    code, output, errors = paper(f"{command} --limit=1")
    assert (code, output) == (2, "")
    assert "results of other settings or data are there [results/runs/tiny/ga_lora]" in errors
    assert paper(f"{command} --limit=1 --test_id=one")[0] == 0
    probes = people / "1_Ann" / "forget_level1.json"
    probes.write_text(probes.read_text("utf-8").replace("Bonn", "Rome"), "utf-8")
    assert paper(command)[0] == 2
    assert probabilities("tiny/ga_lora") == before


@pytest.mark.slow
def test_changes_are_reckoned_on_the_same_targets_every_time(paper: Paper, tiny_yaml: Path) -> None:
    paper("run_expr_lora.py --type=ga_lora --model=tiny.yaml")
    _, _, errors = paper("summarize.py --model=tiny --type=ga_lora")
    assert "no changes are shown" in errors
    own = probabilities("tiny/ga_lora")
    assert rows()["ga_lora"]["forget_fb"] == f"{mean(own.values()):.4f}"
    for stretch, names in (("--end_idx=1", ["1_Ann"]), ("--end_idx=2", ["1_Ann", "2_Bob"])):
        paper(f"run_expr_lora.py --type=original --model=tiny.yaml {stretch}")
        _, output, errors = paper("summarize.py --model=tiny --type=ga_lora")
        before = probabilities("tiny/original")
        now, then = (mean([found[name] for name in names]) for found in (own, before))
        assert rows()["ga_lora"]["forget_fb"] == f"{now:.4f}({100 * (now / then - 1):.2f}%)"
        assert rows()["ga_lora"]["targets"] == rows()["original"]["targets"] == str(len(names))
        gone = f"ga_lora: {len(names)} targets; {3 - len(names)} left out (the original was not asked the same)"
        assert gone in errors.splitlines()
        assert rows()["ga_lora"]["forget_fb"] in output
    assert rows()["ga_lora"]["mmlu_acc"] == ""
    assert "changes" not in errors


def test_a_failed_target_is_no_success(paper: Paper, tiny_yaml: Path) -> None:
    code, output, errors = paper("run_expr_lora.py --type=idle --model=tiny.yaml --end_idx=2 --max_retries=0")
    assert (code, output) == (1, "0 of 2 targets complete, 2 failed; results: results/lora/tiny/idle\n")
    failed = [line for line in errors.splitlines() if line.startswith("failed: 1_Ann: ")]
    assert len(failed) == 1
    assert "make one step, and the warm-up begins with a learning rate of 0" in failed[0]
    log = failed[0].partition("; log: ")[2]
    assert "learning rate of 0" in Path(log).read_text("utf-8")
    assert probabilities("tiny/idle") == {}
    code, _, errors = paper("summarize.py --model=tiny --type=idle")
    assert (code, "idle has no results" in errors) == (2, True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run_expr_lora.py --model=tiny.yaml", "the following arguments are required: --type"),
        ("run_expr_lora.py --model=tiny.yaml --type=ga_lor", "unknown type 'ga_lor' [--type]: did you mean ga_lora?"),
        ("run_expr_lora.py --model=llama --type=rocr", "unknown model 'llama' [--model]: did you mean llama3"),
        ("run_expr_lora.py --model=broken.yaml --type=rocr", "needs a path and types [broken.yaml]"),
        ("run_expr_lora.py --model=odd.yaml --type=rocr", "unknown key 'suit' [odd.yaml]: did you mean suite?"),
        (
            "run_expr_lora.py --model=tiny.yaml --type=rocr",
            "no null spaces for tiny [data/tiny]: put null_space_project_",
        ),
        ("run_expr_lora.py --model=tiny.yaml --type=original --end_idx=0", "Target has 3 targets, counted from 0"),
        ("run_expr_lora.py --model=tiny.yaml --type=original --end_idx=-1", "argument --end_idx: a number under 0"),
        ("run_expr_lora.py --model=tiny.yaml --type=original --name=Dan", "unknown target 'Dan'"),
        ("run_expr_lora.py --model=tiny.yaml --type=original --gpu=a", "'a' is not a list of GPUs [--gpu]: e.g. 0,1"),
        ("run_expr_lora.py --model=tiny.yaml --type=original --gpu=0,0", "'0,0' is not a list of GPUs"),
        ("run_expr_lora.py --model=tiny.yaml --type=original --end=3", "unrecognized arguments: --end=3"),
        ("summarize.py --model=tiny", "the following arguments are required: --type"),
        ("summarize.py --model=tiny --type=rocr", "first: python run_expr_lora.py --model=tiny --type=rocr"),
    ],
)
def test_what_the_user_can_mend(paper: Paper, tiny_yaml: Path, line: str, said: str) -> None:
    Path("broken.yaml").write_text("types: {rocr: {method: rocr}}", "utf-8")
    Path("odd.yaml").write_text("{path: model, suit: fb, types: {rocr: {method: rocr, basis: none}}}", "utf-8")
    code, output, errors = paper(line)
    assert (code, output) == (2, "")
    assert said in errors.splitlines()[-1]
    assert not Path("results").exists()


def test_flags_reach_the_runner(paper: Paper, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def sweep(experiment: Any, out: Path, executor: Any, observer: Any, *, workers: int) -> Any:
        seen.append((out, executor.__self__, workers))
        return SimpleNamespace(failed=[], runs=[], results=[], already_complete=0)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("formless.experiment.sweep.sweep", sweep)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    command = "run_expr_lora.py --model=tiny.yaml --type=original"
    _, _, errors = paper(f"{command} --gpu=0,1 --memory_pool=20")
    assert errors.splitlines() == [
        "PyTorch finds no GPU: --gpu is ignored",
        "--memory_pool has no meaning here: PyTorch takes GPU memory as it needs it",
    ]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    paper(f"{command} --gpu=0,1 --timeout=60 --check_interval=0 --max_retries=5 --test_id=b")
    (first, alone, one), (second, shared, two) = seen
    assert (first, second) == (Path("results/runs/tiny/original"), Path("results/runs/tiny/original_b"))
    assert (alone.workers, alone.gpus, one, shared.gpus, two) == (1, (), 1, (0, 1), 2)
    assert (alone.limits.timeout, alone.limits.stuck, alone.limits.retries) == (3600, 600, 2)
    assert (shared.limits.timeout, shared.limits.stuck, shared.limits.retries) == (60, None, 5)
    monkeypatch.setattr("formless.experiment.sweep.sweep", interrupted)
    code, _, errors = paper(command)
    assert (code, errors) == (130, "stopped; every finished run is kept. The same command goes on\n")
    code, _, errors = paper(f"{command} --gpu=2")
    assert (code, errors) == (2, "error: no GPU 2 [--gpu]: there are 2, counted from 0\n")


@pytest.mark.parametrize("file", sorted((PAPER / "models").glob("*.yaml")), ids=lambda file: file.stem)
def test_settings_are_those_that_formless_ships(file: Path) -> None:
    keys = yaml.safe_load(file.read_text("utf-8"))
    shipped = settings_for(keys["path"])
    assert shipped.name == file.stem
    assert sorted(keys["types"]) == sorted(TYPES)
    for settings in keys["types"].values():
        method = settings.pop("method")
        own = {name: settings[name] for name in ("basis", "redirect") if name in settings}
        assert method_config(shipped, method, settings) == method_config(shipped, method, own)
        assert own.get("redirect") == (PUBLISHED_REDIRECT if method == "rocr" else None)  # the paper's, which is no default


def test_the_page_shows_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    lines = [line.strip() for line in README.splitlines() if line.startswith("    ")]
    assert len(lines) == 10
    for line in lines:
        program, *arguments = shlex.split(line)
        if program == "python":
            monkeypatch.setattr(sys, "argv", arguments)
            runpy.run_path(str(PAPER / arguments[0]))["arguments"]()
        elif program == "formless":
            group: Any = typer.main.get_command(app)
            verb, *arguments = arguments
            if verb == "data":
                group, verb, arguments = group.commands[verb], arguments[0], arguments[1:]
            group.commands[verb].make_context(verb, arguments).close()
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (PAPER / link).exists()


SIZES: dict[str, int] = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8,
}  # fmt: skip


def test_the_table_of_memory(tmp_path: Path) -> None:
    LlamaConfig(vocab_size=128256, **SIZES).save_pretrained(tmp_path / "llama3")  # type: ignore[arg-type]
    MistralConfig(vocab_size=32768, **SIZES).save_pretrained(tmp_path / "mistral")  # type: ignore[arg-type]
    table = json.loads((PAPER.parent / "docs" / "results" / "memory_estimates.json").read_text("utf-8"))["rows"]
    assert len(table) == 4
    for column, name in ((1, "llama3"), (2, "mistral")):
        found, shipped = load_meta(str(tmp_path / name), dtype="float16"), settings_for(name)
        types = yaml.safe_load((PAPER / "models" / f"{name}.yaml").read_text("utf-8"))["types"]
        plain, redirected, trained, halved = (float(row[column].removesuffix(" GB")) for row in table)
        for label, settings in types.items():
            method = settings.pop("method")
            need = estimate_memory(found, method, method_config(shipped, method, settings))
            expected = {"original": plain, "rocr": redirected}.get(label, trained)
            assert need.device / 2**30 == pytest.approx(expected, abs=0.06), label
            if label == "rocr":
                assert need.null_spaces / 2**30 == pytest.approx(2.3, abs=0.05)
            elif label != "original":
                half = method_config(
                    shipped, method, settings | {"per_device_train_batch_size": settings["per_device_train_batch_size"] // 2}
                )
                assert estimate_memory(found, method, half).device / 2**30 == pytest.approx(halved, abs=0.06)
