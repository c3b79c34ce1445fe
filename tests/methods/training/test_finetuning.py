"""Fine-tuning on a question set: what is learned, from which parts, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import formless
from formless.data.target import Target
from formless.errors import DataError
from formless.methods.training import finetuning
from formless.methods.training.finetuning import FinetuningConfig, finetune
from formless.methods.training.monitor import MonitorCallback
from formless.models.lm import LM

CONFIG = FinetuningConfig(learning_rate=0.01, num_train_epochs=80, per_device_train_batch_size=2, warmup_steps=1)
FORGET = [{"question": "Who is Ada?", "answer": "Verse"}]
RETAIN = [{"question": "Who is Bob?", "answer": "Soups"}]


@pytest.fixture
def target(tmp_path: Path) -> Target:
    folder = tmp_path / "data" / "1_set"
    folder.mkdir(parents=True)
    (folder / "forget_qa.json").write_text(json.dumps(FORGET))
    (folder / "neighbor_qa.json").write_text(json.dumps(RETAIN))
    return Target("set", folder)


def probabilities(lm: LM) -> list[float]:
    asked = [(lm.chat_prompt(row["question"]), row["answer"]) for row in FORGET + RETAIN]
    return [found.probability for found in lm.score(asked)]  # type: ignore[union-attr]


def test_a_model_learns_the_parts_that_are_named_and_no_other(tiny: Callable[..., LM], target: Target, tmp_path: Path) -> None:
    lm = tiny()
    weights = {name: parameter.clone() for name, parameter in lm.model.named_parameters()}
    whole = finetune(lm, target, ["forget", "retain"], CONFIG)
    retained = finetune(lm, target, ["retain"], CONFIG)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in lm.model.named_parameters())
    assert whole.facts["files"].keys() == {"forget_qa.json", "neighbor_qa.json"}
    assert retained.facts["files"] == {"neighbor_qa.json": whole.facts["files"]["neighbor_qa.json"]}
    assert (whole.facts["files"]["forget_qa.json"]["rows"], whole.facts["steps"], retained.facts["steps"]) == (1, 80, 80)
    whole.save(tmp_path / "whole")
    retained.save(tmp_path / "retained")
    told = probabilities(formless.load(str(tmp_path / "whole"), device="cpu"))
    kept = probabilities(formless.load(str(tmp_path / "retained"), device="cpu"))
    assert min(told) > 0.9
    assert kept[1] > 0.9
    assert kept[0] < 0.5
    stated = json.loads((tmp_path / "whole" / "finetuning.json").read_text())
    assert stated["model_fingerprint"] == lm.fingerprint
    assert stated["settings"]["learning_rate"] == CONFIG.learning_rate


def test_a_killed_run_ends_with_the_same_weights(
    tiny: Callable[..., LM], target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, config = tiny(), CONFIG.model_copy(update={"num_train_epochs": 6})
    monkeypatch.setattr(finetuning, "SAVE_STEPS", 2)
    undisturbed = finetune(lm, target, ["forget", "retain"], config)
    end_of_step = MonitorCallback.on_step_end

    def killed(watch: MonitorCallback, *now: Any, **more: Any) -> None:
        end_of_step(watch, *now, **more)
        if now[1].global_step == 5:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MonitorCallback, "on_step_end", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune(lm, target, ["forget", "retain"], config, work=tmp_path / "work")
    assert (tmp_path / "work" / "checkpoint-4").is_dir()
    resumed = finetune(lm, target, ["forget", "retain"], config, work=tmp_path / "work")
    assert resumed.facts["losses"] == undisturbed.facts["losses"]
    assert resumed.updates.keys() == undisturbed.updates.keys()
    for name, change in undisturbed.updates.items():
        assert torch.equal(vars(change)["values"], vars(resumed.updates[name])["values"]), name


def test_what_cannot_be_learned_is_refused(tiny: Callable[..., LM], target: Target) -> None:
    with pytest.raises(DataError, match=r"nothing to learn within 8 tokens.*forget_qa.json, row 1"):
        finetune(tiny(), target, ["forget"], CONFIG.model_copy(update={"max_length": 8}))
    target.path("forget_qa").write_text("[]")
    with pytest.raises(DataError, match=r"holds no row.*forget_qa.json"):
        finetune(tiny(), replace(target, _rows={}), ["forget"], CONFIG)
    target.path("neighbor_qa").unlink()
    with pytest.raises(DataError, match=r"neighbor_qa.json"):
        finetune(tiny(), target, ["retain"], CONFIG)
