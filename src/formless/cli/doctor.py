"""`formless doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from formless.cli import terminal
from formless.errors import UserError

if TYPE_CHECKING:
    from formless.methods.direction.config import DirectionConfig
    from formless.methods.rocr.config import RocrConfig
    from formless.models.lm import LM

_GB = 2**30


def doctor_command(
    model: terminal.ModelOption = "smollm2",
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
    method: Annotated[
        str | None, typer.Option(help="Only estimate the memory that this method needs, from the model's configuration.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the method, NAME=VALUE.")] = None,
) -> None:
    """Check that a model can be edited and measured, and say whether the null spaces of rocr are there.

    With --method, only estimate memory: no weights are loaded. The estimate is for texts of the maximum length, and leaves out
    evaluation, which adapts its batches to the free memory.

    Example: formless doctor --model smollm2

    Example: formless doctor --model smollm2 --method ga --set per_device_train_batch_size=8
    """
    if method:
        _show(_estimate(model, method, settings or [], dtype, device, trust_remote_code))
        return
    if settings:
        raise UserError("settings without a method", where="--set", remedy="give --method too")
    lm = terminal.load_model(model, dtype, device, trust_remote_code)
    _show(_findings(lm))


def _show(findings: list[tuple[str, str]]) -> None:
    for label, text in findings:
        terminal.out.print(f"{label:<14} {text}", soft_wrap=True)


def _estimate(
    model: str, method: str, settings: list[str], dtype: str, device: str, trust_remote_code: bool
) -> list[tuple[str, str]]:
    import torch

    from formless.methods.memory import estimate_memory
    from formless.methods.registry import method_config
    from formless.methods.training.config import TrainingConfig
    from formless.models.loading import load_meta

    has_accelerator = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = device == "cpu" or (device == "auto" and not has_accelerator)
    found = load_meta(model, dtype="float32" if dtype == "auto" and on_cpu else dtype, trust_remote_code=trust_remote_code)
    config = method_config(found.settings, method, terminal.parse_settings(settings))
    need = estimate_memory(found, method, config)
    together, where = (need.device + need.null_spaces, "memory") if on_cpu else (need.device, "the device's memory")
    parts = (
        ("weights", need.weights, f", {found.model.dtype}".replace("torch.", "")),
        ("trainable", need.trainable, ", float32"),
        ("gradients", need.gradients, ", with the optimizer's averages"),
        ("activations", need.activations, ""),
        ("edit applied", need.applied, ", after the rest but the weights is freed"),
        ("null spaces", need.null_spaces, " of main memory at most"),
        ("total", together, f" of {where}, without evaluation and libraries"),
    )
    source = f"{found.settings.source}, {found.model.config.model_type}"
    batches = _batches(config.per_device_train_batch_size, config.max_length) if isinstance(config, TrainingConfig) else ""
    sizes = [(label, f"{size / _GB:.2f} GB{more}") for label, size, more in parts if size]
    return [("model", source), ("method", method + batches), *sizes]


def _batches(size: int, max_length: int) -> str:
    return f", batches of {size}, texts of {max_length} tokens"


def _findings(lm: LM) -> list[tuple[str, str]]:
    import torch

    from formless.methods.registry import method_config
    from formless.models.families import projection_shape
    from formless.models.scores import Score

    parameters = sum(parameter.numel() for parameter in lm.model.parameters())
    width, hidden = projection_shape(lm.architecture.down_projection(lm.model, 0))[::-1]
    config = cast("DirectionConfig", method_config(lm.settings, "cdr", {}))
    config.check_model(lm)
    layers = config.edited_layers(lm.architecture.depth(lm.model))
    redirection = cast("RocrConfig", method_config(lm.settings, "rocr", {}))
    scratch = len(layers) * width * hidden * torch.finfo(lm.model.dtype).bits // 8
    score = lm.score([("The capital of France is", " Paris")])[0]
    return [
        ("model", f"{lm.settings.source}, {lm.model.config.model_type}, {parameters / 1e6:,.0f} M parameters"),
        ("weights", f"{lm.model.dtype} on {lm.device}, {lm.model.get_memory_footprint() / 2**20:,.0f} MB"),
        ("layers", f"{lm.architecture.depth(lm.model)}, {lm.architecture.mlp_out} [{hidden}, {width}]"),
        ("context", f"{lm.context_length} tokens"),
        ("chat template", "yes" if lm.tokenizer.chat_template else "none: messages are plain text"),
        ("prompts", f"direct-answer line {'yes' if lm.style.direct_answer else 'no'}, letter by letter {lm.style.sub_token}"),
        (
            "scoring",
            f"P(Paris | The capital of France is) = {score.probability:.3f}" if isinstance(score, Score) else score.reason,
        ),
        ("cdr", f"layers {list(layers)}"),
        ("rocr", f"layers {list(redirection.layers)}, {_null_spaces(lm, redirection)}"),
        ("edit memory", f"{scratch / 2**20:,.1f} MB beside the model for the original weights while an edit is applied"),
    ]


def _null_spaces(lm: LM, config: RocrConfig) -> str:
    from formless.methods.rocr.redirect import load_projections
    from formless.methods.rocr.sampled import kept_folder

    if config.basis == "sampled" and not kept_folder(lm, config.layers, config.threshold).exists():
        return "null spaces of sampled texts, made at the first edit"
    try:
        load_projections(lm, config)
    except UserError as error:
        return f"null spaces missing: {error}"
    return "null spaces ready"
