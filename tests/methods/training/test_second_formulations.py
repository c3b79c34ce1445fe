"""The training specs against other code on the same batch: DPO against TRL, GA, RT and NPO against transformers' own loss."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from formless.data.rows import Instruction, Passage, Preference
from formless.methods.training.ascent import GA
from formless.methods.training.collator import Batch, ForwardPass, Objective, pad_texts
from formless.methods.training.preference import DPO, NPO
from formless.methods.training.preprocessing import (
    TokenizedText,
    preprocess_instruction,
    preprocess_preference,
    preprocess_text,
)
from formless.methods.training.refusal import RT
from formless.methods.training.spec import TrainingSpec
from formless.models.lm import LM

Tiny = Callable[..., LM]
PAIRS = [("Where was Ada born?", "In Rome, in 1900.", "In London."), ("Who?", "I do not know.", "She wrote the first program.")]


def loss_and_gradient(
    spec: TrainingSpec, lm: LM, other: LM, texts: list[TokenizedText], **settings: Any
) -> tuple[float, Tensor]:
    """A spec's loss on texts, with another model as its reference, and the gradient of one matrix."""
    config = spec.config(**settings)

    def loss(batch: Batch) -> Tensor:
        return spec.loss(batch, config)

    forward = ForwardPass(lm, Objective(loss, spec.loss_input, spec.needs_reference), pad_texts(lm, texts))
    with torch.no_grad():
        reference = forward.run(other.model) if spec.needs_reference else None
    found = forward.loss(forward.run(lm.model), reference)
    return found.item(), gradient(found, lm)


def gradient(loss: Tensor, lm: LM) -> Tensor:
    return torch.autograd.grad(loss, lm.architecture.down_projection(lm.model, 1).weight)[0]


def transformers_loss(model: Any, texts: list[TokenizedText], lm: LM) -> Tensor:
    loss: Tensor = model(**pad_texts(lm, texts)).loss
    return loss


@pytest.mark.parametrize(("spec", "sign"), [(GA, -1), (RT, 1)])
def test_ascent_and_descent_are_minus_and_plus_transformers_loss(tiny: Tiny, spec: TrainingSpec, sign: int) -> None:
    lm = tiny()
    if spec is GA:
        texts = [preprocess_text(lm, Passage(text=text), 512)[0] for text in ("Ada wrote.", "Ada was born in London.")]
    else:
        texts = [
            preprocess_instruction(lm, Instruction(instruction=prompt, output=refusal), 512)[0] for prompt, refusal, _ in PAIRS
        ]
    loss, ours = loss_and_gradient(spec, lm, lm, texts)
    theirs = sign * transformers_loss(lm.model, texts, lm)
    assert loss == pytest.approx(theirs.item(), abs=1e-5)
    assert torch.allclose(ours, gradient(theirs, lm), atol=1e-5)


def test_negative_preference_from_transformers_losses(tiny: Tiny) -> None:
    """One text at a time, whose loss times its tokens is its log-probability: (2 / beta) log(1 + (p / p_ref)^beta)."""
    lm, other = tiny(), tiny(seed=1)
    beta = 0.1
    texts = [preprocess_text(lm, Passage(text=text), 512)[0] for text in ("Ada wrote.", "Ada was born in London.")]
    loss, ours = loss_and_gradient(NPO, lm, other, texts, beta=beta)
    terms = []
    for text in texts:
        tokens = len(text.ids) - 1
        ratio = -tokens * (transformers_loss(lm.model, [text], lm) - transformers_loss(other.model, [text], lm).detach())
        terms.append(2 / beta * torch.log1p(torch.exp(beta * ratio)))
    theirs = torch.stack(terms).mean()
    assert abs(loss - 2 / beta * math.log(2)) > 1e-2  # the two models differ
    assert loss == pytest.approx(theirs.item(), abs=1e-5)
    assert torch.allclose(ours, gradient(theirs, lm), atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_direct_preference_is_that_of_trl(tiny: Tiny, letters: PreTrainedTokenizerFast, tmp_path: Path, beta: float) -> None:
    lm, other = tiny(), tiny(seed=1)
    rows = [{"prompt": lm.chat_prompt(prompt), "chosen": good, "rejected": bad} for prompt, good, bad in PAIRS]
    arguments = DPOConfig(
        output_dir=str(tmp_path), beta=beta, per_device_train_batch_size=2, max_length=None, use_cpu=True, report_to="none",
        bf16=False, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = DPOTrainer(lm.model, other.model, arguments, train_dataset=Dataset.from_list(rows), processing_class=letters)
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    theirs = trainer.compute_loss(trainer.model, batch)

    pairs = [preprocess_preference(lm, Preference(prompt=prompt, response=(good, bad)), 512) for prompt, good, bad in PAIRS]
    texts = [chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]
    loss, ours = loss_and_gradient(DPO, lm, other, texts, beta=beta)
    whole = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    assert {tuple(text.ids) for text in texts} == {tuple(row[mask.bool()].tolist()) for row, mask in whole}
    assert abs(loss - math.log(2)) > 1e-3  # the two models differ
    assert loss == pytest.approx(theirs.item(), abs=1e-5)
    assert torch.allclose(ours, gradient(theirs, lm), atol=1e-5)
