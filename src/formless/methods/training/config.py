"""The settings that every training method has."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pydantic import Field, field_validator

from formless.errors import UserError
from formless.methods.base import MethodConfig


class TrainingConfig(MethodConfig):
    """What every training method has; the defaults are the paper's.

    Args:
        learning_rate: The highest, reached after the warm-up; usually 1e-5 to 1e-3.
        epochs: Passes over the rows, usually 1 to 10.
        batch: Rows in one forward pass.
        accumulation: So many passes make one step.
        warmup_steps: Steps until the learning rate is reached; then it falls as a cosine to 0.
        cutoff: At most so many tokens a text; the rest is cut.
        rows: At most so many rows, a choice by the seed; all unless given.
        retain: A loss on texts to be kept, added to the method's own: cross-entropy, KL divergence from the model before
            training, or the squared distance of a layer's activations from that model's.
        retain_weight: Its weight.
        retain_rows: Texts of other targets of the data set, or half of the neighbors, which the evaluation then leaves out.
        layer: Of losses on activations: the layer whose output they compare; by default a quarter of the way up.
        full: Train all weights instead of an adapter; the edit is then as large as the model.
        rank: Of the LoRA adapter, usually 4 to 64.
        alpha: Its scale times the rank, usually once or twice the rank.
        modules: Last parts of the trained projections' names: q_proj and v_proj, or what the family has in their place.
        layers: Only these decoder layers get an adapter; all unless given.
        weight_decay: Of AdamW.
        max_grad_norm: Longer gradients are shortened to it.
        seed: Of the adapter, the choice of rows and their order.
        report_to: Trackers that transformers knows and that are installed, e.g. wandb, mlflow, trackio.
    """

    learning_rate: float = Field(gt=0, le=1)
    epochs: int = Field(default=5, ge=1)
    batch: int = Field(default=8, ge=1)
    accumulation: int = Field(default=2, ge=1)
    warmup_steps: int = Field(default=20, ge=0)
    cutoff: int = Field(default=512, ge=2)
    rows: int | None = Field(default=None, ge=1)
    retain: Literal["none", "ce", "kl", "activations"] = "none"
    retain_weight: float = Field(default=1.0, gt=0)
    retain_rows: Literal["targets", "neighbors"] = "targets"
    layer: int | None = Field(default=None, ge=0)
    full: bool = False
    rank: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)
    modules: tuple[str, ...] | None = Field(default=None, min_length=1)
    layers: tuple[int, ...] | None = Field(default=None, min_length=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    seed: int = Field(default=42, ge=0, lt=2**32)
    report_to: tuple[str, ...] = ()

    @field_validator("report_to", "modules", "layers", mode="before")
    @classmethod
    def _alone(cls, value: object) -> object:
        """One value stands for a list of it."""
        return (value,) if isinstance(value, str | int) else value

    def refuse_idle(self, given: Collection[str]) -> None:
        """See `MethodConfig`."""
        idle = {name: "retain" for name in ("retain_weight", "retain_rows") if self.retain == "none"}
        idle |= {name: "full=false" for name in ("rank", "alpha", "modules", "layers") if self.full}
        for name in given:
            if name in idle:
                remedy = f"leave it out, or set {idle[name]}" + ("=ce, kl or activations" if idle[name] == "retain" else "")
                raise UserError(f"{name} has no effect here", where=f"setting {name}", remedy=remedy)
