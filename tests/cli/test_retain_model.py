"""`formless eval --retain-model`: a model, or a record of it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from formless.evaluation.loading import load_record
from formless.models.lm import LM

Formless = Callable[..., tuple[int, str, str]]
ROWS = [
    {"question": f"Where was author {n} born?", "answer": f"In {n}.", "perturbed_answer": [f"In {m}." for m in "abcde"]}
    for n in range(3)
]
EVAL = ("eval", "-t", "1", "--data", "sets", "--suite", "truth_ratio,forget_quality", "-m", "full")


@pytest.fixture
def place(formless: Formless, tiny: Callable[..., LM]) -> Path:
    """The working folder with two models of one architecture, one of another, and a question set."""
    work = Path.cwd()
    for name, more in {"full": {}, "retain": {"seed": 1}, "shallow": {"num_hidden_layers": 3}}.items():
        lm = tiny(**more)
        lm.model.save_pretrained(work / name)
        lm.tokenizer.save_pretrained(work / name)
    (work / "sets/1_Small").mkdir(parents=True)
    write(work, ROWS)
    return work


def write(work: Path, rows: list[dict[str, object]]) -> None:
    (work / "sets/1_Small/forget_qa.json").write_text(json.dumps(rows), "utf-8")


def test_a_model_and_its_record_give_the_same(formless: Formless, place: Path) -> None:
    code, out, _ = formless(*EVAL, "--retain-model", "retain", "--out", "one.json")
    assert (code, "Forget quality, p-value" in out) == (0, True)
    assert formless(*EVAL[:-1], "retain", "--out", "retain.json")[0] == 0
    code, out, _ = formless(*EVAL, "--retain-model", "retain.json", "--out", "two.json", "--json")
    assert code == 0
    one, two = (load_record(name).task("forget_quality") for name in ("one.json", "two.json"))
    assert one is not None
    assert one.metrics
    assert one == two
    shown = {row["metric"]: row["original"]["value"] for row in json.loads(out)["metrics"] if row["task"] == "forget_quality"}
    assert shown == {found.metric: found.value for found in one.metrics}


def test_without_it_the_metric_is_absent(formless: Formless, place: Path) -> None:
    code, out, _ = formless(*EVAL, "--json")
    found = json.loads(out)
    assert (code, [row["task"] for row in found["metrics"]]) == (0, ["truth_ratio"] * 3)
    reasons = {tuple(absent["tasks"]): absent["reason"] for absent in found["not_measured"]}
    assert "--retain-model" in reasons["forget_quality",]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("--retain-model", "shallow"),
            "the retain model is of another architecture: its number of layers is 3, not 4 [shallow]",
        ),
        (("--retain-model", "nothing"), "unknown model 'nothing' [--retain-model]"),
        (("--retain-model", "none.json"), "the record cannot be read [none.json"),
        (("--retain-model", "retain", "--suite", "answer"), "no task of answer compares with a retain model [--retain-model]"),
    ],
)
def test_bad_retain_models(formless: Formless, place: Path, given: tuple[str, ...], said: str) -> None:
    code, out, err = formless(*EVAL, *given)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {said}")
    assert err.count("\n") == 1


def test_records_of_other_questions_and_families(formless: Formless, place: Path) -> None:
    assert formless(*EVAL[:-1], "retain", "--limit", "2", "--out", "other.json")[0] == 0
    code, _, err = formless(*EVAL, "--retain-model", "other.json")
    assert code == 2
    assert "error: the retain model was asked other questions: 1_Small, truth_ratio,forget_quality [--retain-model]" in err
    load_record("other.json").model_copy(update={"model_type": "gpt2"}).save("gpt2.json")
    code, _, err = formless(*EVAL, "--retain-model", "gpt2.json")
    assert code == 2
    assert "another architecture: its family is gpt2, not llama [gpt2.json]" in err


def test_unequal_numbers_of_perturbed_answers(formless: Formless, place: Path) -> None:
    write(place, [ROWS[0], ROWS[1] | {"perturbed_answer": ["In a."]}])
    code, _, err = formless(*EVAL)
    assert code == 2
    assert err.startswith("error: row 2 has 1 perturbed answers, row 1 has 5 [")
