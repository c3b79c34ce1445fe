"""`formless doctor --method`: an estimate, and no weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from formless.cli.main import main
from formless.models.lm import LM

Doctor = Callable[..., tuple[int, dict[str, str], str]]
pytestmark = pytest.mark.slow  # the bundled model's configuration comes with its weights


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Exit code, lines by their label, errors; loading weights is a failure."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)

    def run(*arguments: str) -> tuple[int, dict[str, str], str]:
        monkeypatch.setattr(sys, "argv", ["formless", "doctor", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        lines = {line[:14].strip(): line[15:] for line in captured.out.splitlines()}
        return int(stop.value.code or 0), lines, captured.err

    return run


def gigabytes(text: str) -> float:
    number, unit = text.split()[:2]
    assert unit.startswith("GB")
    return float(number)


def test_a_training(doctor: Doctor) -> None:
    code, lines, _ = doctor(
        "--model",
        "smollm2",
        "--method",
        "ga",
        "--set",
        "per_device_train_batch_size=2",
        "--set",
        "max_length=100",
        "--device",
        "cpu",
    )
    assert code == 0
    assert lines["model"] == "bundled, llama"
    assert lines["method"] == "ga, batches of 2, texts of 100 tokens"
    assert lines["weights"] == "0.50 GB, float32"
    assert "null spaces" not in lines
    parts = sum(gigabytes(lines[name]) for name in ("weights", "trainable", "gradients", "activations"))
    assert gigabytes(lines["total"]) == pytest.approx(parts, abs=0.02)
    assert "memory, without evaluation and libraries" in lines["total"]


def test_old_names_of_settings_are_accepted(doctor: Doctor) -> None:
    options = ("--method", "ga", "--device", "cpu", "--set", "batch=2", "--set", "cutoff=100")
    with pytest.warns(FutureWarning) as caught:
        code, lines, _ = doctor(*options)
    said = [str(warning.message) for warning in caught if issubclass(warning.category, FutureWarning)]
    assert [line for line in said if line.startswith("the setting")] == [
        "the setting batch is now called per_device_train_batch_size",
        "the setting cutoff is now called max_length",
    ]
    assert (code, lines["method"]) == (0, "ga, batches of 2, texts of 100 tokens")
    code, _, errors = doctor(*options[:-1], "per_device_train_batch_size=3")
    assert (code, "per_device_train_batch_size is given twice, once by its old name batch" in errors) == (2, True)


def test_null_spaces_lie_in_main_memory(doctor: Doctor) -> None:
    options = ("--method", "rocr", "--set", "layers=[4,5,6,7,8,9,10,11,12,13]", "--dtype", "float32")
    on_cpu, on_gpu = (doctor(*options, "--device", device)[1] for device in ("cpu", "cuda"))
    assert on_gpu["null spaces"] == "0.09 GB of main memory at most"
    assert on_gpu["total"].endswith("of the device's memory, without evaluation and libraries")
    assert gigabytes(on_cpu["total"]) - gigabytes(on_gpu["total"]) == pytest.approx(0.09, abs=0.011)


def test_a_model_without_null_spaces_can_be_edited(
    tiny: Callable[..., LM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = tiny()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(sys, "argv", ["formless", "doctor", "--model", str(tmp_path / "model"), "--device", "cpu"])
    with pytest.raises(SystemExit) as stop:
        main()
    lines = {line[:14].strip(): line[15:] for line in capsys.readouterr().out.splitlines()}
    assert not stop.value.code
    assert lines["cdr"] == "layers [0, 1, 2, 3]"
    assert lines["rocr"].startswith("layers [4, 5, 6], null spaces missing: no null space is shipped for ")
    assert "make one with `formless stats`" in lines["rocr"]
    recipe = {"name": "mine", "source": str(tmp_path / "model"), "methods": {"rocr": {"layers": [1], "basis": "sampled"}}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    monkeypatch.setattr(sys, "argv", ["formless", "doctor", "--model", str(tmp_path / "recipe.yaml"), "--device", "cpu"])
    with pytest.raises(SystemExit):
        main()
    assert "layers [1], null spaces of sampled texts, made at the first edit\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--method gaa", "unknown method 'gaa': did you mean ga or wga?"),
        ("--method ga --set per_device_train_batch_size=0", "a setting of ga is wrong"),
        ("--method ga --model smol", "unknown model 'smol'"),
        ("--method ga --dtype float8", "unknown dtype 'float8'"),
        ("--method rocr --set layers=[40]", "no layer 40"),
        ("--set per_device_train_batch_size=1", "settings without a method [--set]: give --method too"),
    ],
)
def test_what_the_user_can_mend(doctor: Doctor, arguments: str, said: str) -> None:
    code, lines, errors = doctor(*arguments.split())
    assert (code, lines, len(errors.splitlines())) == (2, {}, 1)
    assert said in errors
