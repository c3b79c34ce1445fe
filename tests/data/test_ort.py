"""Folders of targets, found by name."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from formless.data.ort import data_folder, find_target, subject_of, targets
from formless.data.rows import Row
from formless.data.target import FILES, Target
from formless.errors import DataError, UnknownNameError

FOLDERS = {
    "10_Prince_Harry,_Duke_of_Sussex": "Prince Harry, Duke of Sussex",
    "24_Beyoncé": "Beyoncé",
    "21_50_Cent": "50 Cent",
    "87_Robert_Downey_Jr.": "Robert Downey Jr.",
    "54_Jay-Z": "Jay-Z",
    "1_Stephen_King": "Stephen King",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    return folder


@pytest.mark.parametrize(("folder", "subject"), FOLDERS.items())
def test_the_subject_is_the_folder_name_without_number_and_underscores(folder: str, subject: str) -> None:
    assert subject_of(folder) == subject


def test_targets_come_by_number(data: Path) -> None:
    assert [target.subject for target in targets(data)] == [
        "Stephen King", "Prince Harry, Duke of Sussex", "50 Cent", "Beyoncé", "Jay-Z", "Robert Downey Jr.",
    ]  # fmt: skip


def test_files_and_folders_without_a_number_are_no_targets(data: Path) -> None:
    (data / "README.md").write_text("about")
    (data / "99_notes.txt").write_text("about")
    (data / ".cache").mkdir()
    (data / "Ada_Lovelace").mkdir()
    assert len(targets(data)) == len(FOLDERS)


@pytest.mark.parametrize(("folder", "subject"), FOLDERS.items())
def test_a_target_is_found_by_folder_name_subject_and_number(data: Path, folder: str, subject: str) -> None:
    for name in (folder, subject, folder.split("_")[0]):
        assert find_target(data, name) == Target(subject, data / folder)


def test_a_name_is_found_however_its_accents_are_encoded(data: Path) -> None:
    assert find_target(data, unicodedata.normalize("NFD", "Beyoncé")).folder == data / "24_Beyoncé"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("Beyonce", "24_Beyoncé"),
        ("Steven King", "1_Stephen_King"),
        ("Robert Downey", "87_Robert_Downey_Jr."),
        ("jay-z", "54_Jay-Z"),
    ],
)
def test_an_unknown_target_suggests_the_nearest(data: Path, name: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown target '{name}' .*did you mean .*{nearest}"):
        find_target(data, name)


NO_TARGETS = ["../data/1_Stephen_King", "./1_Stephen_King", "1_Stephen_King/", "..", ".", "", "/", "*", "0", "2", "King"]


@pytest.mark.parametrize("name", NO_TARGETS)
def test_paths_patterns_and_parts_of_names_are_no_targets(data: Path, name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown target"):
        find_target(data, name)


def test_an_absolute_path_is_no_target(data: Path) -> None:
    with pytest.raises(UnknownNameError):
        find_target(data, str(data / "1_Stephen_King"))


def test_two_folders_with_one_number_are_refused(data: Path) -> None:
    (data / "024_Bob").mkdir()
    with pytest.raises(DataError, match=r"two targets have the number 24 .*rename 024_Bob or 24_Beyonc"):
        find_target(data, "1")


@pytest.mark.parametrize("name", [b"7_Ada\xe2\x80\x8b", b"7_Ada\n", b"7_Ada\xff"])
def test_a_folder_with_a_hidden_character_is_refused(data: Path, name: bytes) -> None:
    (Path(str(data)) / os.fsdecode(name)).mkdir()
    with pytest.raises(DataError, match=r"invisible or control character U\+.*7_Ada.*rename the folder"):
        targets(data)


def test_an_empty_data_folder_knows_no_target(tmp_path: Path) -> None:
    assert targets(tmp_path) == []
    with pytest.raises(UnknownNameError, match="known: none"):
        find_target(tmp_path, "Stephen King")


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_missing_data_folder_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("no folder")
    for read in (data_folder, targets):
        with pytest.raises(DataError, match=rf"no such data folder \[{tmp_path / name}\]: .*'sample'"):
            read(tmp_path / name)


def test_the_sample_has_targets_and_a_folder_of_that_name_is_not_mistaken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sample" / "1_Local").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert [target.subject for target in targets(Path("sample"))] == ["Local"]
    sample = targets("sample")
    assert sample
    assert "Local" not in [target.subject for target in sample]
    for target in sample:
        assert target.items("forget_level1")
        assert target.items("neighbor_level1")


def test_every_file_of_real_rwku_targets_is_read(rwku: Path) -> None:
    found = targets(rwku)
    assert len(found) == len(list(rwku.iterdir())) > 10
    for target in found:
        assert target.folder is not None
        files = sorted(path.stem for path in target.folder.glob("*.json"))
        assert len(files) >= 15
        for file in files:
            assert len(target.rows(file, Row)) > 0, (target.subject, file)


def test_real_rwku_targets_say_which_files_they_lack(rwku: Path) -> None:
    for target in targets(rwku):
        absent = [file for file in FILES if not target.has(file)]
        assert "forget_tf" in absent  # ORT adds it to RWKU
        for file in absent:
            with pytest.raises(DataError, match=rf"lacks a file \[.*{file}\.json\]"):
                target.rows(file, Row)
