import stat
import zipfile
from pathlib import Path

import pytest

import formless
from formless.errors import EditError
from formless.playground import archive
from formless.playground.archive import pack, unpack
from formless.playground.session import Session


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def zipped(edited: Session, tmp_path: Path) -> Path:
    return pack(next(iter(edited.held.values())).scaled, tmp_path, "ada")


def test_a_zip_holds_the_adapter(zipped: Path, edited: Session, place: Path, tmp_path: Path) -> None:
    files = {"ada/adapter_config.json", "ada/adapter_model.safetensors", "ada/edit.json"}
    with zipfile.ZipFile(zipped) as found:
        assert set(found.namelist()) == files
        found.extractall(tmp_path / "plain")
    edit = next(iter(edited.held.values())).edit
    assert unpack(zipped, place).info == formless.load_edit(tmp_path / "plain" / "ada").info == edit.info
    assert [path.name for path in tmp_path.glob("*.part")] == []


def write(path: Path, *files: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name, content in files:
            made.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../edit.json", "/etc/edit.json", "a/../../edit.json", "..\\edit.json", "C:/edit.json"])
def test_a_file_that_leaves_its_folder_is_refused(name: str, tmp_path: Path, place: Path) -> None:
    with pytest.raises(EditError, match="leaves its folder"):
        unpack(write(tmp_path / "bad.zip", (name, b"{}")), place)
    assert list(place.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"bad.zip", "in"}


def test_a_link_is_refused(tmp_path: Path, place: Path) -> None:
    link = zipfile.ZipInfo("a/edit.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(EditError, match="leaves its folder"):
        unpack(write(tmp_path / "bad.zip", (link, b"/etc/passwd")), place)


def test_what_is_no_edit_is_refused(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.zip"
    text.write_text("no zip")
    with pytest.raises(EditError, match=r"no zip that can be read \[text.zip\]"):
        unpack(text, place)
    with pytest.raises(EditError, match="lacks a file"):
        unpack(write(tmp_path / "empty.zip", ("readme.txt", b"hello")), place)
    assert list(place.iterdir()) == []  # nothing but an edit's own files is written
    with pytest.raises(EditError, match="several edits"):
        unpack(write(tmp_path / "two.zip", ("a/edit.json", b"{}"), ("b/edit.json", b"{}")), place)
    monkeypatch.setattr(archive, "MAX_BYTES", 2**20)
    with pytest.raises(EditError, match="over 1 MB"):
        unpack(write(tmp_path / "large.zip", ("a/edit.json", b"x" * (2**20 + 1))), place)


def test_a_damaged_zip_is_refused(zipped: Path, place: Path) -> None:
    content = bytearray(zipped.read_bytes())
    content[200:260] = bytes(60)
    zipped.write_bytes(content)
    with pytest.raises(EditError):
        unpack(zipped, place)
