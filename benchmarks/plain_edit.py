"""The published way, written plainly: dense projections, a d x d solve, one full forward pass for every context and value."""

from __future__ import annotations

import torch
from torch import Tensor

from formless.methods.keys.contexts import bare_context, chat_contexts, mentions
from formless.methods.rocr.config import RocrConfig
from formless.models.lm import LM


def hidden_and_key(lm: LM, prompt: str, subject: str, layer: int, last: int) -> tuple[Tensor, Tensor]:
    """One prompt through the whole model: residual after `last` and key of `layer`, at the subject's last token."""
    found = mentions(lm, [prompt], subject)
    keys: list[Tensor] = []
    module = lm.architecture.down_projection(lm.model, layer)
    handle = module.register_forward_pre_hook(lambda _module, arguments: keys.append(arguments[0]))
    with torch.no_grad():
        output = lm.model(**found.batch, output_hidden_states=True)
    handle.remove()
    return found.at(output.hidden_states[last + 1])[0], found.at(keys[0])[0]


def dense_rocr(lm: LM, subject: str, config: RocrConfig, matrices: dict[int, Tensor]) -> dict[int, Tensor]:
    """ROCR with P as a d x d matrix and the published solve; returns the dense updates and leaves the model as it was."""
    last = config.layers[-1]
    contexts = chat_contexts(lm, subject)
    current = contexts if config.current_value == "chat" else bare_context(subject)
    target_value, _ = hidden_and_key(lm, chat_contexts(lm, config.redirect)[0], config.redirect, last, last)
    originals, updates = {}, {}
    for index, layer in enumerate(config.layers):
        key = torch.stack([hidden_and_key(lm, prompt, subject, layer, last)[1] for prompt in contexts]).mean(0)
        current_value = torch.stack([hidden_and_key(lm, prompt, subject, layer, last)[0] for prompt in current]).mean(0)
        residual = (target_value - current_value) / (len(config.layers) - index)
        matrix = matrices[layer]
        left = matrix @ torch.outer(key, key) + config.l2 * torch.eye(len(key))
        updates[layer] = torch.linalg.solve(left, matrix @ torch.outer(key, residual)).T
        weight = lm.model.get_parameter(f"{lm.architecture.down_projection_name(layer)}.weight")
        originals[layer] = weight.detach().clone()
        with torch.no_grad():
            weight.add_(updates[layer])
    for layer, original in originals.items():
        with torch.no_grad():
            lm.model.get_parameter(f"{lm.architecture.down_projection_name(layer)}.weight").copy_(original)
    return updates
