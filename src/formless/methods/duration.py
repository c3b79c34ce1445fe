"""Estimates of the time that a method takes: tokens that pass through layers, times a product that is timed on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from formless.methods.base import MethodConfig
from formless.methods.direction.budget import CONTINUED
from formless.methods.direction.config import DirectionConfig
from formless.methods.direction.kept import MOST_OPENINGS
from formless.methods.memory import NAMED, PROMPTS
from formless.methods.rocr.config import RocrConfig
from formless.methods.training.config import TrainingConfig
from formless.models.families import is_transposed, projection_shape
from formless.models.meta import MetaModel

TOKENS, ROUNDS = 128, 6
"""Tokens of the timed products, and how often they are computed."""

CANDIDATES = 40
"""About as many redirects as `auto` compares."""

FEWEST = 64
"""A pass of fewer tokens takes about as long as one of that many."""

RERUNS = 26
"""Layers that the removal of a direction repeats for each prompt, beside the first passes."""

BACKWARD = 3
"""A training step takes about three forward passes."""


@dataclass(frozen=True)
class Speed:
    """How fast a machine computes a model's projections.

    Args:
        seconds: Of one token in one layer, the fastest of a few rounds.
        dtype: The dtype of weights and inputs.
    """

    seconds: float
    dtype: torch.dtype


def measure_speed(meta: MetaModel, dtype: torch.dtype, device: torch.device) -> Speed:
    """Time the matrix products of one decoder layer, with made-up weights.

    Args:
        meta: The model.
        dtype: The dtype to time.
        device: Where the model is to be.
    """
    layer = meta.architecture.layer(meta.model, 0)
    shapes = [projection_shape(module) for module in layer.modules() if isinstance(module, nn.Linear) or is_transposed(module)]
    pairs = [
        (torch.ones(TOKENS, columns, dtype=dtype, device=device), torch.ones(rows, columns, dtype=dtype, device=device))
        for rows, columns in shapes
    ]
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for states, weight in pairs:
            nn.functional.linear(states, weight)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return Speed(min(taken) / TOKENS, dtype)  # what else runs on the machine only adds time


def estimate_tokens(meta: MetaModel, config: MethodConfig, prompt_tokens: int) -> int | None:
    """Estimate how many tokens pass through how many layers while an edit of one target is computed.

    Args:
        meta: The model.
        config: The method's settings.
        prompt_tokens: Tokens of a name in the chat template.

    Returns:
        Their product, for a training method of one step; None for a method of another package.
    """
    depth = meta.architecture.depth(meta.model)
    choosing = CANDIDATES * max(prompt_tokens, FEWEST)
    if isinstance(config, DirectionConfig):
        early, last = config.redirecting_layers(depth), config.layers_of(depth)[-1] + 1
        redirecting = (early[-1] + 1) if early else 0
        reading = PROMPTS * prompt_tokens * (redirecting + last + RERUNS) + NAMED * prompt_tokens * last
        scoring = 3 * MOST_OPENINGS * 2 * CONTINUED * depth
        return reading + scoring + (choosing * redirecting if config.redirect == "auto" else 0)
    if isinstance(config, RocrConfig):
        last = config.layers[-1] + 1
        passes = 1 + len(config.layers) + (config.steps * BACKWARD * depth // last if config.mode == "reject" else 0)
        return max(6 * prompt_tokens, FEWEST) * last * passes + choosing * last
    if isinstance(config, TrainingConfig):
        rows = config.per_device_train_batch_size * config.gradient_accumulation_steps * (1 + (config.retain != "none"))
        return rows * config.max_length * depth * BACKWARD
    return 0 if type(config) is MethodConfig else None
