"""`AdapterEdit`: an edit made of low-rank updates, saved as an ordinary PEFT LoRA adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from formless import provenance, store
from formless.edits.difference import DIFFERENCES, DifferenceEdit
from formless.edits.edit import INFO, Edit, EditInfo, LayerReport, WeightEdit
from formless.edits.prompt import PromptEdit
from formless.errors import EditError
from formless.models.families import is_transposed
from formless.models.lm import LM
from formless.models.overlay import Difference, Factors

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class AdapterEdit(WeightEdit[Factors]):
    """Low-rank updates by module name.

    Args:
        adapter: How PEFT is to apply them; its alpha equals its rank, so that the scale is 1.
    """

    adapter: LoraConfig

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write adapter_model.safetensors, adapter_config.json and edit.json, all or nothing.

        Raises:
            OutputError: The folder exists and `force` is not set, or it cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        for name, factors in self.updates.items():
            tensors[f"{_PREFIX}{name}.lora_A.weight"] = factors.down
            tensors[f"{_PREFIX}{name}.lora_B.weight"] = factors.up
        with store.new_folder(Path(folder), mark=INFO, force=force) as new:
            store.write_tensors(new / WEIGHTS, tensors, {"format": "pt"})
            self.adapter.save_pretrained(str(new))
            store.write_text(new / INFO, self.info.model_dump_json(indent=2) + "\n")


def load_edit(folder: str | Path) -> Edit:
    """Read a saved edit, of the weights or of the prompt; no pickled file is ever opened.

    Raises:
        EditError: The folder holds no complete edit.
    """
    folder = Path(folder)
    remedy = "give a folder that `formless unlearn --out` wrote"
    try:
        info = EditInfo.model_validate_json((folder / INFO).read_text("utf-8"))
        if info.prefix is not None:
            return PromptEdit(info, info.prefix)
        if (folder / DIFFERENCES).exists():
            tensors = load_file(folder / DIFFERENCES)
            return DifferenceEdit({name: Difference(tensor) for name, tensor in tensors.items()}, info)
        tensors = load_file(folder / WEIGHTS)
        (folder / CONFIG).stat()  # PEFT would ask the hub for a folder that lacks it
        adapter = LoraConfig.from_pretrained(str(folder))
        scale = adapter.lora_alpha / adapter.r
        updates = {
            key.removeprefix(_PREFIX).removesuffix(".lora_A.weight"): Factors(
                scale * tensors[key.replace(".lora_A.", ".lora_B.")].float(), tensor.float()
            )
            for key, tensor in tensors.items()
            if key.endswith(".lora_A.weight")
        }
        adapter.lora_alpha = adapter.r  # the scale is in the factors now
        if not updates:
            raise ValueError("it holds no LoRA factors")
    except FileNotFoundError as error:
        raise EditError("the edit lacks a file", where=error.filename or folder, remedy=remedy) from error
    except (OSError, ValidationError, ValueError, TypeError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise EditError(f"the edit cannot be read: {reason}", where=folder, remedy=remedy) from error
    return AdapterEdit(updates, info, adapter)


def down_projection_adapter(lm: LM, layers: list[int], rank: int) -> LoraConfig:
    """PEFT's description of a rank-`rank` update of the down-projections of some layers, at scale 1."""
    architecture = lm.architecture
    leaf = architecture.mlp_out.rsplit(".", 1)[-1]
    inside = [name for name, _ in architecture.layer(lm.model, layers[0]).named_modules() if name.rsplit(".", 1)[-1] == leaf]
    # GPT-2's attention has a c_proj too: only there the longer name is needed.
    module = leaf if len(inside) == 1 else architecture.mlp_out
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules=[module],
        layers_to_transform=layers,
        layers_pattern=architecture.layers.rsplit(".", 1)[-1],
        fan_in_fan_out=is_transposed(architecture.down_projection(lm.model, layers[0])),
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=str(lm.model.config._name_or_path),
        revision=getattr(lm.model.config, "_commit_hash", None),
    )


def layer_report(lm: LM, name: str, change: Factors | Difference) -> LayerReport:
    """Norms of one update, in float32.

    Raises:
        EditError: The update or the weight holds NaN or infinity.
    """
    weight = lm.model.get_parameter(f"{name}.weight" if isinstance(change, Factors) else name).detach()
    if isinstance(change, Factors):
        update, rank = change.dense(), len(change.down)
    else:
        update, rank = change.values, min(change.values.shape) if change.values.dim() > 1 else 1
    norms = [float(torch.linalg.norm(update.float())), float(torch.linalg.norm(weight.float()))]
    for norm, what in zip(norms, ("update", "weight"), strict=True):
        if not torch.isfinite(torch.tensor(norm)):
            raise EditError(f"the {what} is not finite", where=name, remedy="check the model's weights and dtype")
    return LayerReport(module=name, rank=rank, update_norm=norms[0], relative_norm=norms[0] / max(norms[1], 1e-30))


def edit_info(
    lm: LM,
    method: str,
    subject: str,
    config: BaseModel,
    seconds: float,
    *,
    layers: list[LayerReport],
    facts: dict[str, Any],
    seed: int | None = None,
    prefix: str | None = None,
) -> EditInfo:
    """The provenance of an edit of `lm`."""
    return EditInfo(
        method=method, subject=subject, config=config.model_dump(mode="json"), seed=seed,
        model=lm.name, model_source=lm.settings.source,
        model_revision=getattr(lm.model.config, "_commit_hash", None), model_fingerprint=lm.fingerprint,
        dtype=str(lm.model.dtype).removeprefix("torch."), prefix=prefix, layers=layers, facts=facts, seconds=seconds,
        created=provenance.now(), versions=provenance.versions(),
    )  # fmt: skip
