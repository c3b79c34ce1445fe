"""About how much memory a method needs on a model, from the model's configuration and the method's settings alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import cast

from peft import get_peft_model
from torch import nn

from formless.data.target import FILES, Preference
from formless.errors import UserError
from formless.methods.base import MethodConfig
from formless.methods.registry import METHODS
from formless.methods.rocr.contexts import STARTERS
from formless.methods.rocr.redirect import RocrConfig
from formless.methods.training.config import TrainingConfig
from formless.methods.training.lora import lora_config
from formless.models.families import is_transposed, projection_shape
from formless.models.lm import LM
from formless.models.loading import MetaModel

FLOAT32 = 4
LOGIT_COPIES = 4
CONTEXT_TOKENS = 64


@dataclass(frozen=True)
class Need:
    """Bytes.

    Args:
        weights: The model.
        learning: What learns, in float32: an adapter, or a copy of all weights.
        gradients: Its gradients and the optimizer's two averages, in float32.
        activations: What a pass keeps for its backward pass, logits too; of a method that does not train, what a pass holds.
        applied: The original weights that are kept while the edit is on the model, and three float32 copies of the largest
            while one is laid over it.
        null_spaces: Of ROCR, in main memory wherever the model is: at most one matrix a layer, as published; bases that
            `formless stats` wrote take half of that or less.
    """

    weights: int
    learning: int = 0
    gradients: int = 0
    activations: int = 0
    applied: int = 0
    null_spaces: int = 0

    @property
    def device(self) -> int:
        """The most at one time where the model is: it first computes the edit and then wears it."""
        return self.weights + max(self.learning + self.gradients + self.activations, self.applied)


def memory_need(outline: MetaModel, method: str, config: MethodConfig) -> Need:
    """Estimate what computing and wearing an edit takes.

    Evaluation is not in it: it fills half of the memory that is left, and takes smaller batches where that does not do.
    Neither is what a process has anyway, such as Python's and CUDA's libraries.

    Args:
        outline: The model.
        method: Its name.
        config: Its settings.

    Raises:
        UserError: Nothing is known about the method, or the model's layers have no such projections.
    """
    size = outline.model.dtype.itemsize
    bare = Need(weights=size * sum(parameter.numel() for parameter in outline.model.parameters()))
    if isinstance(config, TrainingConfig):
        return _training(outline, method, config, bare)
    if isinstance(config, RocrConfig):
        return _redirection(outline, config, bare)
    if type(config) is MethodConfig:  # neither settings nor weights of its own
        return bare
    raise UserError(f"nothing is known about the memory of {method}", where="--method", remedy="measure it")


def _training(outline: MetaModel, method: str, config: TrainingConfig, bare: Need) -> Need:
    """A pass over a batch of texts, each as long as the cut-off, with every token a label."""
    size = outline.model.dtype.itemsize
    texts = 2 if FILES.get(METHODS[method].reads or "") is Preference else 1
    tokens = config.batch * (texts + (config.retain != "none")) * config.cutoff
    depth = outline.architecture.depth(outline.model)
    activations = tokens * (_kept(outline, depth - min(config.layers or (0,)), full=config.full) + _logits(outline))
    if config.full:
        count = bare.weights // size
        casts = 0 if size == FLOAT32 else bare.weights  # mixed precision makes them anew from the float32 copy
        return replace(
            bare, learning=FLOAT32 * count + casts, gradients=3 * FLOAT32 * count, activations=activations,
            applied=bare.weights,
        )  # fmt: skip
    # The description of an adapter looks at a model's modules and family alone.
    adapter = lora_config(cast(LM, outline), modules=config.modules, rank=config.rank, alpha=config.alpha, layers=config.layers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        wrapped = get_peft_model(outline.model, adapter)
    learning = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    adapted = [parameter.numel() for name, parameter in wrapped.named_parameters() if name.endswith("base_layer.weight")]
    wrapped.unload()
    count = sum(parameter.numel() for parameter in learning)
    return replace(
        bare, learning=FLOAT32 * count, gradients=3 * FLOAT32 * count, activations=activations, applied=_applied(adapted, size)
    )


def _redirection(outline: MetaModel, config: RocrConfig, bare: Need) -> Need:
    """A pass over the chat contexts; the mode "reject" also needs a backward pass down to the edited layers."""
    model, size = outline.model, outline.model.dtype.itemsize
    shapes = [projection_shape(outline.architecture.down_projection(model, layer)) for layer in config.layers]
    rejects = config.mode == "reject"
    tokens = (len(STARTERS) + rejects) * CONTEXT_TOKENS
    layers = outline.architecture.depth(model) - max(config.layers, default=0) if rejects else 1
    activations = tokens * (_kept(outline, layers) + (_logits(outline) if rejects else 0))
    edited = [rows * columns for rows, columns in shapes]
    spaces = 0 if config.basis == "none" else sum(FLOAT32 * columns**2 for _, columns in shapes)
    return replace(bare, activations=activations, applied=_applied(edited, size), null_spaces=spaces)


def _kept(outline: MetaModel, layers: int, *, full: bool = False) -> int:
    """Bytes a token: about twice what the projections of a layer give; their inputs too where they learn themselves."""
    first = outline.architecture.layer(outline.model, 0)
    shapes = [projection_shape(module) for module in first.modules() if isinstance(module, nn.Linear) or is_transposed(module)]
    values = sum(2 * rows + (columns if full else 0) for rows, columns in shapes)
    return layers * values * outline.model.dtype.itemsize


def _logits(outline: MetaModel) -> int:
    """Bytes a label: the logits, their logarithms of probability and the gradients of both, in float32."""
    return LOGIT_COPIES * FLOAT32 * int(outline.model.config.get_text_config().vocab_size)


def _applied(parameters: list[int], size: int) -> int:
    return size * sum(parameters) + 3 * FLOAT32 * max(parameters, default=0)
