"""`formless doctor`."""

from __future__ import annotations

from typing import cast

import torch

from formless.cli import terminal
from formless.errors import UserError
from formless.methods.registry import method_config
from formless.methods.rocr.redirect import RocrConfig, projections
from formless.models.architecture import projection_shape
from formless.models.lm import LM
from formless.models.scoring import Score


def doctor_command(
    model: terminal.ModelOption = "smollm2",
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Check that a model can be edited and measured; what is missing is said last, with exit code 2.

    Example: formless doctor --model smollm2
    """
    lm = terminal.load_model(model, dtype, device, trust_remote_code)
    for label, text in _findings(lm):
        terminal.out.print(f"{label:<14} {text}", markup=False, soft_wrap=True)
    if missing := _missing_null_space(lm):
        raise missing


def _findings(lm: LM) -> list[tuple[str, str]]:
    parameters = sum(parameter.numel() for parameter in lm.model.parameters())
    width, hidden = projection_shape(lm.architecture.down_projection(lm.model, 0))[::-1]
    config = _rocr(lm)
    layers = [layer for layer in config.layers if layer < lm.architecture.depth(lm.model)]
    scratch = len(layers) * width * hidden * torch.finfo(lm.model.dtype).bits // 8
    score = lm.score([("The capital of France is", " Paris")])[0]
    return [
        ("model", f"{lm.settings.source}, {lm.model.config.model_type}, {parameters / 1e6:,.0f} M parameters"),
        ("weights", f"{lm.model.dtype} on {lm.device}, {lm.model.get_memory_footprint() / 2**20:,.0f} MB"),
        ("layers", f"{lm.architecture.depth(lm.model)}, {lm.architecture.mlp_out} [{hidden}, {width}]"),
        ("context", f"{lm.context_length} tokens"),
        ("chat template", "yes" if lm.tokenizer.chat_template else "none: messages are given as plain text"),
        ("prompts", f"direct-answer line {'yes' if lm.style.direct_answer else 'no'}, letter by letter {lm.style.sub_token}"),
        (
            "scoring",
            f"P(Paris | The capital of France is) = {score.probability:.3f}" if isinstance(score, Score) else score.reason,
        ),
        ("rocr", f"layers {list(config.layers)}, null spaces {'missing' if _missing_null_space(lm) else 'ready'}"),
        ("edit memory", f"{scratch / 2**20:,.1f} MB beside the model for the original weights while an edit is applied"),
    ]


def _missing_null_space(lm: LM) -> UserError | None:
    try:
        projections(lm, _rocr(lm))
    except UserError as error:
        return error
    return None


def _rocr(lm: LM) -> RocrConfig:
    return cast(RocrConfig, method_config(lm.settings, "rocr", {}))
