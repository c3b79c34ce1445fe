import os
from pathlib import Path

import pytest

from formless import store
from formless.models.sources import cached_files
from formless.models.sources.cached_files import damage, list_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"content of {name}")
    list_files(tmp_path).save(tmp_path)
    return tmp_path


def no_hash(path: Path) -> str:
    pytest.fail(f"{path.name} is hashed")


def test_a_file_is_hashed_once_for_each_state(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(folder / "b", ns=(0, 0))
    hashed: list[str] = []
    plain = store.file_sha256
    with monkeypatch.context() as patch:
        patch.setattr(store, "file_sha256", lambda path: hashed.append(path.name) or plain(path))
        assert damage(folder, "") is None
    assert hashed == ["b"]
    monkeypatch.setattr(store, "file_sha256", no_hash)
    assert damage(folder, "") is None


def test_a_change_of_the_same_size_is_found_by_its_hash(folder: Path) -> None:
    (folder / "b").write_text("CONTENT of b")
    os.utime(folder / "b", ns=(0, 0))  # whatever the clock's resolution
    assert damage(folder, "") == "the content of b has changed"
    assert damage(folder, "") == "the content of b has changed"


def test_a_folder_without_a_list_gets_one_if_its_files_are_known(folder: Path) -> None:
    known = list_files(folder)
    (folder / "files.json").unlink()
    assert damage(folder, "0" * 64) == "it has no list of its files, and they are not the known ones"
    assert not (folder / "files.json").exists()
    assert damage(folder, known.sha256) is None
    assert cached_files._read_list(folder) == known


def test_times_do_not_change_the_hash_of_all_files(folder: Path) -> None:
    before = list_files(folder).sha256
    os.utime(folder / "a", ns=(0, 0))
    assert list_files(folder).sha256 == before
    (folder / "a").rename(folder / "c")
    assert list_files(folder).sha256 != before


def test_a_file_instead_of_the_folder_is_damage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert damage(tmp_path / "file", "") == "it cannot be read (Not a directory)"
