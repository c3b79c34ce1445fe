"""`formless finetune`: a model folder that other commands load, and errors in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from formless.models.lm import LM

FINETUNE = ("finetune", "--model", "model", "--data", "data", "-t", "1", "--dtype", "float32", "--set", "num_train_epochs=2")


@pytest.fixture
def run(tiny: Callable[..., LM], formless: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    """The command in a folder with a tiny model and a set of two questions."""
    lm = tiny()
    lm.model.save_pretrained("model")
    lm.tokenizer.save_pretrained("model")
    folder = Path("data", "1_set")
    folder.mkdir(parents=True)
    (folder / "forget_qa.json").write_text(json.dumps([{"question": "Who is Ada?", "answer": "A poet."}]))
    return formless


def test_the_model_that_it_writes_is_whole(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run(*FINETUNE, "--on", "forget", "--out", "taught", "--set", "warmup_steps=0")
    assert code == 0, err
    assert "1 questions, 2 steps in" in out
    model = AutoModelForCausalLM.from_pretrained("taught")
    assert model.num_parameters() == AutoModelForCausalLM.from_pretrained("model").num_parameters()
    assert {path.name for path in Path().iterdir()} == {"model", "data", "taught"}  # no checkpoints are left
    code, out, _ = run("eval", "--model", "taught", "--data", "data", "-t", "1", "--suite", "mmlu", "--device", "cpu")
    assert (code, "absent" in out or "no retain_mmlu" in out) == (0, True)
    assert run(*FINETUNE, "--on", "forget", "--out", "taught")[2].startswith("error: the output exists already [taught]")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--on", "retain"], "neighbor_qa.json"),
        (["--on", "forgett"], "unknown part of a question set 'forgett' [--on]: did you mean forget?"),
        (["--on", "forget", "--set", "epochz=2"], "finetune has no such setting [epochz]"),
        (
            ["--on", "forget", "--set", "retain=ce"],
            "and has no retain loss [setting retain]",
        ),
        (["--on", "forget", "--set", "r=4"], "r has no effect here [setting r]"),
        (["--on", "forget", "--set", "learning_rate=2"], "a setting of finetune is wrong"),
    ],
)
def test_bad_input_is_one_line(run: Callable[..., tuple[int, str, str]], arguments: list[str], said: str) -> None:
    code, out, err = run(*FINETUNE, "--out", "taught", *arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert said in line
    assert not Path("taught").exists()
