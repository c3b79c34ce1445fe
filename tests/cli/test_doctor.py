"""`formless doctor --method`: an estimate, and no weights."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from transformers import AutoModelForCausalLM

from formless.cli.main import main

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
        "--model", "smollm2", "--method", "ga", "--set", "batch=2", "--set", "cutoff=100", "--device", "cpu"
    )
    assert code == 0
    assert lines["model"] == "bundled, llama"
    assert lines["method"] == "ga, batches of 2, texts of 100 tokens"
    assert lines["weights"] == "0.50 GB, float32"
    assert "null spaces" not in lines
    parts = sum(gigabytes(lines[name]) for name in ("weights", "learning", "gradients", "activations"))
    assert gigabytes(lines["together"]) == pytest.approx(parts, abs=0.02)
    assert "memory, evaluation and libraries apart" in lines["together"]


def test_null_spaces_lie_in_main_memory(doctor: Doctor) -> None:
    options = ("--method", "rocr", "--set", "layers=[4,5,6,7,8,9,10,11,12,13]", "--dtype", "float32")
    on_cpu, on_gpu = (doctor(*options, "--device", device)[1] for device in ("cpu", "cuda"))
    assert on_gpu["null spaces"] == "0.09 GB of main memory at most"
    assert on_gpu["together"].endswith("of the device's memory, evaluation and libraries apart")
    assert gigabytes(on_cpu["together"]) - gigabytes(on_gpu["together"]) == pytest.approx(0.09, abs=0.011)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--method gaa", "unknown method 'gaa': did you mean ga or wga?"),
        ("--method ga --set batch=0", "a setting of ga is wrong"),
        ("--method ga --model smol", "unknown model 'smol'"),
        ("--method ga --dtype float8", "unknown dtype 'float8'"),
        ("--method rocr --set layers=[40]", "no layer 40"),
        ("--set batch=1", "settings without a method [--set]: give --method too"),
    ],
)
def test_what_the_user_can_mend(doctor: Doctor, arguments: str, said: str) -> None:
    code, lines, errors = doctor(*arguments.split())
    assert (code, lines, len(errors.splitlines())) == (2, {}, 1)
    assert said in errors
