"""Estimates of the memory that a method needs, from the model's configuration and the method's settings alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from peft import get_peft_model
from torch import nn

from formless.data.rows import Preference
from formless.data.target import FILES
from formless.errors import UserError
from formless.methods.base import MethodConfig
from formless.methods.direction.budget import CONTINUED
from formless.methods.direction.config import DirectionConfig
from formless.methods.direction.kept import MOST_OPENINGS
from formless.methods.icu import IcuConfig
from formless.methods.keys.contexts import STARTERS
from formless.methods.keys.token_states import BATCH as PROMPT_BATCH
from formless.methods.registry import METHODS
from formless.methods.rocr.config import RocrConfig
from formless.methods.training.config import TrainingConfig
from formless.methods.training.lora import lora_config
from formless.methods.training.spec import TrainingSpec
from formless.models.families import is_transposed, projection_shape
from formless.models.lm import LM
from formless.models.meta import MetaModel
from formless.models.reading.partial import is_plain, names_up_to

FLOAT32 = 4
LOGIT_COPIES = 4
CONTEXT_TOKENS = 64
PROMPTS, NAMED = 256, 48
"""About as many prompts as the removal of a direction reads, and those of them that name the target."""
KEPT_KEYS, KEY_BYTES = 1024, 28
"""About as many keys as it solves together, and what one number of a key takes: three copies in float32 and two in float64."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory in bytes.

    Args:
        weights: The model.
        loading: The checkpoint, where transformers casts it: its files are in memory until their weights are cast.
        trainable: Trainable weights in float32: an adapter, or a copy of all weights.
        gradients: Their gradients and the optimizer's two averages, in float32.
        activations: Activations that a forward pass keeps for its backward pass, with logits; for a method that does not train,
            those of a forward pass.
        applied: Copies of the original weights while the edit is applied, and three float32 copies of the largest one.
        null_spaces: ROCR's null spaces, in main memory wherever the model is: at most one matrix per layer, as published; bases
            that `formless stats` wrote take half of that or less.
    """

    weights: int
    trainable: int = 0
    gradients: int = 0
    activations: int = 0
    applied: int = 0
    null_spaces: int = 0
    loading: int = 0

    @property
    def device(self) -> int:
        """Peak on the model's device: the edit is first computed and then applied."""
        return self.weights + max(self.trainable + self.gradients + self.activations, self.applied)

    @property
    def main(self) -> int:
        """Peak of main memory where the model is on the CPU: while it is loaded, or after that."""
        return max(self.loading, self.device + self.null_spaces)


def estimate_memory(meta: MetaModel, method: str, config: MethodConfig, *, whole: bool = True) -> MemoryEstimate:
    """Estimate the memory for computing and applying an edit.

    The estimate leaves out evaluation, which uses half of the free memory and smaller batches if that is too little, and the
    libraries of Python and CUDA.

    Args:
        meta: The model.
        method: Name of the method.
        config: Its settings.
        whole: Whether the whole model is loaded; else the layers that the method needs, as `formless unlearn` does.

    Raises:
        UserError: The memory of the method is not known, or the model's layers have no such projections.
    """
    size, is_read = meta.model.dtype.itemsize, is_plain(meta.model.config, Path(meta.source))  # piece by piece, not mapped
    names = names_up_to(meta.architecture, meta.model, None if whole or not is_read else config.needed_layers())
    count = sum(parameter.numel() for name, parameter in meta.model.named_parameters() if name in names)
    is_cast = meta.stored != meta.model.dtype and not is_read
    bare = MemoryEstimate(weights=size * count, loading=meta.stored.itemsize * count if is_cast else 0)
    if isinstance(config, TrainingConfig):
        return _training(meta, method, config, bare)
    if isinstance(config, RocrConfig):
        return _redirection(meta, config, bare)
    if isinstance(config, DirectionConfig):
        return _removal(meta, config, bare)
    if type(config) in (IcuConfig, MethodConfig):  # no settings and no weights of its own
        return bare
    raise UserError(f"the memory that {method} needs is not known", where="--method", remedy="measure it")


def _training(meta: MetaModel, method: str, config: TrainingConfig, bare: MemoryEstimate) -> MemoryEstimate:
    """Estimate a training step on a batch of texts of `max_length` tokens, with every token a label."""
    spec = METHODS[method]
    if isinstance(spec, TrainingSpec) and spec.prepare:  # it looks at a model's family and depth only
        config = spec.prepare(cast(LM, meta), config)
    stops_early = (
        isinstance(spec, TrainingSpec) and spec.loss_input == "activations" and config.retain in ("none", "activations")
    )
    size = meta.model.dtype.itemsize
    texts = 2 if FILES.get(METHODS[method].trains_on or "") is Preference else 1
    tokens = config.per_device_train_batch_size * (texts + (config.retain != "none")) * config.max_length
    depth = (config.layer or 0) + 1 if stops_early else meta.architecture.depth(meta.model)
    logits = 0 if stops_early else _logit_bytes(meta)
    activations = tokens * (_activation_bytes(meta, depth - min(config.layers or (0,)), full=config.full) + logits)
    if config.full:
        count = bare.weights // size
        casts = 0 if size == FLOAT32 else bare.weights  # mixed precision casts the float32 copy
        return replace(
            bare, trainable=FLOAT32 * count + casts, gradients=3 * FLOAT32 * count, activations=activations,
            applied=bare.weights,
        )  # fmt: skip
    adapter = lora_config(
        meta, target_modules=config.target_modules, r=config.r, lora_alpha=config.lora_alpha, layers=config.layers
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        wrapped = get_peft_model(meta.model, adapter)
    trainable = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    adapted = [parameter.numel() for name, parameter in wrapped.named_parameters() if name.endswith("base_layer.weight")]
    wrapped.unload()
    count = sum(parameter.numel() for parameter in trainable)
    return replace(
        bare, trainable=FLOAT32 * count, gradients=3 * FLOAT32 * count, activations=activations,
        applied=_applied_bytes(adapted, size),
    )  # fmt: skip


def _redirection(meta: MetaModel, config: RocrConfig, bare: MemoryEstimate) -> MemoryEstimate:
    """Estimate a forward pass over the chat contexts; mode "reject" also needs a backward pass down to the edited layers."""
    model, size = meta.model, meta.model.dtype.itemsize
    shapes = [projection_shape(meta.architecture.down_projection(model, layer)) for layer in config.layers]
    rejects = config.mode == "reject"
    tokens = (len(STARTERS) + rejects) * CONTEXT_TOKENS
    layers = meta.architecture.depth(model) - max(config.layers, default=0) if rejects else 1
    activations = tokens * (_activation_bytes(meta, layers) + (_logit_bytes(meta) if rejects else 0))
    edited = [rows * columns for rows, columns in shapes]
    spaces = 0 if config.basis == "none" else sum(FLOAT32 * columns**2 for _, columns in shapes)
    return replace(bare, activations=activations, applied=_applied_bytes(edited, size), null_spaces=spaces)


def _removal(meta: MetaModel, config: DirectionConfig, bare: MemoryEstimate) -> MemoryEstimate:
    """Estimate the cached inputs of the edited layers, with the largest of what comes while they are kept.

    That is a batch of prompts, the keys that are solved, or the logits of the texts by which the budget measures the edit.
    """
    model, size = meta.model, meta.model.dtype.itemsize
    depth = meta.architecture.depth(model)
    layers, edited_layers = config.layers_of(depth), config.edited_layers(depth)
    shapes = [projection_shape(meta.architecture.down_projection(model, layer)) for layer in edited_layers]
    hidden, inner = shapes[0]
    named = NAMED * len(layers) if config.redirecting_layers(depth) else 0  # read again beside the redirect
    cached = (PROMPTS * len(edited_layers) + named) * CONTEXT_TOKENS * hidden * size
    passing = PROMPT_BATCH * CONTEXT_TOKENS * _activation_bytes(meta, 1)
    solved = KEPT_KEYS * KEY_BYTES * inner
    scored = MOST_OPENINGS * CONTINUED * 2 * FLOAT32 * _vocabulary(meta)
    edited = [rows * columns for rows, columns in shapes]
    return replace(bare, activations=cached + max(passing, solved, scored), applied=_applied_bytes(edited, size))


def _activation_bytes(meta: MetaModel, layers: int, *, full: bool = False) -> int:
    """Return bytes per token: about twice the outputs of a layer's projections, and their inputs if they are trained."""
    first = meta.architecture.layer(meta.model, 0)
    shapes = [projection_shape(module) for module in first.modules() if isinstance(module, nn.Linear) or is_transposed(module)]
    values = sum(2 * rows + (columns if full else 0) for rows, columns in shapes)
    return layers * values * meta.model.dtype.itemsize


def _logit_bytes(meta: MetaModel) -> int:
    """Return bytes per label: the logits, their log-probabilities and the gradients of both, in float32."""
    return LOGIT_COPIES * FLOAT32 * _vocabulary(meta)


def _vocabulary(meta: MetaModel) -> int:
    return int(meta.model.config.get_text_config().vocab_size)


def _applied_bytes(parameters: list[int], size: int) -> int:
    return size * sum(parameters) + 3 * FLOAT32 * max(parameters, default=0)
