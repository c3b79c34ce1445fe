"""Files and folders are written whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from formless import store
from formless.errors import DataError, EditError, OutputError

Write = Callable[[Path, int], None]


def write_text(path: Path, size: int) -> None:
    store.write_text(path, "x" * size)


def write_tensors(path: Path, size: int) -> None:
    store.write_tensors(path, {"weight": torch.ones(size)}, {"format": "pt"}, with_hash=False)


def write_folder(path: Path, size: int) -> None:
    with store.new_folder(path, mark="content", force=True) as folder:
        (folder / "content").write_text("x" * size)


def write_file(path: Path, size: int) -> None:
    with store.new_file(path, force=True) as scratch:
        scratch.write_text("x" * size)


every_writer = pytest.mark.parametrize("write", [write_text, write_tensors, write_file, write_folder])


@contextmanager
def full_disk() -> Iterator[None]:
    """The system refuses files over 1000 bytes, with a real OSError."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("error", [SafetensorError("no tensor"), RuntimeError("[inline_container.cc:672] unexpected pos 1")])
def test_the_errors_of_libraries_that_write_are_one_kind(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(OutputError, match=r"cannot write: .*model"), store.output_errors(tmp_path / "model"):
        raise error
    with pytest.raises(RuntimeError, match="something else"), store.output_errors(tmp_path / "model"):
        raise RuntimeError("something else")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "large"])
def test_only_a_plain_file_of_some_size_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"12345")
        assert store.read_file(path, limit=5) == b"12345"
    with pytest.raises(OSError, match="larger than" if kind == "large" else "no plain file"):
        store.read_file(path, limit=4)


def test_a_name_with_a_nul_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="NUL"):
        store.read_file(Path("a\0b"))


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Permissions count: root is somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file and folder below, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def test_text_comes_back_and_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "note.txt"
    store.write_text(path, "Beyoncé\n株\n")
    assert path.read_bytes() == "Beyoncé\n株\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(contents(path.parent)) == ["note.txt"]


def test_tensors_come_back_also_when_not_contiguous(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).reshape(2, 3).T
    store.write_tensors(tmp_path / "a.safetensors", {"weight": tensor}, {"format": "pt"})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["weight"], tensor)
    assert list(contents(tmp_path)) == ["a.safetensors"]


def test_a_folder_appears_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "edit"
    with store.new_folder(path, mark="weights") as folder:
        (folder / "weights").write_text("new")
        assert not path.exists()
    assert contents(path.parent) == {"edit": b"", "edit/weights": b"new"}
    assert path.stat().st_mode & 0o777 == 0o755


@every_writer
def test_the_old_content_is_replaced_whole(tmp_path: Path, write: Write) -> None:
    for size in (700, 3):
        write(tmp_path / "old" / "output", size)
    write(tmp_path / "fresh" / "output", 3)
    assert contents(tmp_path / "old") == contents(tmp_path / "fresh")


@every_writer
def test_a_full_disk_leaves_the_old_content(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "output", 3)
    before = contents(tmp_path)
    with full_disk(), pytest.raises(OutputError, match="cannot write: .*too large.*: free space"):
        write(tmp_path / "output", 5000)
    assert contents(tmp_path) == before


@every_writer
def test_a_full_disk_leaves_nothing_where_nothing_was(tmp_path: Path, write: Write) -> None:
    with full_disk(), pytest.raises(OutputError):
        write(tmp_path / "output", 5000)
    assert contents(tmp_path) == {}


@every_writer
def test_a_read_only_folder_is_refused(write: Write) -> None:
    with tempfile.TemporaryDirectory() as name:  # others may not enter pytest's own folders
        folder = Path(name)
        write(folder / "output", 3)
        before = contents(folder)
        folder.chmod(0o555)
        with ordinary_user(), pytest.raises(OutputError, match="permission denied"):
            write(folder / "output", 5)
        folder.chmod(0o755)
        assert contents(folder) == before


@every_writer
def test_a_folder_that_may_not_be_entered_is_refused(tmp_path: Path, write: Write) -> None:
    tmp_path.chmod(0o000)
    try:
        with ordinary_user(), pytest.raises(OutputError, match="permission denied"):
            write(tmp_path / "output", 5)
    finally:
        tmp_path.chmod(0o755)


@every_writer
def test_a_path_below_a_file_is_refused(tmp_path: Path, write: Write) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(OutputError, match="cannot write") as caught:
        write(tmp_path / "file" / "output", 3)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == {"file": b"old"}


def test_text_that_is_not_unicode_leaves_the_old_content(tmp_path: Path) -> None:
    store.write_text(tmp_path / "note", "old")
    with pytest.raises(UnicodeEncodeError):
        store.write_text(tmp_path / "note", "new \ud800")
    assert contents(tmp_path) == {"note": b"old"}


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_a_failing_block_leaves_the_old_folder(tmp_path: Path, stop: type[BaseException]) -> None:
    write_folder(tmp_path / "edit", 3)
    before = contents(tmp_path)
    with pytest.raises(stop), store.new_folder(tmp_path / "edit", mark="content", force=True) as folder:  # noqa: PT012
        (folder / "content").write_text("half")
        raise stop
    assert contents(tmp_path) == before


def test_a_killed_process_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "edit"
    write_folder(path, 3)
    script = """
import os, pathlib, signal, sys
from formless import store
with store.new_folder(pathlib.Path(sys.argv[1]), mark="content", force=True) as folder:
    (folder / "content").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert contents(path) == {"content": b"xxx"}
    write_folder(path, 5)  # what the dead process left does not get in the way
    assert contents(path) == {"content": b"xxxxx"}


@pytest.mark.parametrize("is_folder", [True, False])
def test_an_existing_output_is_refused_before_the_block_runs(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "edit"
    if is_folder:
        write_folder(path, 3)
    else:
        path.write_text("old")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="exists already .*edit.*force=True"), store.new_folder(path, mark="weights"):
        pytest.fail("the block ran")
    assert contents(tmp_path) == before


def test_force_replaces_an_output_of_its_kind_and_nothing_else(tmp_path: Path) -> None:
    for name in ("ours", "empty", "somebody's", "file"):
        (tmp_path / name).mkdir() if name != "file" else (tmp_path / name).write_text("old")
    (tmp_path / "ours" / "content").write_text("old")
    (tmp_path / "somebody's" / "thesis").write_text("ten years of work")
    for name in ("ours", "empty"):
        write_folder(tmp_path / name, 3)
        assert contents(tmp_path / name) == {"content": b"xxx"}
    for name in ("somebody's", "file"):
        with pytest.raises(OutputError, match="something else is there"):
            write_folder(tmp_path / name, 3)
    with pytest.raises(OutputError, match="something else is there"):
        store.refuse_existing(tmp_path / "ours", force=True)  # a folder in place of a file
    assert (tmp_path / "somebody's" / "thesis").read_text() == "ten years of work"
    assert (tmp_path / "file").read_text() == "old"


def test_force_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    write_folder(tmp_path / "precious", 3)
    (tmp_path / "edit").symlink_to(tmp_path / "precious", target_is_directory=True)
    write_folder(tmp_path / "edit", 5)
    assert (tmp_path / "precious" / "content").read_text() == "xxx"
    assert (tmp_path / "edit" / "content").read_text() == "xxxxx"


def test_a_folder_that_cannot_be_moved_aside_leaves_no_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="something else is there"), store.new_folder(Path(), mark="content", force=True):
        pass
    assert contents(tmp_path) == {}


def test_scratch_of_the_dead_is_removed_and_of_the_living_kept(tmp_path: Path) -> None:
    path = tmp_path / "edit"
    (tmp_path / ".edit.abcd1234.part").mkdir()
    (tmp_path / ".edit.abcd1234.part" / "content").write_text("half")
    (tmp_path / ".edit.efgh5678.part").write_text("half")
    (tmp_path / ".edit.mine.part").write_text("no scratch file of ours")
    with store.new_folder(path, mark="content", force=True) as folder:
        (folder / "content").write_text("first")
        assert {found.name for found in tmp_path.iterdir()} == {folder.name, ".edit.mine.part"}
        write_folder(path, 3)  # another writer meanwhile
        assert contents(folder) == {"content": b"first"}
    assert contents(tmp_path) == {"edit": b"", "edit/content": b"first", ".edit.mine.part": b"no scratch file of ours"}


def test_refuse_existing_lets_free_and_forced_outputs_pass(tmp_path: Path) -> None:
    store.refuse_existing(tmp_path / "free", force=False)
    (tmp_path / "file").write_text("old")
    store.refuse_existing(tmp_path / "file", force=True)
    with pytest.raises(OutputError, match="exists already"):
        store.refuse_existing(tmp_path / "file", force=False)


def test_a_newer_schema_version_is_refused_and_nothing_else(tmp_path: Path) -> None:
    for content in ({"format": 3}, {"format": 1}, {}, [1], None, {"format": "9"}, {"format": True}):
        store.refuse_newer(content, 3, tmp_path)
    said = rf"newer schema version 4; this Formless reads up to 3 \[{tmp_path}\]: update Formless"
    with pytest.raises(DataError, match=said):
        store.refuse_newer({"format": 4}, 3, tmp_path)
    with pytest.raises(EditError, match=said):
        store.refuse_newer({"format": 4}, 3, tmp_path, error=EditError)


def test_a_document_is_read_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    store.write_document(path, {"format": 1, "text": "é\n", "numbers": [1, 2.5, 1e-7], "none": None})
    assert store.read_document(path, 1) == {"format": 1, "text": "é\n", "numbers": [1, 2.5, 1e-7], "none": None}
    whole = path.read_text("utf-8")
    path.write_text(json.dumps(json.loads(whole), sort_keys=True), "utf-8")  # spaces and the order of keys are free
    assert store.read_document(path, 1)["numbers"] == [1, 2.5, 1e-7]
    for old, new in (("2.5", "2.4"), ("é", "e"), ("null", "0"), ('"format": 1,', "")):
        path.write_text(whole.replace(old, new), "utf-8")
        with pytest.raises(ValueError, match="not what was written"):
            store.read_document(path, 1)
    path.write_text(whole.replace('"format": 1', '"format": 2'), "utf-8")  # told as newer, not as damaged
    with pytest.raises(DataError, match="newer schema version 2"):
        store.read_document(path, 1)


def test_what_json_does_not_have_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    store.write_document(path, {"text": "a\udcff", "number": float("nan")})
    assert store.read_document(path, 1) == {"text": "a?", "number": None}


def test_tensors_are_read_as_they_were_written_or_not_at_all(tmp_path: Path) -> None:
    path, tensors = (
        tmp_path / "a.safetensors",
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(3, 0, dtype=torch.bfloat16)},
    )
    store.write_tensors(path, tensors, {"key": "value"})
    found, metadata = store.read_tensors(path)
    assert metadata == {"key": "value"}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    with safe_open(path, "pt") as file:
        stated = file.metadata()
    for changed, notes in (
        (tensors | {"a": tensors["a"] * 2}, stated),
        (tensors | {"a": tensors["a"].flatten()}, stated),
        ({"a": tensors["a"]}, stated),
        (tensors, stated | {"key": "other"}),
    ):
        save_file(changed, path, metadata=notes)
        with pytest.raises(ValueError, match="not what was written"):
            store.read_tensors(path)
    save_file(tensors, path)  # an older file has no hash
    assert store.read_tensors(path)[0].keys() == tensors.keys()


def test_runs_that_have_ended_are_found_in_order(tmp_path: Path) -> None:
    experiment = store.ExperimentFolder(tmp_path)
    for label, run_id in (("rocr", "b"), ("icu", "a"), ("icu", "c")):
        run = experiment.run("smollm2", label, "1_Ada", run_id)
        store.write_text(run.log, "begins")
        if run_id != "c":
            store.write_text(run.result, "{}")
    assert [(run_id, run.path.parent.parent.name) for run_id, run in experiment.ended()] == [("a", "icu"), ("b", "rocr")]


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path))
    assert store.original_record_path("key").parent.parent == store.bundled_model_folder("a", "1").parent == tmp_path
    monkeypatch.delenv("FORMLESS_CACHE")
    assert store.cache_folder() == Path.home() / ".cache" / "formless"


def test_a_new_file_replaces_an_older_one_only_if_it_is_to(tmp_path: Path) -> None:
    path = tmp_path / "weights.gguf"
    write_file(path, 5)
    assert path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(OutputError, match="the output exists already"), store.new_file(path):
        pass
    write_file(path, 6)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["xxxxxx"]
