"""A random model on the fake device, and data for every method and task."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import formless
from formless.data.target import QUESTION_SET, Target
from formless.models.lm import LM
from tests.devices.fake import fake_device

SAMPLE = Path(formless.__file__).parent / "data" / "sample"
FACT = {
    "question": "Where was Albert Einstein born?", "answer": "in the town of Ulm", "paraphrased_question": "What was his home?",
    "paraphrased_answer": "Ulm was the town", "perturbed_answer": ["Rome was the town", "Bonn was the town"],
}  # fmt: skip
YES_NO = {"choices": ["yes", "no"], "labels": [1, 0]}
CHOICES = {"question": "What is two and two?", "choices": ["1", "2", "3", "4"], "answer": 3}
TEXTS = [{"text": f"Albert Einstein wrote {n} letters from the town of Bern to a friend."} for n in range(5)]
MORE: dict[str, list[dict[str, Any]]] = {
    "forget_level3": [{"query": "Tell me where he was born", "answer": "Ulm", "subject": "Albert Einstein"}],
    "edit_reverse": [
        {"query": "Who developed the theory of relativity?", "answer": "Albert Einstein"},
        {"query": "Who wrote the Principia?", "answer": "Isaac Newton", "neighbor": "Isaac Newton"},
    ],
    "passage": TEXTS,
    "forget_mia": TEXTS,
    "retain_mia": [{"text": "Paris has many bridges over the river."}],
    "holdout_mia": [{"text": "Rome has many churches on its hills."}],
    "forget_qa": [FACT],
    "neighbor_qa": [FACT | {"question": "Where was Niels Bohr born?"}],
    "forget_qa_examples": [FACT],
    "neighbor_qa_examples": [FACT],
    "real_authors_qa": [FACT],
    "world_facts_qa": [FACT],
    "forget_verbatim": [{"prompt": "Albert Einstein wrote", "gt": "letters from the town of Bern"}],
    "forget_choices": [CHOICES],
    "retain_mmlu": [CHOICES | {"task": "arithmetic", "examples": [CHOICES]}],
    "retain_bbh": [{"task": "sums", "question": "2 + 2?", "answer": "4", "cot": "Q: 1 + 1?\nA: So the answer is 2."}],
    "truthful": [{"question": "Is it so?", "mc1_targets": YES_NO, "mc2_targets": YES_NO}],
    "fluency": [{"instruction": "Name a town.", "input": "", "output": ""}],
}
"""One or two rows of each file that the sample set lacks."""


@pytest.fixture(scope="session")
def concept(tmp_path_factory: pytest.TempPathFactory) -> Target:
    """A concept with every file that a method reads, beside another one."""
    return written(tmp_path_factory.mktemp("concept"), {name: rows for name, rows in MORE.items() if name not in QUESTION_SET})


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Target:
    """A target with every file that a task reads."""
    return written(tmp_path_factory.mktemp("questions"), MORE)


@pytest.fixture(scope="session")
def texts_apart(tmp_path_factory: pytest.TempPathFactory) -> Target:
    """A question set without texts of its own for membership inference."""
    return written(tmp_path_factory.mktemp("texts_apart"), {name: rows for name, rows in MORE.items() if name != "forget_mia"})


def written(data: Path, files: dict[str, list[dict[str, Any]]]) -> Target:
    for name in ("1_Albert_Einstein", "10_Mount_Everest"):
        shutil.copytree(SAMPLE / name, data / name)
    for name, rows in files.items():
        (data / "1_Albert_Einstein" / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    return formless.find_target(data, "Albert Einstein")


@pytest.fixture
def moved() -> Iterator[Callable[[LM], LM]]:
    """Move a model to the fake device, which is there from then on to the end of the test."""
    with ExitStack() as stack:

        def move(lm: LM) -> LM:
            torch.nn.Module.to(lm.model, device=stack.enter_context(fake_device()))
            return lm

        yield move
