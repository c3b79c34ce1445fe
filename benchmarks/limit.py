"""The limit of a piece of work: the operations that it needs, over the rate at which this machine multiplies such matrices.

Operations are counted from shapes. What texts begin with alike is needed once, whatever an implementation does about it. A
token attends to those before it. The head is needed where a token is predicted. The rate is that of the model's own projections
in its own dtype, measured in the same process, with the fastest number of tokens at a time. So the share of the limit says how
much of the time went into products that no implementation can spare. Norms, activation functions, padding, the softmax,
tokenization and Python are the rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks.timing import Clock, seconds
from formless.models.families import is_transposed, projection_shape
from formless.models.lm import LM
from formless.models.tokenized import Encoded

TOKENS = (512, 2048)
"""Tokens at a time with which the rate is measured; the fastest counts."""

MEASURED_LAYERS, ROUNDS = 4, 3


@dataclass(frozen=True)
class Needed:
    """What has to be computed for some texts.

    Args:
        tokens: Different beginnings of the texts, as many as their prefix tree has nodes.
        attended: The sum of the tokens that each of them attends to.
        scored: Different beginnings after which a token is predicted.
    """

    tokens: int
    attended: int
    scored: int


def needed(texts: Iterable[tuple[Sequence[int], int]]) -> Needed:
    """Count what texts need.

    Args:
        texts: The token ids of each text that the model reads, and the index of the first of them after which a token is
            predicted; a token that is only predicted is not among them.
    """
    tokens = attended = 0
    before: Sequence[int] = ()
    places: set[tuple[int, ...]] = set()
    for ids, first in sorted((tuple(ids), first) for ids, first in texts):
        shared = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), min(len(before), len(ids)))
        tokens += len(ids) - shared
        attended += sum(range(shared + 1, len(ids) + 1))
        places |= {ids[: place + 1] for place in range(first, len(ids))}
        before = ids
    return Needed(tokens, attended, len(places))


def scored(items: Iterable[Encoded]) -> Needed:
    """Count what it takes to score every token of answers."""
    return needed((item.ids[:-1], item.answer_start - 1) for item in items)


@dataclass(frozen=True)
class Limit:
    """How fast a machine multiplies with the matrices of a model.

    Args:
        body: Operations a second of the layers' projections.
        head: Operations a second of the output matrix.
        per_token: Operations of all projections for one token.
        per_attended: Operations of attention for one token that another one attends to.
        per_scored: Operations of the output matrix for one place.
    """

    body: float
    head: float
    per_token: int
    per_attended: int
    per_scored: int

    def seconds(self, work: Needed, *, passes: float = 1) -> float:
        """Return the shortest time of some work.

        Args:
            work: What is needed.
            passes: How often; a backward pass through frozen weights is another one.
        """
        body = work.tokens * self.per_token + work.attended * self.per_attended
        return passes * (body / self.body + work.scored * self.per_scored / self.head)


def find_limit(lm: LM, *, layers: int | None = None, clock: Clock = time.perf_counter) -> Limit:
    """Measure the rates of a model's matrices on this machine, with the threads that torch has.

    Args:
        lm: The model.
        layers: How many layers the work goes through; all unless given.
        clock: The clock of the work that is compared.
    """
    depth = lm.architecture.depth(lm.model) if layers is None else layers
    measured = [module for index in range(min(depth, MEASURED_LAYERS)) for module in projections(lm, index)]
    head = cast(nn.Module, lm.model.get_output_embeddings())
    config = lm.model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Limit(
        body=rate(measured, clock),
        head=rate([head], clock),
        per_token=sum(operations(module) for index in range(depth) for module in projections(lm, index)),
        per_attended=4 * depth * config.num_attention_heads * width,
        per_scored=operations(head),
    )


def projections(lm: LM, index: int) -> list[nn.Module]:
    """The modules of a layer that multiply with a matrix."""
    layer = lm.architecture.layer(lm.model, index)
    return [module for module in layer.modules() if isinstance(module, nn.Linear) or is_transposed(module)]


def operations(module: nn.Module) -> int:
    """Of one token: a multiplication and an addition for every number of the matrix."""
    rows, columns = projection_shape(module)
    return 2 * rows * columns


@torch.inference_mode()
def rate(modules: Sequence[nn.Module], clock: Clock, sizes: Sequence[int] = TOKENS) -> float:
    """Operations a second of some projections, one after the other, with nothing between them; the fastest round counts.

    Args:
        modules: The projections.
        clock: The clock.
        sizes: Tokens at a time; the fastest counts.
    """
    weight = cast(Tensor, modules[0].weight)
    widths = {projection_shape(module)[1] for module in modules}
    total = sum(operations(module) for module in modules)
    found = 0.0
    for tokens in sizes:
        inputs = {width: torch.randn(tokens, width, device=weight.device, dtype=weight.dtype) for width in widths}

        def products(inputs: dict[int, Tensor] = inputs) -> None:
            for module in modules:
                module(inputs[projection_shape(module)[1]])

        products()
        found = max(found, tokens * total / min(seconds(products, clock) for _ in range(ROUNDS)))
    return found
