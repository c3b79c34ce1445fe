"""LoRA training the published way, written plainly: rows padded to max_length, all logits, a reference pass per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import get_cosine_schedule_with_warmup

from formless.methods.training.config import TrainingConfig
from formless.methods.training.lora import adapted, lora_config
from formless.methods.training.losses import IGNORED
from formless.methods.training.preprocessing import TokenizedText
from formless.models.lm import LM
from formless.models.overlay import Factors

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Of log-probabilities and labels `[rows, max_length - 1]`, and the reference's log-probabilities."""


def plain_training(
    lm: LM, texts: Sequence[TokenizedText], loss: Loss, config: TrainingConfig, *, needs_reference: bool
) -> tuple[dict[str, Factors], list[float]]:
    """One batch of all texts per step; returns the learned updates and the losses."""
    ids, mask, labels = (torch.full((len(texts), config.max_length), fill) for fill in (0, 0, IGNORED))
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        mask[row, : len(text.ids)] = 1
        labels[row, : len(text.ids)] = torch.tensor(text.labels)

    def log_probabilities() -> Tensor:
        logits = lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        expected = labels[:, 1:]
        found = functional.cross_entropy(logits.flatten(0, 1), expected.flatten(), ignore_index=IGNORED, reduction="none")
        return -found.view(expected.shape)

    losses = []
    adapter = lora_config(lm, target_modules=config.target_modules, r=config.r, lora_alpha=config.lora_alpha)
    adapter.base_model_name_or_path = None  # PEFT would warn that it puts the model's folder there
    with adapted(lm, adapter, config.seed) as weights:
        learning = [parameter for parameter in weights.module.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = get_cosine_schedule_with_warmup(optimizer, config.warmup_steps, config.num_train_epochs)
        for _ in range(config.num_train_epochs):
            before = None
            if needs_reference:
                with torch.no_grad(), weights.reference():
                    before = log_probabilities()
            found = loss(log_probabilities(), labels[:, 1:], before)
            found.backward()
            torch.nn.utils.clip_grad_norm_(learning, config.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(found.detach()))
        return weights.updates(), losses
