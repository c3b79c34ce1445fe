"""The settings that every training method has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from formless.errors import UserError
from formless.methods.base import MAX_LAYER, Layers, MethodConfig

if TYPE_CHECKING:
    from formless.data.target import Target
    from formless.models.lm import LM
    from formless.models.meta import MetaModel

Retain = Literal["none", "ce", "kl", "activations"]


class TrainingConfig(MethodConfig):
    """The settings of every training method, named as in peft, TRL and transformers; the defaults are the paper's.

    Args:
        learning_rate: Peak learning rate, after the warm-up; usually 1e-5 to 1e-3.
        num_train_epochs: Passes over the training rows, usually 1 to 10.
        per_device_train_batch_size: Rows in one forward pass, usually 1 to 16.
        gradient_accumulation_steps: Forward passes per optimizer step, usually 1 to 8.
        warmup_steps: Steps until the peak learning rate; then it falls as a cosine to 0.
        max_length: Maximum number of tokens of a text; longer texts are truncated.
        trains_on: What is trained on: `texts`, the method's own file, of a question set also passages; `questions`, those of a
            question set; `auto`, the texts where there are any, else the questions.
        max_rows: Maximum number of rows, chosen by the seed; all rows if None.
        retain: Retain loss that is added to the forget loss: none, cross-entropy, KL divergence from the model before training,
            or the squared distance of a layer's activations from that model's.
        retain_weight: Weight of the retain loss.
        retain_rows: Retain set: `targets`, texts of other targets of the data set, of a question set its retain questions; or
            half of the neighbors, which the evaluation then leaves out.
        layer: Layer whose output a loss on activations compares; by default a quarter of the way up.
        full: Whether all weights are trained instead of an adapter; the edit is then as large as the model.
        r: Rank of the LoRA adapter, usually 4 to 64.
        lora_alpha: Scale of the adapter times its rank, usually `r` or `2 * r`.
        target_modules: Last parts of the trained projections' names; by default q_proj and v_proj, or the equivalent of the
            model's family.
        layers: Decoder layers that get an adapter, each once, in ascending order; all if None.
        weight_decay: Weight decay of AdamW.
        max_grad_norm: Norm to which longer gradients are clipped.
        seed: Seed of the adapter, of the choice of rows and of their order.
        report_to: Trackers that transformers knows and that are installed, e.g. wandb, mlflow, trackio.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        "epochs": "num_train_epochs",
        "batch": "per_device_train_batch_size",
        "accumulation": "gradient_accumulation_steps",
        "cutoff": "max_length",
        "rows": "max_rows",
        "rank": "r",
        "alpha": "lora_alpha",
        "modules": "target_modules",
    }

    moves_activations: ClassVar[bool] = False
    """Whether the forget loss is on a layer's activations."""

    learning_rate: float = Field(gt=0, le=1)
    num_train_epochs: int = Field(default=5, ge=1, le=100_000)
    per_device_train_batch_size: int = Field(default=8, ge=1, le=65_536)
    gradient_accumulation_steps: int = Field(default=2, ge=1, le=65_536)
    warmup_steps: int = Field(default=20, ge=0, le=10**9)
    max_length: int = Field(default=512, ge=2, le=10**9)
    trains_on: Literal["auto", "texts", "questions"] = "auto"
    max_rows: int | None = Field(default=None, ge=1, le=10**9)
    retain: Retain = "none"
    retain_weight: float = Field(default=1.0, gt=0, le=1e6)
    retain_rows: Literal["targets", "neighbors"] = "targets"
    layer: int | None = Field(default=None, ge=0, le=MAX_LAYER)
    full: bool = False
    r: int = Field(default=8, ge=1, le=65_536)
    lora_alpha: int = Field(default=16, ge=1, le=10**6)
    target_modules: tuple[str, ...] | None = Field(default=None, min_length=1)
    layers: Layers | None = None
    weight_decay: float = Field(default=0.0, ge=0, le=1e3)
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e9)
    seed: int = Field(default=42, ge=0, lt=2**32)
    report_to: tuple[str, ...] = ()

    @field_validator("report_to", "target_modules", "layers", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        """Accept a single value in place of a list with one value."""
        return (value,) if isinstance(value, str | int) else value

    def retains_questions(self, target: Target) -> bool:
        """Return whether the retain set is the retain questions of a question set."""
        return self.retain != "none" and self.retain_rows == "targets" and target.is_question_set

    def refuse_unused(self, given: Collection[str]) -> None:
        """Refuse settings of a retain loss or of the adapter in training without them.

        Raises:
            UserError: A setting has no effect.
        """
        unused = {name: "retain=ce, kl or activations" for name in ("retain_weight", "retain_rows") if self.retain == "none"}
        unused |= {name: "full=false" for name in ("r", "lora_alpha", "target_modules", "layers") if self.full}
        if self.retain != "activations" and not self.moves_activations:
            unused["layer"] = "retain=activations"
        for name in (self.renamed.get(name, name) for name in given):
            if name in unused:
                remedy = f"leave it out, or set {unused[name]}"
                raise UserError(f"{name} has no effect here", where=f"setting {name}", remedy=remedy)

    def check_model(self, model: LM | MetaModel) -> None:
        """Refuse a model without one of the layers or projections, or with projections smaller than the adapter.

        Raises:
            UserError: The model does not fit.
        """
        if self.layer is not None:
            model.architecture.layer(model.model, self.layer)
        if not self.full:
            from formless.methods.training.lora import lora_config

            lora_config(model, target_modules=self.target_modules, r=self.r, lora_alpha=self.lora_alpha, layers=self.layers)
        elif self.target_modules or self.layers:
            raise UserError("full training takes no target_modules or layers", where="full", remedy="leave them out")
