"""`formless doctor`: what is said about a model, a method and a saved edit, without weights."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from peft import LoraConfig, get_peft_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

import formless
from formless.cli.main import main
from formless.models.lm import LM

Doctor = Callable[..., tuple[int, dict[str, str], str]]
GA = ("--method", "ga", "--set", "learning_rate=1e-3", "--device", "cpu")


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Exit code, lines by their label with their remedies, errors; loading weights is a failure."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)

    def run(*arguments: str) -> tuple[int, dict[str, str], str]:
        monkeypatch.setattr(sys, "argv", ["formless", "doctor", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        lines: dict[str, str] = {}
        for line in captured.out.splitlines():
            label = line[:14].strip() or [*lines][-1]
            lines[label] = f"{lines.get(label, '')} {line[15:]}".strip()
        return int(stop.value.code or 0), lines, captured.err

    return run


@pytest.fixture
def made(tiny: Callable[..., LM], tmp_path: Path) -> tuple[LM, Path]:
    """A small random model and its folder."""
    lm, folder = tiny(), tmp_path / "model"
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return lm, folder


def test_a_model_and_the_default_method(doctor: Doctor, made: tuple[LM, Path]) -> None:
    lm, folder = made
    code, lines, _ = doctor("--model", str(folder), "--device", "cpu")
    depth = lm.architecture.depth(lm.model)
    assert code == 0
    assert lines["family"] == "llama, model type llama"
    assert re.match(rf"{depth}, mlp.down_proj \[32, \d+\], vocabulary ", lines["layers"])
    assert lines["chat template"] == "yes, with a system role"
    assert re.match(r"float32, stored as float32; bfloat16 takes \d+\.\d times as long here, ", lines["dtype"])
    assert re.match(r"about \d+ MB of \d+\.\d GB free, counted from shapes: weights ", lines["memory"])
    assert re.search(r"for one target, from products of one layer timed here, .* within a factor of two$", lines["time"])
    assert lines["cdr"] == "layers [0, 1, 2, 3]"


def test_missing_null_spaces_are_a_problem_of_rocr_alone(doctor: Doctor, made: tuple[LM, Path]) -> None:
    folder = str(made[1])
    command = f"formless stats --model {folder} --layers 1 --threshold 0.02 --corpus sampled --basis-dtype float16 --out stats/"
    code, lines, _ = doctor("--model", folder, "--method", "rocr", "--set", "layers=[1]")
    assert code == 1
    assert lines["rocr"].startswith("problem: layers [1], null spaces missing: no null space is shipped for ")
    assert f"-> {command}" in lines["rocr"]
    assert re.search(r"then --set basis=stats/\S+ \(about .*, at most \d+ MB\)$", lines["rocr"])
    assert doctor("--model", folder)[0] == 0
    code, lines, _ = doctor("--model", folder, "--method", "rocr", "--set", "layers=[1]", "--set", "basis=sampled")
    assert code == 0
    assert "null spaces of sampled texts, made at the first edit (about " in lines["rocr"]
    code, lines, _ = doctor("--model", folder, "--method", "rocr", "--set", "layers=[1]", "--set", "basis=none")
    assert "no null spaces: nothing is preserved -> formless stats " in lines["rocr"]


def test_a_bos_token_written_twice(doctor: Doctor, made: tuple[LM, Path]) -> None:
    lm, folder = made
    tokenizer = copy.deepcopy(lm.tokenizer)  # others use it too
    assert doctor("--model", str(folder))[1]["BOS"] == "none is added"
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    tokenizer.save_pretrained(folder)
    assert doctor("--model", str(folder))[1]["BOS"] == "<s> by the tokenizer"
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    twice = doctor("--model", str(folder))[1]["BOS"]
    assert twice.startswith("<s> by the template and by the tokenizer; Formless writes it once -> elsewhere, tokenize ")


def test_a_model_that_does_not_fit(doctor: Doctor, made: tuple[LM, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    free = 10_000
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    code, lines, _ = doctor("--model", str(made[1]), "--device", "cpu", "--method", "original")
    assert code == 1
    assert lines["memory"].startswith("problem: about 0 MB of 0 MB free")
    assert "-> give --dtype bfloat16" in lines["memory"]  # it is stored as float32, and cast piece by piece
    code, lines, _ = doctor("--model", str(made[1]), "--device", "cpu", "--method", "original", "--dtype", "bfloat16")
    assert "-> choose a smaller model" in lines["memory"]
    code, lines, _ = doctor("--model", str(made[1]), "--device", "cpu", "--method", "cdr")
    assert "-> give --dtype bfloat16, which takes about" in lines["memory"]
    code, lines, _ = doctor("--model", str(made[1]), *GA)
    assert "-> lower per_device_train_batch_size or max_length" in lines["memory"]


def test_whether_an_edit_fits(doctor: Doctor, made: tuple[LM, Path], tiny: Callable[..., LM], tmp_path: Path) -> None:
    lm, folder = made
    edit = formless.unlearn(lm, "Albert Einstein", "rocr", layers=[1], basis="none", progress=False)
    edit.save(tmp_path / "edit")
    code, lines, _ = doctor("--model", str(folder), "--edit", str(tmp_path / "edit"))
    assert (code, lines["edit"]) == (0, "rocr, Albert Einstein: fingerprint, modules and shapes fit")

    lm.model.get_parameter("model.norm.weight").data[:] = 3
    lm.model.save_pretrained(folder)
    code, lines, _ = doctor("--model", str(folder), "--edit", str(tmp_path / "edit"))
    assert code == 1
    assert lines["edit"].startswith("problem: rocr, Albert Einstein: made for other weights (")

    other = tiny("gpt2")
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    code, lines, _ = doctor("--model", str(tmp_path / "other"), "--edit", str(tmp_path / "edit"))
    assert (code, "the edit is for another model: no such module" in lines["edit"]) == (1, True)
    code, lines, _ = doctor("--model", str(folder), "--edit", str(tmp_path / "nothing"))
    assert (code, "problem: " in lines["edit"]) == (1, True)


def test_whether_an_adapter_of_another_tool_fits(doctor: Doctor, made: tuple[LM, Path], tmp_path: Path) -> None:
    lm, folder = made
    wrapped = get_peft_model(lm.model, LoraConfig(r=2, target_modules=["q_proj"], base_model_name_or_path=str(folder)))
    wrapped.save_pretrained(tmp_path / "adapter")
    wrapped.unload()
    code, lines, _ = doctor("--model", str(folder), "--edit", str(tmp_path / "adapter"))
    assert code == 0
    assert lines["edit"].startswith("the adapter's modules and shapes fit; it names the base ")
    lm.model.config.hidden_size = 64
    lm.model.config.save_pretrained(folder)
    code, lines, _ = doctor("--model", str(folder), "--edit", str(tmp_path / "adapter"))
    assert (code, "the edit is for another model: shape " in lines["edit"]) == (1, True)


def test_json(made: tuple[LM, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["formless", "doctor", "--model", str(made[1]), *GA, "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert not stop.value.code
    assert {"model", "BOS", "device", "dtype", "memory", "time"} <= {each["name"] for each in found["findings"]}
    parts = found["memory"]
    assert parts["peak"] == parts["weights"] + parts["trainable"] + parts["gradients"] + parts["activations"]
    assert found["seconds"] > 0


def test_old_names_of_settings_are_accepted(doctor: Doctor, made: tuple[LM, Path]) -> None:
    options = ("--model", str(made[1]), *GA, "--set", "batch=2", "--set", "cutoff=100")
    with pytest.warns(FutureWarning) as caught:
        code, lines, _ = doctor(*options)
    said = [str(warning.message) for warning in caught if issubclass(warning.category, FutureWarning)]
    assert "the setting batch is now called per_device_train_batch_size" in said
    assert (code, lines["method"]) == (0, "ga, batches of 2, texts of 100 tokens")


@pytest.mark.slow
def test_the_built_in_model(doctor: Doctor) -> None:
    code, lines, _ = doctor("--model", "smollm2", "--method", "rocr", "--device", "cpu")
    assert code == 0
    assert lines["model"] == "bundled, 135 M parameters"
    assert lines["chat template"] == "yes, with a system role"
    assert lines["BOS"] == "<|im_start|> by the template"
    assert lines["rocr"] == "layers [4, 5, 6], null spaces ready"
    assert "weights 203 MB" in lines["memory"]  # the embeddings and seven layers of thirty
    assert "null spaces 27 MB" in lines["memory"]


@pytest.mark.slow
def test_an_answer_is_scored_with_weights(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["formless", "doctor", "--load"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert re.search(r"^scoring +P\(Paris \| The capital of France is\) = 0\.[3-9]", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--method gaa", "unknown method 'gaa': did you mean ga or wga?"),
        ("--method ga --set per_device_train_batch_size=0", "a setting of ga is wrong"),
        ("--dtype float8", "unknown dtype 'float8'"),
        ("--device nowhere", "unknown device 'nowhere'"),
        ("--method cdr --set layers=[40]", "no layer 40"),
        ("--set overshot=1", "cdr has no such setting"),
    ],
)
def test_what_the_user_can_mend(doctor: Doctor, made: tuple[LM, Path], arguments: str, said: str) -> None:
    code, lines, errors = doctor("--model", str(made[1]), *arguments.split())
    assert (code, lines, len(errors.splitlines())) == (2, {}, 1)
    assert said in errors
