"""`AdapterEdit`: an edit made of low-rank updates, saved as an ordinary PEFT LoRA adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from peft import LoraConfig
from torch import Tensor
from torch.nn import functional

from formless import store
from formless.edits import verification
from formless.edits.edit import EditInfo, WeightEdit
from formless.errors import EditError
from formless.models.families import is_transposed
from formless.models.lm import LM
from formless.models.overlay import Factors, joined

PREFIX = "base_model.model."
"""What PEFT puts before the name of a module."""

K = TypeVar("K")


@dataclass(frozen=True, repr=False)
class AdapterEdit(WeightEdit[Factors]):
    """Low-rank updates by module name.

    Args:
        adapter: PEFT's description of them; its `lora_alpha` equals its `r`, so that the scale is 1.
    """

    adapter: LoraConfig

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write adapter_model.safetensors, adapter_config.json and edit.json, all or nothing.

        Raises:
            EditError: `info.layers` does not describe the updates.
            OutputError: The folder exists and `force` is not set, or it cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        for name, factors in self.updates.items():
            tensors[f"{PREFIX}{name}.lora_A.weight"] = factors.down
            tensors[f"{PREFIX}{name}.lora_B.weight"] = factors.up
        verification.check_updates(self.info, self.updates, "updates")
        with store.new_folder(Path(folder), mark=store.EditFolder.INFO, force=force) as new:
            files = store.EditFolder(new)
            store.write_tensors(files.weights, tensors, {"format": "pt"}, with_hash=False)
            self.adapter.save_pretrained(str(new))
            stated = verification.state_weights(files.weights, self.updates, files.adapter_config)
            self.info.model_copy(update={"weights": stated}).save(new)

    @classmethod
    def load(cls, folder: Path, info: EditInfo) -> AdapterEdit:
        """Read the adapter beside an edit.json, and compare the three files; the scale is multiplied into the factors.

        Raises:
            EditError: The files do not hold what was saved.
            FileNotFoundError: A file is missing.
        """
        files = store.EditFolder(folder)
        factors = verification.paired_factors(verification.read_tensors(files.weights), PREFIX, files.weights)
        verification.check_modules(info, factors, files.weights)
        if info.weights is not None:
            verification.check_stated(files.weights, info.weights, factors)
        settings = verification.check_adapter_config(files.adapter_config, info, factors)
        scale = settings.lora_alpha / settings.r
        updates = {name: Factors(scale * found.up.float(), found.down.float()) for name, found in factors.items()}
        verification.check_updates(info, updates, folder)
        adapter = LoraConfig.from_pretrained(str(folder))
        adapter.lora_alpha = adapter.r
        return cls(updates, info.model_copy(update={"weights": None}), adapter)

    def _summary(self) -> dict[str, str]:
        size = sum(factors.up.nbytes + factors.down.nbytes for factors in self.updates.values())
        return super()._summary() | {"size": f"{size / 1024:,.0f} KB"}


def of_one_rank(updates: Mapping[K, Factors]) -> dict[K, Factors]:
    """Fill updates up with ranks of zeros, since other tools read adapters of one rank only."""
    r = max(len(factors.down) for factors in updates.values())

    def filled(factors: Factors) -> Factors:
        missing = r - len(factors.down)
        return Factors(functional.pad(factors.up, (0, missing)), functional.pad(factors.down, (0, 0, 0, missing)))

    return {name: filled(factors) for name, factors in updates.items()}


def stack(earlier: AdapterEdit, new: Mapping[str, Factors]) -> dict[str, Factors]:
    """Join an earlier edit and new updates of the same modules into one update of each module.

    The ranks add up: those of the earlier edit come first.

    Args:
        earlier: The earlier edit.
        new: New updates by module name.

    Raises:
        EditError: The earlier edit lacks one of the modules.
    """
    if lacking := next((name for name in new if name not in earlier.updates), None):
        raise EditError("the edit to keep lacks a layer", where=lacking, remedy="compute it again")
    return joined({name: earlier.updates[name] for name in new}, new)


def exact_adapter(
    updates: Mapping[str, Factors], *, base: str | None, revision: str | None, fan_in_fan_out: bool
) -> LoraConfig:
    """Return PEFT's description of updates of one rank at scale 1, with the modules' whole names as its targets.

    Args:
        updates: By module name.
        base: Hub id or folder of the base model.
        revision: Its commit on the hub.
        fan_in_fan_out: Whether the projections' weights are transposed, as in GPT-2.
    """
    r = max(len(factors.down) for factors in updates.values())
    return LoraConfig(
        r=r,
        lora_alpha=r,
        lora_dropout=0.0,
        target_modules=sorted(updates),
        fan_in_fan_out=fan_in_fan_out,
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=base,
        revision=revision,
    )


def down_projection_adapter(lm: LM, layers: Sequence[int], r: int) -> LoraConfig:
    """Return PEFT's description of a rank-`r` update of the down-projections of some layers, at scale 1."""
    architecture = lm.architecture
    leaf = architecture.mlp_out.rsplit(".", 1)[-1]
    inside = [name for name, _ in architecture.layer(lm.model, layers[0]).named_modules() if name.rsplit(".", 1)[-1] == leaf]
    # GPT-2's attention has a c_proj too: only there the longer name is needed.
    module = leaf if len(inside) == 1 else architecture.mlp_out
    return LoraConfig(
        r=r,
        lora_alpha=r,
        lora_dropout=0.0,
        target_modules=[module],
        layers_to_transform=list(layers),
        layers_pattern=architecture.layers.rsplit(".", 1)[-1],
        fan_in_fan_out=is_transposed(architecture.down_projection(lm.model, layers[0])),
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=str(lm.model.config._name_or_path),
        revision=getattr(lm.model.config, "_commit_hash", None),
    )
