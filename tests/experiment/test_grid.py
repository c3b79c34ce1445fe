from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from formless import hub
from formless.errors import DataError, ModelError, UnknownNameError, UserError
from formless.experiment.config import Experiment
from formless.experiment.grid import grid
from formless.experiment.run import Session
from formless.experiment.runs import RESULTS_VERSION, Run
from formless.methods.rocr.nullspace import BasisProjection, Fingerprint

Build = Callable[..., Experiment]


def ids(experiment: Experiment) -> set[str]:
    return {run.id for run in grid(experiment)}


def test_model_by_model_and_target_by_target(experiment: Build, model_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    runs = grid(experiment(models=[str(model_folder), str(other)], targets="1-2"))
    assert [(Path(run.model.name).name, run.target, run.label) for run in runs] == [
        (model, target, label)
        for model in ("tiny", "other")
        for target in ("1_Person_1", "2_Person_2")
        for label in ("original", "icu")
    ]
    assert len({run.id for run in runs}) == 8


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [("all", [1, 2, 3, 4]), ("2-3", [2, 3]), ("4,1", [1, 4]), (3, [3]), ("Person 2", [2]), (["2_Person_2", 1], [1, 2])],
)
def test_targets(experiment: Build, choice: Any, numbers: list[int]) -> None:
    assert [run.target for run in grid(experiment(methods="icu", targets=choice))] == [f"{n}_Person_{n}" for n in numbers]


def test_seeds_are_of_methods_that_draw_numbers(experiment: Build) -> None:
    rocr = {"method": "rocr", "layers": [1], "basis": "none"}
    methods = ["original", rocr, rocr | {"mode": "noise", "label": "noise"}, "ga"]
    runs = grid(experiment(methods=methods, seeds=[1, 2], targets=1))
    assert [(run.label, run.seed) for run in runs] == [
        ("original", None), ("rocr", 42), ("noise", 1), ("noise", 2), ("ga", 1), ("ga", 2)
    ]  # fmt: skip


def test_a_release_keeps_the_ids_unless_results_change(experiment: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ids(experiment())
    monkeypatch.setattr("formless.__version__", "99.0.0")
    assert ids(experiment()) == first
    monkeypatch.setattr("formless.experiment.runs.RESULTS_VERSION", RESULTS_VERSION + 1)
    assert not ids(experiment()) & first


def test_the_id_is_of_what_determines_the_result(experiment: Build, model_folder: Path, people: Path, tmp_path: Path) -> None:
    plain = {"methods": [{"method": "ga"}], "targets": 1}
    first = ids(experiment(**plain))
    same: list[dict[str, Any]] = [
        {"methods": [{"method": "ga", "label": "another"}]},
        {"models": [{"name": str(model_folder), "device": "cpu"}]},
        {"models": [{"name": str(model_folder), "dtype": "float32"}]},
        {"data": str(shutil.copytree(people, tmp_path / "elsewhere"))},
        {"save_edits": False},
        {"name": "other"},
    ]
    for keys in same:
        assert ids(experiment(**plain | keys)) == first, keys
    others: list[dict[str, Any]] = [
        {"methods": [{"method": "ga", "num_train_epochs": 3}]},
        {"methods": [{"method": "ga", "retain": "kl"}]},
        {"methods": ["npo"]},
        {"models": [{"name": str(model_folder), "dtype": "bfloat16"}]},
        {"suite": "qa"},
        {"limit": 1},
        {"seeds": [1]},
        {"direct_answer": True},
        {"targets": 2},
    ]
    found = [ids(experiment(**plain | keys)) for keys in others]
    assert len(set.union(first, *found)) == 1 + len(others)


def test_files_that_a_run_reads_are_part_of_its_id(experiment: Build, people: Path) -> None:
    def found(method: str | dict[str, Any]) -> set[str]:
        return ids(experiment(methods=[method], targets=1))

    keeping = {"method": "ga", "retain": "kl"}
    neighbors = keeping | {"retain_rows": "neighbors"}
    before = [found("icu"), found("ga"), found(keeping), found(neighbors)]
    text = people / "1_Person_1" / "positive.json"
    text.write_text(text.read_text().replace("books", "songs"), "utf-8")
    assert [a == b for a, b in zip(before, [found("icu"), found("ga")], strict=False)] == [True, False]
    before = [found("ga"), found(keeping), found(neighbors)]
    other = people / "2_Person_2" / "positive.json"
    other.write_text(other.read_text().replace("books", "songs"), "utf-8")
    assert [a == b for a, b in zip(before, [found("ga"), found(keeping), found(neighbors)], strict=True)] == [True, False, True]


def test_names_are_part_of_the_id_where_they_get_keys(experiment: Build, people: Path) -> None:
    rocr = {"method": "rocr", "layers": [1], "basis": "none", "redirect": "Homer"}
    ways = [rocr, rocr | {"mentions": "spelled"}, rocr | {"protect": "neighbors"}, rocr | {"redirect": "auto"}]
    file = people / "1_Person_1" / "aliases.json"
    file.write_text(json.dumps([{"name": "Person 1"}, {"name": "Person 2"}]), "utf-8")

    def found() -> list[set[str]]:
        return [ids(experiment(methods=[way], targets=1)) for way in ways]

    before = found()
    assert len(set.union(*before)) == 4
    file.write_text(json.dumps([{"name": "Person 1"}, {"name": "Person 3"}]), "utf-8")
    assert [a == b for a, b in zip(before, found(), strict=True)] == [True, False, False, False]


def test_a_setting_that_came_later_leaves_ids_alone(experiment: Build) -> None:
    (run,) = grid(experiment(methods=[{"method": "rocr", "layers": [1], "basis": "none"}], targets=1))
    earlier = {name: value for name, value in run.config.items() if name not in ("mentions", "protect")}
    assert Run.model_validate(run.model_dump() | {"config": earlier}).id == run.id
    assert Run.model_validate(run.model_dump() | {"config": earlier | {"l2": 3.0}}).id != run.id


def test_a_model_of_the_hub_is_identified_and_loaded_by_its_commit(experiment: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = {None: "aaaa", "v1": "bbbb"}

    def pinned(repository: hub.Repository) -> str:
        if repository.name == "org/away":
            raise ModelError("the hub cannot be reached")
        return commits[repository.revision]

    asked = []

    def load(name: str, *, revision: str | None, **_: object) -> None:
        asked.append((name, revision))
        raise ModelError("no weights")

    monkeypatch.setattr(hub, "pinned", pinned)
    monkeypatch.setattr("formless.experiment.run.load", load)
    names = ["org/tiny", "org/tiny@v1", "org/away"]
    runs = [run for run in grid(experiment(models=names, targets="1")) if run.label == "original"]
    assert [run.inputs["model"] for run in runs] == ["org/tiny@aaaa", "org/tiny@bbbb", "org/away@main"]
    for run in runs:
        with pytest.raises(ModelError, match="no weights"):
            Session().model(run)
    assert asked == list(zip(names, ["aaaa", "bbbb", "main"], strict=True))


def test_changed_weights_are_another_model(experiment: Build, model_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model_folder, tmp_path / "tiny")
    keys = {"models": [str(other)], "targets": 1}
    first = ids(experiment(**keys))
    weights = other / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    assert not ids(experiment(**keys)) & first


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        ({"methods": ["rokr"]}, UnknownNameError, "rocr"),
        ({"methods": [{"method": "ga", "beta": 1}]}, UserError, "ga has no such setting.*beta"),
        ({"methods": [{"method": "rocr", "steps": 3}]}, UserError, "steps has no effect"),
        ({"methods": [{"method": "ga", "seed": 3}], "seeds": [1]}, UserError, "seed is given twice"),
        ({"methods": ["icu", {"method": "icu", "label": "b"}]}, UserError, "icu and b are the same"),
        ({"methods": ["rt"]}, DataError, "rt trains on reject.json, which 4 of 4 targets lack"),
        ({"targets": "9"}, UnknownNameError, "'9'"),
        ({"targets": "3-1"}, UserError, "is not a range"),
        ({"targets": []}, UserError, "no target is chosen"),
        ({"suite": "fbb"}, UnknownNameError, "did you mean fb"),
        ({"models": ["smolm2"]}, UserError, "smollm2"),
        ({"data": "nowhere"}, DataError, "no such data folder"),
    ],
)
def test_all_that_is_wrong_is_found_before_a_model_is_loaded(
    experiment: Build, keys: dict[str, Any], error: type[UserError], said: str
) -> None:
    with pytest.raises(error, match=said):
        grid(experiment(**keys))


def test_a_broken_file_is_found_before_a_model_is_loaded(experiment: Build, people: Path) -> None:
    (people / "4_Person_4" / "forget_level1.json").write_text("[{}]", "utf-8")
    with pytest.raises(DataError, match="4_Person_4.*forget_level1"):
        grid(experiment())
    (people / "4_Person_4" / "forget_level1.json").unlink()
    with pytest.raises(DataError, match="lacks a file.*4_Person_4"):
        grid(experiment())


def test_every_target_is_checked_against_the_settings(experiment: Build) -> None:
    rocr = {"method": "rocr", "layers": [1], "basis": "none", "redirect": "Person 2"}
    with pytest.raises(UserError, match="Person 2 would be redirected to itself"):
        grid(experiment(methods=[rocr], targets="1-2"))
    assert len(grid(experiment(methods=[rocr], targets="1,3"))) == 2


def save_basis(folder: Path, samples: int) -> None:
    """Write a basis for layer 1 of the tiny model."""
    fingerprint = Fingerprint(
        model="tiny", model_fingerprint="0", layer=1, corpus="a", samples=samples, tokens=1, threshold=0.02, rank=1,
        dimension=48, spectrum=(1.0,),
    )  # fmt: skip
    BasisProjection(torch.eye(48)[:, :1], True, fingerprint).save(folder)


def test_a_folder_that_settings_name_counts_by_its_content(experiment: Build, tmp_path: Path) -> None:
    def runs(basis: Path) -> set[str]:
        return ids(experiment(methods=[{"method": "rocr", "layers": [1], "basis": str(basis)}], targets=1))

    with pytest.raises(UserError, match="basis: there is no such file or folder"):
        runs(tmp_path / "missing")
    assert len(runs(Path("sampled"))) == 1  # no folder, but what the model samples
    (tmp_path / "one").mkdir()
    save_basis(tmp_path / "one", samples=1)
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    assert runs(tmp_path / "one") == runs(tmp_path / "moved")
    save_basis(tmp_path / "moved", samples=2)
    assert runs(tmp_path / "one") != runs(tmp_path / "moved")


def question_set(data: Path, number: int) -> Path:
    """Write a question set into a data set."""
    folder = data / f"{number}_Set_{number}"
    folder.mkdir(parents=True)
    files: dict[str, list[dict[str, Any]]] = {
        "forget_qa": [{"question": "Where was Ada born?", "answer": f"In London, {number}."}],
        "neighbor_qa": [{"question": "Where was Bob born?", "answer": "In Rome."}],
        "forget_level2": [{"query": "Where was Ada born?", "answer": "London"}],
        "concepts": [{"name": "Ada Lovelace"}],
    }
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    return folder


def test_runs_on_question_sets_follow_what_each_method_reads(experiment: Build, tmp_path: Path) -> None:
    data = tmp_path / "sets"
    folders = [question_set(data, number) for number in (1, 2)]
    methods = ["npo", "grad_diff", "icu", {"method": "rocr", "layers": [1], "basis": "none"}]
    plan = experiment(data=str(data), targets="all", methods=methods, suite="qa")
    assert [(run.subject, run.label) for run in grid(plan)][:5] == [
        ("Set 1", "npo"), ("Set 1", "grad_diff"), ("Set 1", "icu"), ("Set 1", "rocr"), ("Set 2", "npo")
    ]  # fmt: skip

    def changed(file: str, rows: list[dict[str, Any]]) -> set[str]:
        """The methods whose runs on the first set are others once a file is another."""
        before = ids(plan)
        (folders[0] / f"{file}.json").write_text(json.dumps(rows), "utf-8")
        return {run.label for run in grid(plan) if run.id not in before}

    assert changed("forget_qa", [{"question": "Where?", "answer": "There."}]) == {"npo", "grad_diff"}
    assert changed("neighbor_qa", [{"question": "Where?", "answer": "There."}]) == {"grad_diff"}
    assert changed("concepts", [{"name": "Charles Babbage"}]) == {"icu", "rocr"}
    assert changed("positive", [{"text": "Ada wrote programs."}]) == {"npo", "grad_diff"}


@pytest.mark.parametrize(
    ("method", "file", "line"),
    [
        ("npo", "forget_qa", "npo trains on positive.json or forget_qa.json, which the target lacks"),
        ("grad_diff", "neighbor_qa", "the question set has no retain questions, neighbor_qa.json"),
        ("icu", "concepts", "the question set does not say which concepts it is about"),
    ],
)
def test_question_sets_that_lack_what_a_method_needs(
    experiment: Build, tmp_path: Path, method: str, file: str, line: str
) -> None:
    folder = question_set(tmp_path / "sets", 1)
    (folder / f"{file}.json").unlink()
    with pytest.raises(DataError) as caught:
        grid(experiment(data=str(folder.parent), targets="all", methods=[method], suite="qa"))
    assert str(caught.value).startswith(f"{line} [{folder}]")
