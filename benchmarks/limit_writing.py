"""The limit of written answers: a step reads the weights and the open texts' keys and values, or multiplies with few rows.

The longer of the two is the step's limit. All texts are open from the first step on, each until it ends, so no order of the
texts needs fewer steps. Prompts are counted as in `benchmarks.limit`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import cast

import torch
from torch import nn

from benchmarks.limit import Limit, find_limit, needed, projections, rate
from benchmarks.timing import Clock, seconds
from formless.models.lm import LM

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MEASURED_LAYERS, ROUNDS = 4, 3


@dataclass(frozen=True)
class Written:
    """A text that a model wrote.

    Args:
        prompt: The prompt's token ids.
        tokens: How many tokens followed.
    """

    prompt: tuple[int, ...]
    tokens: int


@dataclass(frozen=True)
class WritingLimit:
    """How fast a machine reads a model, and multiplies few rows with it.

    Args:
        prompts: The limit of prompts.
        body: Operations a second of the layers' projections by the rows of a step.
        head: The same of the output matrix.
        weights: Bytes of all projections and the output matrix.
        per_cached: Bytes of one token's keys and values in all layers.
        bandwidth: Bytes of weights that are read in a second, all of them one after the other.
    """

    prompts: Limit
    body: Mapping[int, float]
    head: Mapping[int, float]
    weights: int
    per_cached: int
    bandwidth: float

    def seconds(self, texts: Sequence[Written]) -> float:
        """Return the shortest time in which the texts can be written."""
        steps = (
            [len(text.prompt) + step for text in texts if text.tokens > step] for step in count(1)
        )  # the prompts give the first token
        prompts = needed((text.prompt, len(text.prompt) - 1) for text in texts)
        return self.prompts.seconds(prompts) + sum(self.step(cached) for cached in takewhile(bool, steps))

    def step(self, cached: Sequence[int]) -> float:
        """Return the shortest time of a step.

        Args:
            cached: The tokens that each open text attends to.
        """
        rows = len(cached)
        measured = next((size for size in self.body if size >= rows), max(self.body))  # more rows are multiplied faster
        body = rows * self.prompts.per_token + sum(cached) * self.prompts.per_attended
        multiplied = body / self.body[measured] + rows * self.prompts.per_scored / self.head[measured]
        return max(multiplied, (self.weights + sum(cached) * self.per_cached) / self.bandwidth)


def find_writing_limit(lm: LM, *, clock: Clock = time.perf_counter) -> WritingLimit:
    """Measure how fast this machine reads and multiplies a model's matrices, with the threads that torch has."""
    depth = lm.architecture.depth(lm.model)
    head = cast(nn.Module, lm.model.get_output_embeddings())
    matrices = [module for index in range(depth) for module in projections(lm, index)]
    some = matrices[: len(matrices) * MEASURED_LAYERS // depth]
    weights = [cast(nn.Parameter, module.weight).detach() for module in (*matrices, head)]
    config = lm.model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    total = sum(weight.nbytes for weight in weights)

    def read() -> None:
        for weight in weights:
            weight.view(torch.float32).sum()  # as whole words of four bytes

    return WritingLimit(
        prompts=find_limit(lm, clock=clock),
        body={size: rate(some, clock, (size,)) for size in ROWS},
        head={size: rate([head], clock, (size,)) for size in ROWS},
        weights=total,
        per_cached=2 * depth * config.num_key_value_heads * width * lm.model.dtype.itemsize,
        bandwidth=total / min(seconds(read, clock) for _ in range(ROUNDS)),
    )
