"""The only training loop: transformers' Trainer, quiet, on a LoRA adapter of the model that an `LM` holds."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from peft import PeftModel
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from formless.errors import EditError
from formless.methods.hyperparameters import TrainingConfig
from formless.methods.lora import adapted, factors_of, lora_config
from formless.methods.losses import IGNORED, token_log_probabilities
from formless.methods.views import Example
from formless.models.lm import LM
from formless.models.overlay import Factors

EXPLODED = 1e4
MOST_LOSSES = 100


@dataclass(frozen=True)
class Batch:
    """Log-probabilities of one batch of texts.

    Args:
        log_probabilities: Of every token that is a label somewhere in the batch, `[texts, tokens]`, 0 where it is none.
        labels: `[texts, tokens]`, `IGNORED` where there is none.
        reference: As `log_probabilities`, by the model without the adapter, where the objective needs it.

    Of pairs, the first half of the texts are the chosen responses and the second half the rejected ones.
    """

    log_probabilities: Tensor
    labels: Tensor
    reference: Tensor | None


@dataclass(frozen=True)
class Objective:
    """What to minimise.

    Args:
        loss: From a batch to a scalar.
        has_reference: Whether it compares with the model before training.
    """

    loss: Callable[[Batch], Tensor]
    has_reference: bool = False


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    Args:
        updates: By module name, float32 on the CPU, scale 1.
        losses: Mean loss of every step.
    """

    updates: dict[str, Factors]
    losses: list[float]

    @property
    def facts(self) -> dict[str, Any]:
        """What edit.json says about it; of many losses, evenly spread ones."""
        count = len(self.losses)
        shown = min(count, MOST_LOSSES)
        places = [i * (count - 1) // max(shown - 1, 1) for i in range(shown)]
        return {
            "steps": count, "first_loss": self.losses[0], "last_loss": self.losses[-1],
            "losses": [self.losses[place] for place in places],
        }  # fmt: skip


def train(lm: LM, examples: Sequence[Example], objective: Objective, config: TrainingConfig) -> Trained:
    """Train an adapter; the model is afterwards as before, whatever happens.

    Two trainings with one seed on one machine give the same adapter. Gradients of accumulated batches are averaged batch by
    batch, as the published code does. Dropout of the model itself stays off. The reference of an objective is the same model
    with the adapter off: there is no second copy of the weights.

    Raises:
        UserError: The model's layers have no such projections.
        EditError: The loss is NaN, infinite or beyond 10,000, no gradient reaches the adapter, nothing changes, memory runs
            out, or the model cannot be trained where it is.
    """
    adapter = lora_config(lm, modules=config.modules, rank=config.rank, alpha=config.alpha)
    adapter.base_model_name_or_path = None  # PEFT would warn that it puts the model's folder there
    with tempfile.TemporaryDirectory() as folder:
        arguments = _arguments(lm, config, folder)
        with adapted(lm, adapter, config.seed) as wrapped:
            watch = _Watch(lm.name)
            trainer = _Trainer(lm, objective, watch, wrapped, arguments, examples)
            try:
                trainer.train()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                    raise
                clear_device_cache(garbage_collection=True)
                remedy = f"halve batch ({config.batch}) and double accumulation ({config.accumulation}), or lower cutoff"
                raise EditError("memory runs out while training", where=lm.name, remedy=remedy) from error
            updates = factors_of(lm.model)
    if not any(bool(factors.up.any()) for factors in updates.values()):
        remedy = f"take fewer warm-up steps ({config.warmup_steps}), more epochs or a higher learning rate"
        raise EditError(f"{len(watch.losses)} steps changed nothing", where=lm.name, remedy=remedy)
    return Trained(updates, watch.losses)


def _arguments(lm: LM, config: TrainingConfig, folder: str) -> TrainingArguments:
    on_gpu = lm.device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=folder, num_train_epochs=config.epochs, learning_rate=config.learning_rate,
        per_device_train_batch_size=config.batch, gradient_accumulation_steps=config.accumulation,
        lr_scheduler_type="cosine", warmup_steps=config.warmup_steps, weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm, optim="adamw_torch", seed=config.seed, data_seed=config.seed,
        # The weights' own format; the adapter and its optimizer are float32 always.
        fp16=on_gpu and lm.model.dtype == torch.float16, bf16=on_gpu and lm.model.dtype == torch.bfloat16,
        use_cpu=lm.device.type == "cpu", dataloader_pin_memory=False, remove_unused_columns=False,
        save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    is_spread = getattr(lm.model, "hf_device_map", None) is not None
    place = arguments.device
    if not is_spread and (place.type, place.index or 0) != (lm.device.type, lm.device.index or 0):
        remedy = "make that device the only visible one (CUDA_VISIBLE_DEVICES)"
        raise EditError(f"training runs on {place}, the model is on {lm.device}", where=lm.name, remedy=remedy)
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several visible GPUs would each get a copy of the model
    return arguments


class _Examples(Dataset[Example]):
    """The rows, as the Trainer wants them."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


class _Watch(TrainerCallback):
    """Keeps the loss of every step and stops a training that fails.

    Args:
        name: The model's, for errors.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.losses: list[float] = []
        self._batches: list[float] = []

    def add(self, loss: float) -> None:
        """One more batch."""
        if not math.isfinite(loss) or abs(loss) > EXPLODED:
            what = f"the loss is {loss:.3g} at step {len(self.losses) + 1}"
            raise EditError(what, where=self.name, remedy="lower the learning rate, or check the data and the model's weights")
        self._batches.append(loss)

    def on_pre_optimizer_step(self, *_: Any, **now: Any) -> None:
        """Look for a gradient before the first step."""
        if self.losses:
            return
        gradients = [parameter.grad for parameter in now["model"].parameters() if parameter.requires_grad]
        if not any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            remedy = "choose other modules, or check the data"
            raise EditError("no gradient reaches the adapter", where=self.name, remedy=remedy)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The mean of a step's batches."""
        self.losses.append(sum(self._batches) / len(self._batches))
        self._batches = []


class _Trainer(Trainer):
    """Minimises an `Objective`."""

    loss_is_scaled_for_ga = False  # a batch's loss is a mean, which the Trainer divides by the batches of a step

    def __init__(
        self,
        lm: LM,
        objective: Objective,
        watch: _Watch,
        wrapped: PeftModel,
        arguments: TrainingArguments,
        examples: Sequence[Example],
    ) -> None:
        super().__init__(wrapped, arguments, train_dataset=_Examples(examples), data_collator=self._collate, callbacks=[watch])
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False  # older transformers tell by it alone who divides
        self._lm, self._objective, self._watch = lm, objective, watch

    def _collate(self, rows: list[Example]) -> dict[str, Tensor]:
        """Pad; of pairs, all chosen responses and then all rejected ones."""
        texts = [text for column in zip(*rows, strict=True) for text in column]
        batch = self._lm.pad([text.ids for text in texts])
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for i, text in enumerate(texts):
            labels[i, : len(text.labels)] = torch.tensor(text.labels)
        return batch | {"labels": labels}

    def compute_loss(self, model: Any, inputs: Mapping[str, Tensor], *_: Any, **__: Any) -> Any:
        """The loss of one batch."""
        model.eval()  # the Trainer's call of train() would switch the model's own dropout on, and the reference has none
        labels = inputs["labels"][:, 1:]  # [texts, seq - 1]: the token at place t is predicted at t - 1
        columns = (labels != IGNORED).any(0).nonzero()[:, 0].cpu()  # it may index states on whatever device the last layer is
        labels = labels[:, columns.to(labels.device)]  # [texts, tokens]
        texts = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}

        def log_probabilities() -> Tensor:
            logits = model(**texts, use_cache=False, logits_to_keep=columns).logits
            return token_log_probabilities(logits, labels.to(logits.device))

        reference = None
        if self._objective.has_reference:
            # Before the pass with gradients: switching the adapter off also switches its gradients off.
            with torch.no_grad(), self.accelerator.unwrap_model(model).disable_adapter():
                reference = log_probabilities()
        found = log_probabilities()
        loss = self._objective.loss(Batch(found, labels.to(found.device), reference))
        self._watch.add(float(loss.detach()))
        return loss
