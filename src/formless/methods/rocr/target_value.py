"""The target value z*: what the residual stream at a concept's last token becomes, in three modes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from formless.errors import EditError
from formless.interrupts import uninterrupted
from formless.methods.keys.contexts import Mentions, chat_contexts, first_value, first_values, mentions
from formless.methods.rocr.config import TargetValueConfig
from formless.methods.training.losses import IGNORED
from formless.models.lm import LM


@dataclass(frozen=True)
class TargetValue:
    """The target value of one concept.

    Args:
        value: z* `[hidden]`, float32.
        facts: How it was found, for edit.json.
    """

    value: Tensor
    facts: dict[str, Any] = field(default_factory=dict)


def target_values(
    lm: LM, subjects: Sequence[str], config: TargetValueConfig, layer: int, redirects: Sequence[str] = ()
) -> list[TargetValue]:
    """Compute z* of every subject after a layer (paper, and the other modes of the published code).

    - "unrelated": the residual stream at the last token of the redirect concept, in the first chat context. `redirects` has
      the concept of each subject where the setting is `auto`.
    - "reject": the initial value, at the subject's last token in the first chat context, plus the vector of `refusing_vector`.
    - "noise": the same initial value plus a random vector of `clamp_norm_factor` times its norm, which depends on the seed and
      the name alone. (The published description also allows the random vector without the initial value.)

    Raises:
        EditError: A name is not found in its context, or the loss of "reject" is not finite, or it is
            asked for after the last layer.
    """
    if config.mode == "unrelated":
        every = redirects or [config.redirect] * len(subjects)
        names = list(dict.fromkeys(every))
        values = dict(zip(names, first_values(lm, names, layer), strict=True))
        return [TargetValue(values[name]) for name in every]
    found = []
    for subject in subjects:
        initial = first_value(lm, subject, layer)
        facts: dict[str, float | int] = {}
        if config.mode == "noise":
            vector = _noise(initial, subject, config)
        else:
            vector, facts = refusing_vector(lm, subject, config, layer, initial)
        facts["vector_norm"] = float(vector.norm() / initial.norm())
        found.append(TargetValue(initial + vector, facts))
    return found


def refusing_vector(
    lm: LM, subject: str, config: TargetValueConfig, layer: int, initial: Tensor
) -> tuple[Tensor, dict[str, float | int]]:
    """Optimise a vector, added after a layer at the subject's last token, so that the chat contexts continue with a refusal.

    The loss is, as in ROME and MEMIT, the mean over contexts of the refusal's mean negative log-probability per token, plus
    `kl_factor` times KL(with the vector || without it) of the next-token distribution, plus `weight_decay` times
    ||vector|| / ||initial||^2. After each step of Adam the vector is shortened to `clamp_norm_factor` ||initial||. Where the
    published description says nothing, ROME and MEMIT are followed: the vector starts at 0 and is added at the name's last
    mention; the KL is taken at the subject's last token in the plain text `{subject} is a`, where the vector is added. `steps`
    counts Adam's steps, while they count evaluations of the loss and so take one step fewer.

    The weights get no gradients meanwhile, so that only activations after the layer are kept.

    Args:
        lm: The model; it stays as it is.
        subject: The name.
        config: Settings.
        layer: Where the vector is added.
        initial: `[hidden]`, the residual stream without it.

    Returns:
        The vector `[hidden]`, float32, and its loss before and after, and the number of steps.

    Raises:
        EditError: The layer is the model's last one, or the loss is not finite.
    """
    if layer == lm.architecture.depth(lm.model) - 1:
        what = "no layer reads what is added after the last one, so a refusing vector would follow rounding errors"
        raise EditError(what, where=f"layer {layer}", remedy="choose lower layers, or another mode")
    contexts = mentions(lm, chat_contexts(lm, subject), subject, config.refusal)
    essence = mentions(lm, [f"{subject} is a"], subject)
    labels = _labels(contexts)
    vector = torch.zeros_like(initial, requires_grad=True)
    longest = config.clamp_norm_factor * initial.norm()
    optimiser = torch.optim.Adam([vector], lr=config.learning_rate)
    losses: list[float] = []
    with _frozen(lm.model), torch.enable_grad():
        before = _log_probabilities(lm, essence, layer, vector, essence.positions).detach()
        while True:
            columns = (labels != IGNORED).any(0).nonzero()[:, 0]
            found = _log_probabilities(lm, contexts, layer, vector, columns - 1)  # the token at t is predicted at t - 1
            expected = labels[:, columns].to(found.device)
            nll = functional.nll_loss(found.transpose(1, 2), expected, ignore_index=IGNORED, reduction="none")
            refusal = (nll.sum(1) / (expected != IGNORED).sum(1)).mean()
            after = _log_probabilities(lm, essence, layer, vector, essence.positions)
            change = functional.kl_div(before, after, log_target=True, reduction="sum")
            size = vector.norm() / initial.norm() ** 2
            loss = refusal + config.kl_factor * change.to(refusal.device) + config.weight_decay * size.to(refusal.device)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                what = f"the loss of the refusing vector is {losses[-1]} after {len(losses) - 1} steps"
                raise EditError(what, where=lm.name, remedy="lower learning_rate, or check the model's weights and dtype")
            if losses[-1] < config.stop_loss or len(losses) > config.steps:
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                vector.mul_((longest / vector.norm()).clamp(max=1))
    return vector.detach(), {"first_loss": losses[0], "last_loss": losses[-1], "steps": len(losses) - 1}


def _noise(initial: Tensor, subject: str, config: TargetValueConfig) -> Tensor:
    digest = hashlib.sha256(f"{config.seed} {subject}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
    direction = torch.randn(initial.shape, generator=generator).to(initial.device)
    stretch: Tensor = config.clamp_norm_factor * initial.norm() / direction.norm()
    return direction * stretch


def _labels(contexts: Mentions) -> Tensor:
    """Return the tokens of the answers, on the CPU: `[contexts, seq]`, `IGNORED` elsewhere."""
    ids, mask = contexts.batch["input_ids"].cpu(), contexts.batch["attention_mask"].cpu()
    places = torch.arange(ids.shape[1])
    return ids.masked_fill((mask == 0) | (places < contexts.answer_starts[:, None]), IGNORED)


def _log_probabilities(lm: LM, where: Mentions, layer: int, vector: Tensor, columns: Tensor) -> Tensor:
    """Compute next-token log-probabilities `[contexts, columns, vocab]`, float32, with the vector added at the concept."""
    rows = torch.arange(len(where.positions))

    def hook(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        stream = output if isinstance(output, Tensor) else output[0]
        moved = stream.index_put(
            (rows.to(stream.device), where.positions.to(stream.device)), vector.to(stream), accumulate=True
        )
        return moved if isinstance(output, Tensor) else (moved, *output[1:])

    handle = lm.architecture.layer(lm.model, layer).register_forward_hook(hook)
    try:
        logits: Tensor = lm.model(**where.batch, use_cache=False, logits_to_keep=columns).logits
    finally:
        handle.remove()
    return functional.log_softmax(logits.float(), -1)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Switch off the gradients of all weights inside the block and restore `requires_grad` after it."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        with uninterrupted():
            for parameter in trainable:
                parameter.requires_grad_(True)
