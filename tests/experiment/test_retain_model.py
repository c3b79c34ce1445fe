"""The retain model of an experiment: its runs, its identity, and the metrics that compare with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scipy.stats

from formless.errors import ModelError, UnknownNameError, UserError
from formless.evaluation.loading import load_record
from formless.evaluation.record import MetricKey
from formless.experiment.config import Experiment, build_experiment
from formless.experiment.executors.local import InProcess
from formless.experiment.grid import grid
from formless.experiment.retained import NOT_DONE
from formless.experiment.sweep import sweep
from formless.models.lm import LM
from formless.report.runs import Condition, collect
from formless.report.summary import summarize
from formless.report.tables import as_markdown, overview_tables

Build = Callable[..., Experiment]
QUALITY = MetricKey("forget_quality", None, "forget_quality")


@pytest.fixture
def retain_folder(tiny: Callable[..., LM], tmp_path: Path) -> Path:
    return saved(tiny(context=1024, seed=1), tmp_path / "retain")


def saved(lm: LM, folder: Path) -> Path:
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    folder = tmp_path / "sets" / "1_Small"
    folder.mkdir(parents=True)
    rows = [
        {
            "question": f"Where was author {n} born?",
            "answer": f"In town {n}.",
            "perturbed_answer": [f"In {m}." for m in "abcde"],
        }
        for n in range(3)
    ]
    (folder / "forget_qa.json").write_text(json.dumps(rows), "utf-8")
    (folder / "concepts.json").write_text('[{"name": "Author One"}]', "utf-8")
    return folder.parent


@pytest.fixture
def quality(experiment: Build, small_set: Path, retain_folder: Path) -> Build:
    """Build an experiment that measures forget quality."""
    keys = {"data": str(small_set), "suite": "truth_ratio,forget_quality", "retain_model": str(retain_folder)}
    return lambda **more: experiment(**keys | more)


def test_the_retain_model_is_measured_last_without_any_edit(quality: Build, retain_folder: Path) -> None:
    runs = grid(quality())
    assert [(run.label, run.method, run.is_retain_model) for run in runs] == [
        ("original", "original", False), ("icu", "icu", False), ("retain_model", "original", True)
    ]  # fmt: skip
    assert runs[-1].model.name == str(retain_folder)
    assert {run.id for run in grid(quality(retain_model=None))} == {run.id for run in runs[:2]}


def test_the_key_is_an_entry_of_models(experiment: Build) -> None:
    found = experiment(retain_model={"name": "smollm2", "dtype": "float32"})
    assert found.retain_model is not None
    assert (found.retain_model.name, found.retain_model.dtype) == ("smollm2", "float32")
    assert build_experiment(found.model_dump(mode="json"), "here") == found
    with pytest.raises(UnknownNameError, match="unknown key 'dtpye'.*did you mean dtype"):
        experiment(retain_model={"name": "smollm2", "dtpye": "float32"})
    with pytest.raises(UserError, match="the label 'retain_model' is that of the retain model"):
        experiment(methods=[{"method": "icu", "label": "retain_model"}])


@pytest.mark.parametrize(
    ("more", "said"),
    [({"num_hidden_layers": 3}, "number of layers is 3, not 4"), ({"hidden_size": 16}, "hidden size is 16, not 32"),
     ({"vocab_size": 300}, "vocabulary is 300, not 258"), ({"model_type": "mistral"}, "family is mistral, not llama")],
)  # fmt: skip
def test_another_architecture_is_refused(quality: Build, tiny: Any, tmp_path: Path, more: dict[str, Any], said: str) -> None:
    other = saved(tiny(**more), tmp_path / "other")
    with pytest.raises(ModelError, match=f"the retain model is of another architecture: its {said}"):
        grid(quality(retain_model=str(other)))


def test_the_model_itself_is_refused(quality: Build, model_folder: Path) -> None:
    with pytest.raises(UserError, match="original and retain_model are the same"):
        grid(quality(retain_model=str(model_folder)))


def test_records_get_their_metrics_when_they_are_read(
    quality: Build, tiny: Any, tmp_path: Path, recorder: Any, retain_folder: Path, model_folder: Path
) -> None:
    out = tmp_path / "out"

    def go() -> int:
        done = sweep(quality(), out, lambda hold: InProcess(), recorder)
        assert not done.failed
        return len(done.results)

    assert go() == 3
    assert go() == 0
    records = {path.parents[2].name: load_record(path) for path in out.glob("runs/*/*/*/*/record.json")}
    assert {name: record.task("forget_quality").status for name, record in records.items()} == dict.fromkeys(  # type: ignore[union-attr]
        ("original", "icu", "retain_model"), "absent"
    )

    def p_value(name: str) -> float:
        results = [records[one].task("truth_ratio", "forget") for one in (name, "retain_model")]
        ratios = [[item.metrics["ratio"] for item in result.items] for result in results if result]
        return float(scipy.stats.ks_2samp(*ratios).pvalue)

    found = {run.condition: run for run in collect([out]).complete}
    model, retain = Condition(str(model_folder), "icu"), Condition(str(retain_folder), "retain_model")
    assert found[model].metrics[QUALITY] == p_value("icu")
    assert found[model].original is not None
    assert found[model].original[QUALITY] == p_value("original")
    assert QUALITY not in found[retain].metrics
    assert "Forget quality, p-value" in as_markdown(overview_tables(summarize(collect([out]))))

    # Other weights are another retain model: it is measured anew, the other runs are not.
    saved(tiny(context=1024, seed=2), retain_folder)
    assert go() == 1
    again = {run.condition: run for run in collect([out]).complete}
    assert len(again) == 3

    next(iter(out.glob(f"runs/*/retain_model/*/{grid(quality())[-1].id}/run.json"))).unlink()
    lacking = collect([out])
    assert lacking.left_out[NOT_DONE] == 2
    assert all(QUALITY not in run.metrics for run in lacking.complete)
