"""Data sets put into the ORT layout: from the hub's own layout on disk, from a folder of targets; whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from formless import hub, registry
from formless.data.formats import DATA_FORMATS, DataFormat, Prepared, Selection
from formless.data.ort import targets
from formless.data.prepare import prepare
from formless.data.rows import Row
from formless.data.rwku import CONFIGURATIONS, HUB, MODEL_WRITTEN
from formless.data.target import FILES
from formless.errors import DataError, OutputError, UnknownNameError
from formless.registry import Registry

datasets.disable_progress_bars()
datasets.logging.set_verbosity(datasets.logging.CRITICAL)

Tables = dict[str, list[dict[str, Any]]]
EVERY = {**CONFIGURATIONS, **{file: name.format("llama3") for file, name in MODEL_WRITTEN.items()}}


def small_tables() -> Tables:
    """Two targets, the second with rows that lack columns; rows of the two stand mixed."""
    question = {"task": "sums", "question": "1+1?", "choices": ["1", "2"], "answer": 1, "subject": "Ada Lovelace"}
    choices = {"choices": ["yes", "no"], "labels": [1, 0]}
    return {
        "forget_target": [
            {"target": "Ada Lovelace", "intro": "Ada Lovelace wrote programs."},
            {"target": "Beyoncé", "intro": "Beyoncé sings."},
        ],
        "forget_level1": [
            {"query": "Beyoncé was born in ___.", "answer": "1981", "subject": "Beyoncé"},
            {"query": "Ada was born in ___.", "answer": "London", "subject": "Ada Lovelace", "level": "1", "type": "cloze"},
            {"query": "Beyoncé sang in ___.", "answer": "Destiny's Child", "subject": "Beyoncé", "page": 3},
        ],
        "forget_level2": [
            {"query": "Where was Ada born?", "answer": "London", "subject": "Ada Lovelace"},
            {"query": "When was Beyoncé born?", "answer": "1981", "subject": "Beyoncé"},
        ],
        "utility_general": [question | {"examples": [question]}],
        "utility_truthfulness": [
            {"question": "Is it?", "mc1_targets": choices, "mc2_targets": choices, "subject": "Ada Lovelace"}
        ],
        "train_pair_llama3": [{"prompt": "Who?", "response": ["Bob", "Ada"], "subject": "Ada Lovelace"}],
        "train_pair_phi3": [{"prompt": "Who then?", "response": ["Bob", "Ada"], "subject": "Ada Lovelace"}],
    }


def write_copy(folder: Path, tables: Tables, *, readme: bool = True, suffix: str = "parquet") -> Path:
    """The dataset as it lies on the hub: files, and a README that lists them."""
    listed = []
    for name, rows in tables.items():
        path = folder / name / f"test-00000-of-00001.{suffix}"
        path.parent.mkdir(parents=True)
        if suffix == "parquet":
            columns = dict.fromkeys(key for row in rows for key in row)
            pyarrow.parquet.write_table(pyarrow.table({key: [row.get(key) for row in rows] for key in columns}), path)
        else:
            path.write_text(json.dumps(rows, indent=4), "utf-8")
        listed.append(f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}/*.{suffix}\n")
    if readme:
        (folder / "README.md").write_text(f"---\nlicense: cc-by-4.0\nconfigs:\n{''.join(listed)}---\n# RWKU\n", "utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def rows_of(data: Path) -> dict[str, Any]:
    return {str(path.relative_to(data)): json.loads(path.read_text("utf-8")) for path in data.glob("*/*.json")}


def refused(source: Path, out: Path, **options: Any) -> str:
    """The one line of the error; nothing is left behind."""
    with pytest.raises(DataError) as caught:
        prepare(str(source), out, **options)
    assert "\n" not in str(caught.value)
    assert not list(out.parent.glob(f"*{out.name}*"))
    return str(caught.value)


@pytest.mark.parametrize(("readme", "suffix"), [(True, "parquet"), (False, "parquet"), (True, "json")])
def test_rows_go_to_the_folder_of_their_subject_in_order(tmp_path: Path, readme: bool, suffix: str) -> None:
    tables = small_tables()
    copy = write_copy(tmp_path / "copy", tables, readme=readme, suffix=suffix)
    before = contents(copy)
    prepared = prepare(str(copy), tmp_path / "out")
    level1 = tables["forget_level1"]
    assert rows_of(tmp_path / "out") == {
        "1_Ada_Lovelace/intro.json": tables["forget_target"][:1],
        "2_Beyoncé/intro.json": tables["forget_target"][1:],
        "1_Ada_Lovelace/forget_level1.json": [level1[1]],
        "2_Beyoncé/forget_level1.json": [level1[0], level1[2]],
        "1_Ada_Lovelace/forget_level2.json": tables["forget_level2"][:1],
        "2_Beyoncé/forget_level2.json": tables["forget_level2"][1:],
        "1_Ada_Lovelace/retain_mmlu.json": tables["utility_general"],
        "1_Ada_Lovelace/truthful.json": tables["utility_truthfulness"],
        "1_Ada_Lovelace/pair.json": tables["train_pair_llama3"],
    }
    assert contents(copy) == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"1_Ada_Lovelace", "2_Beyoncé", "manifest.json"}
    assert [target.subject for target in targets(tmp_path / "out")] == ["Ada Lovelace", "Beyoncé"]
    assert prepared.absent["pair"] == ["2_Beyoncé"]
    assert prepared.absent["neighbor_level1"] == ["1_Ada_Lovelace", "2_Beyoncé"]
    assert "forget_level1" not in prepared.absent


def test_real_rwku_comes_back_row_for_row(rwku: Path, tmp_path: Path) -> None:
    found = [target.folder for target in targets(rwku) if target.folder][::-1]  # another order than that of the numbers
    tables: Tables = {configuration: [] for configuration in EVERY.values()}
    originals = {}
    for number, folder in enumerate(found, 1):
        for file, configuration in EVERY.items():
            rows = json.loads((folder / f"{file}.json").read_text("utf-8"))
            tables[configuration] += rows
            originals[f"{number}_{folder.name.partition('_')[2]}/{file}.json"] = rows
    copy = write_copy(tmp_path / "copy", tables)
    prepared = prepare(str(copy), tmp_path / "out")
    assert len(originals) == 18 * len(found)
    assert rows_of(tmp_path / "out") == originals
    assert not prepared.absent
    assert not prepared.unlisted


def test_all_splits_of_a_configuration_are_joined_in_order(tmp_path: Path) -> None:
    tables = small_tables()
    copy = write_copy(tmp_path / "copy", tables)
    more = [{"query": "Ada died in ___.", "answer": "1852", "subject": "Ada Lovelace"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(more), copy / "forget_level2" / "dev.parquet")
    text = (copy / "README.md").read_text("utf-8")
    extra = "  - split: extra\n    path: forget_level2/dev.parquet\n"
    (copy / "README.md").write_text(text.replace("forget_level2/*.parquet\n", "forget_level2/test-*\n" + extra), "utf-8")
    prepare(str(copy), tmp_path / "out")
    rows = rows_of(tmp_path / "out")["1_Ada_Lovelace/forget_level2.json"]
    assert rows == [tables["forget_level2"][0], *more]


@pytest.mark.parametrize(("train", "prompts"), [("llama3", ["Who?"]), ("phi3", ["Who then?"]), ("none", None)])
def test_training_texts_of_one_model_or_of_none(tmp_path: Path, train: str, prompts: list[str] | None) -> None:
    copy = write_copy(tmp_path / "copy", small_tables())
    prepared = prepare(str(copy), tmp_path / "out", train=train)
    pairs = rows_of(tmp_path / "out").get("1_Ada_Lovelace/pair.json")
    assert (pairs and [row["prompt"] for row in pairs]) == prompts
    assert ("positive" in prepared.absent) == (train != "none")
    again = prepare(str(tmp_path / "out"), tmp_path / "again", train="none")
    assert "pair.json" not in again.files["1_Ada_Lovelace"]


def test_unknown_training_texts_suggest_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'lama3' .--train.: did you mean llama3"):
        prepare("sample", tmp_path / "out", train="lama3")


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        (None, {"1_Ada_Lovelace", "2_Beyoncé"}),
        ([range(1, 101)], {"1_Ada_Lovelace", "2_Beyoncé"}),
        ([range(2, 3)], {"2_Beyoncé"}),
        ([range(2, 3), range(1, 2)], {"1_Ada_Lovelace", "2_Beyoncé"}),
    ],
)
def test_targets_are_chosen_by_number(tmp_path: Path, numbers: list[range] | None, names: set[str]) -> None:
    copy = write_copy(tmp_path / "copy", small_tables())
    prepared = prepare(str(copy), tmp_path / "out", numbers=numbers)
    assert set(prepared.files) == names == {target.folder.name for target in targets(tmp_path / "out") if target.folder}
    assert not prepared.unlisted  # a target that was not chosen is no stranger
    for part in numbers or ():
        assert set(prepare(str(tmp_path / "out"), tmp_path / f"{part}", numbers=[part]).files) <= names


@pytest.mark.parametrize("is_copy", [True, False])
def test_a_number_that_no_target_has_is_an_error(tmp_path: Path, is_copy: bool) -> None:
    source = write_copy(tmp_path / "copy", small_tables())
    if not is_copy:
        prepare(str(source), tmp_path / "source")
        source = tmp_path / "source"
    said = refused(source, tmp_path / "out", numbers=[range(1, 3), range(5, 8)])
    assert "no target has the number 5-7" in said
    assert "--targets]: the source has 1 to 2" in said


def test_subjects_that_are_no_target_are_counted(tmp_path: Path) -> None:
    tables = small_tables()
    tables["forget_level1"] += [{"query": "Bob ___.", "answer": "x", "subject": "Bob"}] * 2
    prepared = prepare(str(write_copy(tmp_path / "copy", tables)), tmp_path / "out")
    assert prepared.unlisted == {"Bob": 2}
    assert json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))["unlisted"] == {"Bob": 2}


def test_the_manifest_says_what_is_there_and_no_path(tmp_path: Path) -> None:
    copy = write_copy(tmp_path / "copy", small_tables())
    prepare(str(copy), tmp_path / "out")
    text = (tmp_path / "out" / "manifest.json").read_text("utf-8")
    manifest = json.loads(text)
    assert manifest["source"] == "copy"
    assert str(tmp_path) not in text
    assert manifest["absent"]["pair.json"] == ["2_Beyoncé"]
    assert datetime.fromisoformat(manifest["created"]).tzinfo
    assert manifest["versions"]["datasets"] == datasets.__version__
    files = {f"{folder}/{name}": entry for folder, entries in manifest["targets"].items() for name, entry in entries.items()}
    assert set(files) == set(rows_of(tmp_path / "out"))
    for name, entry in files.items():
        content = (tmp_path / "out" / name).read_bytes()
        assert entry == {"rows": len(json.loads(content)), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("configuration", ["forget_target", "forget_level1", "forget_level2"])
@pytest.mark.parametrize("readme", [True, False])
def test_a_configuration_that_every_data_set_needs(tmp_path: Path, configuration: str, readme: bool) -> None:
    tables = small_tables()
    del tables[configuration]
    said = refused(write_copy(tmp_path / "copy", tables, readme=readme), tmp_path / "out")
    assert ("holds no data set" if configuration == "forget_target" else f"no target has a {configuration}.json") in said


@pytest.mark.parametrize(
    ("configuration", "row", "said"),
    [
        ("forget_level1", {"query": "Ada lived.", "answer": "x"}, "forget_level1, row 4]: query: a cloze needs a blank"),
        ("forget_level2", {"query": "Who?"}, "forget_level2, row 3, field answer]"),
        ("forget_level2", {"query": "", "answer": "x"}, "forget_level2, row 3, field query]"),
        ("forget_level2", {"query": "x" * 2**20, "answer": "x"}, "a row is larger than 1 MB"),
        ("train_pair_llama3", {"prompt": "Who?", "response": ["Bob"]}, "train_pair_llama3, row 2, field response"),
        ("forget_level2", {"query": "Who?", "answer": "x", "seen": datetime(2024, 1, 1)}, "cannot be written as JSON"),
        ("forget_level2", {"query": "Who?", "answer": "x", "weight": float("nan")}, "cannot be written as JSON"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path: Path, configuration: str, row: dict[str, Any], said: str) -> None:
    tables = small_tables()
    tables[configuration].append(row | {"subject": "Ada Lovelace"})
    assert said in refused(write_copy(tmp_path / "copy", tables), tmp_path / "out")


def test_a_row_without_a_subject_is_named(tmp_path: Path) -> None:
    tables = small_tables()
    tables["forget_level2"].append({"query": "Who?", "answer": "x"})
    said = refused(write_copy(tmp_path / "copy", tables), tmp_path / "out")
    assert "no subject" in said
    assert "forget_level2, row 3, field subject]" in said


def test_a_configuration_without_the_column_of_subjects(tmp_path: Path) -> None:
    tables = small_tables()
    tables["forget_level2"] = [{"query": "Who?", "answer": "x"}]
    said = refused(write_copy(tmp_path / "copy", tables), tmp_path / "out")
    assert "no column 'subject'" in said
    assert "forget_level2]: it has query, answer" in said


@pytest.mark.parametrize(
    "subject", ["", "  ", "AC/DC", "..", ".hidden", "a\\b", "a\x00b", "a\nb", "a_b", "x" * 260, "../../etc", "\u202egnp.exe"]
)
def test_a_subject_that_cannot_name_a_folder(tmp_path: Path, subject: str) -> None:
    tables = small_tables()
    tables["forget_target"].append({"target": subject, "intro": "Somebody."})
    copy = write_copy(tmp_path / "copy", tables)
    said = refused(copy, tmp_path / "out")
    assert "[forget_target, row 3]" in said
    prepare(str(copy), tmp_path / "out", numbers=[range(1, 3)])


@pytest.mark.parametrize("subject", ["Prince Harry, Duke of Sussex", "50 Cent", "Robert Downey Jr.", "Jay-Z", "C++", "孔夫子"])
def test_subjects_come_back_out_of_their_folders(tmp_path: Path, subject: str) -> None:
    tables = json.loads(json.dumps(small_tables()).replace("Ada Lovelace", subject))
    prepare(str(write_copy(tmp_path / "copy", tables)), tmp_path / "out")
    assert [target.subject for target in targets(tmp_path / "out")] == [subject, "Beyoncé"]


def test_a_target_that_is_listed_twice(tmp_path: Path) -> None:
    tables = small_tables()
    tables["forget_target"] *= 2
    assert "'Ada Lovelace' is listed twice" in refused(write_copy(tmp_path / "copy", tables), tmp_path / "out")


@pytest.mark.parametrize("readme", [True, False])
def test_broken_parquet_is_named(tmp_path: Path, readme: bool) -> None:
    copy = write_copy(tmp_path / "copy", small_tables(), readme=readme)
    (copy / "forget_level2" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 no parquet")
    said = refused(copy, tmp_path / "out")
    assert "cannot be read" in said
    assert "forget_level2]: " in said


@pytest.mark.parametrize("path", ["../secret.parquet", "https://example.invalid/secret.parquet", "{}/secret.parquet"])
def test_a_readme_that_names_files_elsewhere(tmp_path: Path, path: str) -> None:
    copy = write_copy(tmp_path / "copy", small_tables())
    shutil.copy(copy / "forget_level2" / "test-00000-of-00001.parquet", tmp_path / "secret.parquet")
    readme = copy / "README.md"
    readme.write_text(readme.read_text("utf-8").replace("forget_level2/*.parquet", path.format(tmp_path)), "utf-8")
    said = refused(copy, tmp_path / "out")
    assert "secret.parquet" in said


def test_a_snapshot_of_the_hub_cache_is_made_of_links(tmp_path: Path) -> None:
    copy = write_copy(tmp_path / "copy", small_tables())
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(copy.rglob("*.parquet"))):
        path.rename(blobs / f"{number}")
        path.symlink_to(blobs / f"{number}")
    assert len(prepare(str(copy), tmp_path / "out").files) == 2


def test_a_folder_that_holds_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("# Notes\n", "utf-8")
    assert "holds no data set" in refused(tmp_path / "empty", tmp_path / "out")
    assert str(tmp_path / "other") in refused(tmp_path / "other", tmp_path / "out")
    assert "no such data folder" in refused(tmp_path / "none", tmp_path / "out")


def test_the_hub_out_of_reach_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "rwku" / "cache")
    (tmp_path / "rwku").mkdir()  # a folder of that name is not mistaken for the hub
    with pytest.raises(DataError, match=rf"the dataset is not in the cache .* \[{HUB}\]: ") as caught:
        prepare("rwku", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["rwku"]


def test_no_secret_of_an_address_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError("403 for https://user:hunter2@host.example/file.parquet?X-Signature=hunter2&a=b (proxy)")

    monkeypatch.setattr(datasets, "get_dataset_config_names", fail)
    with pytest.raises(DataError, match=r"403 for https://host\.example/file\.parquet \(proxy\)") as caught:
        prepare(str(write_copy(tmp_path / "copy", small_tables())), tmp_path / "out")
    assert "hunter2" not in str(caught.value)


def test_the_first_hundred_of_the_hub_with_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = small_tables()
    tables["forget_target"] += [{"target": f"Person {number}", "intro": "Somebody."} for number in range(3, 103)]
    for configuration in ("forget_level1", "forget_level2"):
        tables[configuration].append({"query": "Who is ___?", "answer": "Person 101", "subject": "Person 101"})
    copy = write_copy(tmp_path / ("0123456789" * 4), tables)
    monkeypatch.setattr(hub, "fetch", lambda *_: copy)
    prepared = prepare("rwku", tmp_path / "out")
    assert list(prepared.files)[-1] == "100_Person_100"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert (manifest["source"], manifest["revisions"]) == (HUB, ["0123456789" * 4])
    assert list(prepare("rwku", tmp_path / "more", numbers=[range(101, 103)]).files) == ["101_Person_101", "102_Person_102"]


def test_a_folder_of_targets_is_validated_and_copied(tmp_path: Path, target_folder: Path) -> None:
    data = target_folder.parent
    (target_folder / "notes.txt").write_text("private", "utf-8")
    (data / "README.md").write_text("about", "utf-8")
    prepared = prepare(str(data), tmp_path / "out")
    copied = contents(tmp_path / "out")
    del copied["manifest.json"]
    original = contents(data)
    del original["README.md"], original["1_Ada_Lovelace/notes.txt"]
    assert copied == original
    assert prepared.files["1_Ada_Lovelace"]["forget_level1.json"]["rows"] == 2
    assert prepared.absent["passage"] == ["1_Ada_Lovelace"]


def test_the_sample_and_real_rwku_are_copied_whole(tmp_path: Path, rwku: Path) -> None:
    for source in ("sample", str(rwku)):
        out = tmp_path / Path(source).name
        prepared = prepare(source, out)
        assert len(prepared.files) == len(targets(source))
        for target, copy in zip(targets(source), targets(out), strict=True):
            for file in FILES:
                assert copy.has(file) == target.has(file)
                assert not copy.has(file) or copy.rows(file, Row) == target.rows(file, Row)


def test_training_texts_of_phi3_in_a_folder_of_targets(tmp_path: Path, target_folder: Path) -> None:
    (target_folder / "positive.json").write_text('[{"text": "by llama"}]', "utf-8")
    (target_folder / "positive_phi.json").write_text('[{"text": "by phi"}]', "utf-8")
    for train, text in (("llama3", "by llama"), ("phi3", "by phi")):
        prepare(str(target_folder.parent), tmp_path / train, train=train)
        assert rows_of(tmp_path / train)["1_Ada_Lovelace/positive.json"] == [{"text": text}]


@pytest.mark.parametrize("name", ["forget_level1.json", "passage.json"])
def test_a_broken_row_in_a_folder_of_targets(tmp_path: Path, target_folder: Path, name: str) -> None:
    (target_folder / name).write_text('[{"query": "___", "answer": "x", "text": "x"}, {}]', "utf-8")
    assert f"{name}, row 2, field" in refused(target_folder.parent, tmp_path / "out")


@pytest.mark.parametrize("name", ["forget_level1.json", "passage.json"])
@pytest.mark.parametrize("outside", ["secret.json", "none.json"])
def test_a_link_out_of_a_folder_of_targets(tmp_path: Path, target_folder: Path, name: str, outside: str) -> None:
    (tmp_path / "secret.json").write_text('[{"text": "secret"}]', "utf-8")
    (target_folder / name).unlink(missing_ok=True)
    (target_folder / name).symlink_to(tmp_path / outside)
    assert "link that leaves its folder" in refused(target_folder.parent, tmp_path / "out")


def test_a_target_that_is_a_link_out_of_the_data_set(tmp_path: Path, target_folder: Path) -> None:
    (tmp_path / "data2").mkdir()
    (tmp_path / "data2" / "1_Ada_Lovelace").symlink_to(target_folder, target_is_directory=True)
    assert "link that leaves its folder" in refused(tmp_path / "data2", tmp_path / "out")


def test_a_number_that_two_folders_have(tmp_path: Path, target_folder: Path) -> None:
    shutil.copytree(target_folder, target_folder.parent / "01_Bob")
    assert "two targets have the number 1" in refused(target_folder.parent, tmp_path / "out")


@pytest.mark.parametrize("name", ["forget_level1.json", "forget_level2.json"])
def test_a_folder_of_targets_without_a_file_that_is_needed(tmp_path: Path, target_folder: Path, name: str) -> None:
    (target_folder / name).unlink()
    assert f"no target has a {name}" in refused(target_folder.parent, tmp_path / "out")


def test_an_output_is_replaced_only_with_force_and_only_if_it_is_ours(tmp_path: Path, target_folder: Path) -> None:
    source, out = str(target_folder.parent), tmp_path / "out"
    prepare(source, out)
    before = contents(out)
    with pytest.raises(OutputError, match="exists already"):
        prepare(source, out)
    assert contents(out) == before
    (target_folder / "forget_tf.json").unlink()
    prepare(source, out, force=True)
    assert not (out / "1_Ada_Lovelace" / "forget_tf.json").exists()
    (out / "manifest.json").unlink()
    with pytest.raises(OutputError, match="did not write"):
        prepare(source, out, force=True)


@pytest.mark.parametrize("out", ["data", "data/out", ".", "data/1_Ada_Lovelace/out"])
def test_an_output_inside_its_source_or_around_it(
    tmp_path: Path, target_folder: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"the output and the source overlap .*choose another --out"):
        prepare(str(target_folder.parent), Path(out), force=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("is_copy", [True, False])
def test_a_killed_process_leaves_nothing(tmp_path: Path, target_folder: Path, is_copy: bool) -> None:
    source = write_copy(tmp_path / "copy", small_tables()) if is_copy else target_folder.parent
    script = """
import os, pathlib, signal, sys
from formless.data.prepare import prepare
prepare(sys.argv[1], pathlib.Path(sys.argv[2]), progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""
    out = tmp_path / "place" / "out"
    command = [sys.executable, "-c", script, str(source), str(out)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    complete: Prepared = prepare(str(source), out)  # what the dead process left does not get in the way
    assert set(rows_of(out)) == {f"{folder}/{name}" for folder, files in complete.files.items() for name in files}


def test_progress_names_every_step(tmp_path: Path, target_folder: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    told: Callable[[str, int, int], None] = lambda *step: steps.append(step)  # noqa: E731
    prepare(str(target_folder.parent), tmp_path / "out", progress=told)
    assert steps == [("1_Ada_Lovelace", 1, 1)]
    steps.clear()
    prepare(str(write_copy(tmp_path / "copy", small_tables())), tmp_path / "out2", progress=told)
    assert [name for name, _, _ in steps] == list(EVERY.values())
    assert [done for _, done, _ in steps] == list(range(1, 19))


def write_facts(source: Path | None, prepared: Prepared, selection: Selection) -> None:
    """A format of somebody else's: one `facts.csv` with subject, cloze, question and answer."""
    assert source is not None
    rows = [line.split(",") for line in (source / "facts.csv").read_text("utf-8").splitlines()]
    for number in selection.choose(range(1, len(rows) + 1), source):
        subject, cloze, question, answer = rows[number - 1]
        prepared.add_target(f"{number}_{subject}")
        for file, query in (("forget_level1", cloze), ("forget_level2", question)):
            content = json.dumps([{"query": query, "answer": answer}]).encode()
            prepared.add_file(f"{number}_{subject}", file, content, 1)


def test_a_format_is_a_row_and_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target_folder: Path) -> None:
    row = DataFormat("facts", "a folder with facts.csv", lambda folder: (folder / "facts.csv").is_file(), write_facts)
    point = EntryPoint("facts", "facts_package:FACTS", "formless.data_formats")
    monkeypatch.setattr(EntryPoint, "load", lambda _point: row)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    formats = Registry("data format", DATA_FORMATS.group, DataFormat, tuple(DATA_FORMATS.values()))
    monkeypatch.setattr("formless.data.formats.DATA_FORMATS", formats)
    monkeypatch.setattr("formless.data.prepare.DATA_FORMATS", formats)
    source = tmp_path / "facts"
    source.mkdir()
    lines = ["Ada,Ada was born in ___.,Where was Ada born?,London", "Bob,Bob met ___.,Whom did Bob meet?,Eve"]
    (source / "facts.csv").write_text("\n".join(lines), "utf-8")
    prepared = prepare(str(source), tmp_path / "out", numbers=[range(2, 3)])
    assert [target.subject for target in targets(tmp_path / "out")] == ["Bob"]
    assert targets(tmp_path / "out")[0].items("forget_level1")[0].answer == "Eve"
    assert prepared.files["2_Bob"]["forget_level2.json"]["rows"] == 1
    assert list(prepare(str(target_folder.parent), tmp_path / "again").files) == ["1_Ada_Lovelace"]
    assert "give one of: ORT folders of targets; RWKU on the hub" in refused(make(tmp_path / "empty"), tmp_path / "none")


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder
