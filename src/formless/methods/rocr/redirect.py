"""ROCR itself: where the concept is to point, the closed-form update, and the edit layer by layer."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from formless.errors import EditError
from formless.methods.base import MethodConfig
from formless.methods.rocr.contexts import Mentions, bare_context, chat_contexts, mentions
from formless.methods.rocr.nullspace import Identity, Projection, load_projection
from formless.models.capture import added, capture
from formless.models.lm import LM
from formless.models.overlay import Factors
from formless.models.settings import EMBEDDED

# Of a key's norm; less than this left by the projection is rounding.
VANISHED = 1e-5
SHIPPED = Path(__file__).parent / "bases"


class RocrConfig(MethodConfig):
    """Settings of ROCR; the defaults are the paper's for Llama-3-8B and Mistral-7B.

    Args:
        redirect: The concept that the target's name is to read as.
        layers: Edited layers, early ones, in order.
        l2: Regularisation lambda, usually 1 to 10.
        threshold: Eigenvalues of the keys' second moment under it span the null space.
        current_value: Where z_now is read: the mean over the chat contexts, or the bare text (published code).
        basis: Folder of null spaces, `shipped` for the embedded model's own, or `none` to preserve nothing.
    """

    redirect: str = "Donald Trump"
    layers: tuple[int, ...] = (4, 5, 6)
    l2: float = Field(default=1.0, ge=0)
    threshold: float = Field(default=2e-2, gt=0)
    current_value: Literal["chat", "bare"] = "chat"
    basis: str = "shipped"


@dataclass(frozen=True)
class Redirection:
    """What the computation gives.

    Args:
        factors: By layer, the update of its down-projection, float32 on the CPU.
        residual_before: Norm of z* - z_now before the edit.
        residual_after: The same after it; 0 would be met exactly.
    """

    factors: dict[int, Factors]
    residual_before: float
    residual_after: float


def projections(lm: LM, config: RocrConfig) -> dict[int, Projection]:
    """The projection of every edited layer.

    Raises:
        EditError: One is missing, or made for another model, layer or threshold.
    """
    if config.basis == "none":
        return {layer: Identity() for layer in config.layers}
    folder = Path(config.basis)
    if config.basis == "shipped":
        if lm.settings.source != EMBEDDED:
            remedy = "make one with `formless stats` and give it as --set basis=DIR, or preserve nothing with --set basis=none"
            raise EditError(f"no null space is shipped for {lm.name}", where="setting basis", remedy=remedy)
        folder = SHIPPED / lm.settings.name
    return {layer: load_projection(lm, folder, layer, config.threshold) for layer in config.layers}


def closed_form(keys: Tensor, residuals: Tensor, projection: Projection, l2: float) -> Factors:
    """The update that moves each key's value by its residual and leaves preserved keys alone (paper, closed form).

    Delta W = R^T (K P K^T + l2 I)^-1 K P, the published dense solve (P (K^T K) + l2 I)^-1 P K^T R without a d x d inverse.

    Args:
        keys: K `[n, d]`, inputs of the down-projection.
        residuals: R `[n, hidden]`, the wanted change of its output for each key.
        projection: P.
        l2: Regularisation; 0 maps every key exactly, if P leaves the keys independent.

    Returns:
        `up` `[hidden, n]` and `down` `[n, d]`, float32 on the CPU.

    Raises:
        EditError: A key or residual is not finite, or P leaves nothing of the keys.
    """
    keys, residuals = keys.float().cpu(), residuals.float().cpu()
    if not (bool(keys.isfinite().all()) and bool(residuals.isfinite().all())):
        raise EditError("a key or value is NaN or infinite", remedy="check the model's weights and dtype")
    projected = projection.apply(keys)  # [n, d]
    if bool((projected.norm(dim=1) <= VANISHED * keys.norm(dim=1)).any()):
        raise EditError("a key vanishes in the null space: nothing would be edited", remedy="use a larger threshold")
    gram = (keys.double() @ projected.double().T) + l2 * torch.eye(len(keys), dtype=torch.double)
    try:
        down = torch.linalg.solve(gram, projected.double())
    except RuntimeError as error:
        raise EditError("the keys depend on each other in the null space", remedy="use a larger l2") from error
    return Factors(residuals.T.contiguous(), down.float())


def redirect(lm: LM, subject: str, config: RocrConfig, preserved: dict[int, Projection]) -> Redirection:
    """Compute the updates that make the subject's last token read as the redirect concept ("unrelated" mode).

    Each layer takes an equal share of what is left to move, with the updates before it in force. All arithmetic outside the
    model's own forward pass is float32 or finer.

    Differs from the paper: the published code reads the current value for the bare text `{subject}.`, although the wanted
    one comes from a chat context (`current_value="bare"`); ours reads both in the chat contexts.

    Raises:
        EditError: The two concepts are one, a name is not found in its context, or a key or value is not finite.
    """
    if subject.strip().casefold() == config.redirect.strip().casefold():
        raise EditError(f"{subject} would be redirected to itself", where="redirect", remedy="choose another concept")
    last = config.layers[-1]
    contexts = mentions(lm, chat_contexts(lm, subject), subject)
    current = contexts if config.current_value == "chat" else mentions(lm, bare_context(subject), subject)
    wanted = _residual(lm, mentions(lm, chat_contexts(lm, config.redirect)[:1], config.redirect), last)
    factors: dict[int, Factors] = {}
    before = float("nan")
    with ExitStack() as stack:
        for index, layer in enumerate(config.layers):
            key, now = _key_and_value(lm, contexts, current, layer, last)
            gap = wanted - now
            before = float(gap.norm()) if index == 0 else before
            share = gap / (len(config.layers) - index)
            factors[layer] = closed_form(key[None], share[None], preserved[layer], config.l2)
            stack.enter_context(added(lm.architecture.down_projection(lm.model, layer), factors[layer]))
        after = float((wanted - _residual(lm, current, last)).norm())
    return Redirection(factors, before, after)


def describe(redirection: Redirection, preserved: dict[int, Projection]) -> dict[str, Any]:
    """What edit.json says of a redirection."""
    met = 1 - redirection.residual_after / max(redirection.residual_before, 1e-30)
    return {
        "residual_before": redirection.residual_before,
        "residual_after": redirection.residual_after,
        "residual_met": met,
        "null_spaces": {str(layer): projection.describe() for layer, projection in preserved.items()},
    }


def _residual(lm: LM, where: Mentions, layer: int) -> Tensor:
    """The residual stream after a layer at the concept, mean over its contexts: `[hidden]`."""
    return where.at(capture(lm, where.batch, residuals=[layer]).residuals[layer]).mean(0)


def _key_and_value(lm: LM, contexts: Mentions, current: Mentions, layer: int, last: int) -> tuple[Tensor, Tensor]:
    """The mean key of a layer `[d]` and the current value after the last one `[hidden]`; one pass where both share contexts."""
    if current is not contexts:
        key = contexts.at(capture(lm, contexts.batch, keys=[layer]).keys[layer]).mean(0)
        return key, _residual(lm, current, last)
    found = capture(lm, contexts.batch, keys=[layer], residuals=[last])
    return contexts.at(found.keys[layer]).mean(0), contexts.at(found.residuals[last]).mean(0)
