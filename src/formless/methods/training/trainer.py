"""The only training loop: transformers' Trainer, quiet, on an adapter or on all weights of the model that an `LM` holds."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging as transformers_logging

from formless import store
from formless.errors import EditError, UserError
from formless.methods.training.collator import Forward, Objective, collate
from formless.methods.training.config import TrainingConfig
from formless.methods.training.lora import adapted, lora_config
from formless.methods.training.monitor import CURVES, Curves, Monitor, Watch
from formless.methods.training.preprocessing import Example, Text
from formless.methods.training.weights import Weights, unfrozen
from formless.models.lm import LM
from formless.models.overlay import Difference, Updates

IDENTITY = "training.json"


@dataclass(frozen=True)
class Retention:
    """What is to be kept meanwhile.

    Args:
        texts: One for each example.
        objective: Its loss.
        weight: Of the loss.
    """

    texts: Sequence[Text]
    objective: Objective
    weight: float


@dataclass(frozen=True)
class Checkpoints:
    """Where a training puts what it needs to go on after a kill.

    Args:
        folder: The folder; to be removed once what was learnt is saved.
        every: Steps between two checkpoints.
        identity: What is trained on what; a folder of another training is refused.
    """

    folder: Path
    every: int
    identity: str = ""


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    Args:
        updates: What was learnt, on the CPU.
        curves: Losses and probabilities on the way.
    """

    updates: Updates
    curves: Curves


def train(
    lm: LM,
    examples: Sequence[Example],
    objective: Objective,
    config: TrainingConfig,
    *,
    retention: Retention | None = None,
    monitor: Monitor | None = None,
    checkpoints: Checkpoints | None = None,
) -> Trained:
    """Train an adapter or all weights; the model is afterwards as before, whatever happens.

    Two trainings with one seed on one machine give the same result, also when one of them was killed and went on from a
    checkpoint. Gradients of accumulated batches are averaged batch by batch, as the published code does. Dropout of the model
    itself stays off. The reference of an objective is the same model with the adapter off, or with its original weights; where
    only log-probabilities of tokens are read, it reads every text once before the first step, not once an epoch.

    Raises:
        UserError: The model's layers have no such projections, or a tracker cannot be used.
        EditError: The loss is NaN, infinite or beyond 10,000 and a hundred times the first, no gradient reaches the weights,
            nothing changes, memory runs out, the model cannot be trained where it is, several processes train it, or the
            checkpoints are another training's or damaged.
    """
    _refuse_surroundings(lm, config)
    watch, dtype = Watch(lm, monitor), lm.model.dtype
    with _weights(lm, config) as weights, _folder(checkpoints) as folder, _quiet():
        arguments = _arguments(lm, config, dtype, folder, checkpoints)
        try:
            trainer = _Trainer(lm, objective, retention, watch, weights, arguments, examples)
        except (RuntimeError, ValueError) as error:
            if not config.report_to:
                raise
            raise UserError(str(error).splitlines()[0], where="report_to", remedy="install it, or leave it out") from error
        start = _last_checkpoint(folder)
        if start:
            with _reading(start):
                watch.resume(start)
                TrainerState.load_from_json(str(start / TRAINER_STATE_NAME))
        try:
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                raise
            clear_device_cache(garbage_collection=True)
            remedy = f"halve batch ({config.batch}) and double accumulation ({config.accumulation}), or lower cutoff"
            raise EditError("memory runs out while training", where=lm.name, remedy=remedy) from error
        updates = weights.updates()
    if not any(bool((change.values if isinstance(change, Difference) else change.up).any()) for change in updates.values()):
        remedy = f"take fewer warm-up steps ({config.warmup_steps}), more epochs or a higher learning rate"
        raise EditError(f"{len(watch.curves.losses)} steps changed nothing", where=lm.name, remedy=remedy)
    return Trained(updates, watch.curves)


def _refuse_surroundings(lm: LM, config: TrainingConfig) -> None:
    """Stop where several processes train one model, or a tracker would write into a folder that is removed."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        remedy = "start it without torchrun or accelerate; `formless run --gpu 0,1` trains on several GPUs at once"
        raise EditError("a training is one process", where=lm.name, remedy=remedy)
    if "tensorboard" in config.report_to and "TENSORBOARD_LOGGING_DIR" not in os.environ:
        remedy = "set TENSORBOARD_LOGGING_DIR to a folder of yours"
        raise UserError("tensorboard would write into a folder that is removed", where="report_to", remedy=remedy)


@contextmanager
def _weights(lm: LM, config: TrainingConfig) -> Iterator[Weights]:
    if config.full:
        with unfrozen(lm, config.seed) as all_weights:
            yield all_weights
        return
    adapter = lora_config(lm, modules=config.modules, rank=config.rank, alpha=config.alpha, layers=config.layers)
    adapter.base_model_name_or_path = None  # PEFT would warn that it puts the model's folder there
    with adapted(lm, adapter, config.seed) as wrapped:
        yield wrapped


@contextmanager
def _folder(checkpoints: Checkpoints | None) -> Iterator[Path]:
    """Where the Trainer may write: a folder for checkpoints, which stays, or one that goes when the training is done."""
    if checkpoints is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    identity = checkpoints.folder / IDENTITY
    is_other = identity.exists() and identity.read_text("utf-8") != checkpoints.identity
    if is_other and _last_checkpoint(checkpoints.folder):
        remedy = "repeat its settings, or delete that folder"
        raise EditError("an unfinished training of something else is in the way", where=checkpoints.folder, remedy=remedy)
    store.write_text(identity, checkpoints.identity)
    yield checkpoints.folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars and remarks of transformers about checkpoints; errors are raised anyway."""
    verbosity, shows_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shows_bars:
            transformers_logging.enable_progress_bar()


def _last_checkpoint(folder: Path) -> Path | None:
    """The latest whole one; one that a kill cut short is removed, so that the Trainer never meets it."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for broken in [path for path in found if not (path / CURVES).exists()]:
        shutil.rmtree(broken)
    return next((path for path in reversed(found) if path.exists()), None)


@contextmanager
def _reading(checkpoint: str | Path | None) -> Iterator[None]:
    """One line for whatever the readers of a damaged file raise."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # readers of weights, states and JSON raise whatever they like
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise EditError(f"the checkpoint cannot be read: {reason}", where=checkpoint, remedy="delete it") from error


def _arguments(
    lm: LM, config: TrainingConfig, dtype: torch.dtype, folder: Path, checkpoints: Checkpoints | None
) -> TrainingArguments:
    on_gpu = lm.device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=config.epochs, learning_rate=config.learning_rate,
        per_device_train_batch_size=config.batch, gradient_accumulation_steps=config.accumulation,
        lr_scheduler_type="cosine", warmup_steps=config.warmup_steps, weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm, optim="adamw_torch", seed=config.seed, data_seed=config.seed,
        # The weights' own format; what learns and its optimizer are float32 always.
        fp16=on_gpu and dtype == torch.float16, bf16=on_gpu and dtype == torch.bfloat16,
        use_cpu=lm.device.type == "cpu", dataloader_pin_memory=False, remove_unused_columns=False,
        save_strategy="steps" if checkpoints else "no", save_steps=checkpoints.every if checkpoints else 1,
        save_total_limit=2, logging_strategy="steps" if config.report_to else "no", logging_steps=1,
        report_to=list(config.report_to) or "none", disable_tqdm=True,
    )  # fmt: skip
    is_spread = getattr(lm.model, "hf_device_map", None) is not None
    place = arguments.device
    if not is_spread and (place.type, place.index or 0) != (lm.device.type, lm.device.index or 0):
        remedy = "make that device the only visible one (CUDA_VISIBLE_DEVICES)"
        raise EditError(f"training runs on {place}, the model is on {lm.device}", where=lm.name, remedy=remedy)
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several visible GPUs would each get a copy of the model
    return arguments


_Row = tuple[int, Example, Text | None]


class _Rows(Dataset[_Row]):
    """The rows by number, each with the text that is to be kept beside it."""

    def __init__(self, examples: Sequence[Example], kept: Sequence[Text] | None) -> None:
        self._examples, self._kept = examples, kept

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> _Row:
        return index, self._examples[index], self._kept[index] if self._kept else None


class _Trainer(Trainer):
    """Minimises an `Objective`, and that of what is kept beside it."""

    loss_is_scaled_for_ga = False  # a batch's loss is a mean, which the Trainer divides by the batches of a step

    def __init__(
        self,
        lm: LM,
        objective: Objective,
        retention: Retention | None,
        watch: Watch,
        weights: Weights,
        arguments: TrainingArguments,
        examples: Sequence[Example],
    ) -> None:
        rows = _Rows(examples, retention.texts if retention else None)
        super().__init__(weights.module, arguments, train_dataset=rows, data_collator=self._collate, callbacks=[watch])
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False  # older transformers tell by it alone who divides
        self._lm, self._objective, self._retention, self._watch, self._weights = lm, objective, retention, watch, weights
        self._examples = examples
        self._before: dict[tuple[int, int], Tensor] = {}

    def _load_from_checkpoint(self, *checkpoint: Any, **more: Any) -> None:
        with _reading(checkpoint[0]):
            super()._load_from_checkpoint(*checkpoint, **more)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _reading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _collate(self, rows: list[_Row]) -> dict[str, Any]:
        """Pad; of pairs, all chosen responses and then all rejected ones."""
        texts = [text for column in zip(*(example for _, example, _ in rows), strict=True) for text in column]
        kept = [text for _, _, text in rows if text]
        numbers = {"rows": torch.tensor([number for number, _, _ in rows])}
        return collate(self._lm, texts) | numbers | ({"retain": collate(self._lm, kept)} if kept else {})

    def compute_loss(self, model: Any, inputs: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        """The loss of one batch."""
        model.eval()  # the Trainer's call of train() would switch the model's own dropout on, and the reference has none
        parts = [(Forward(self._lm, self._objective, inputs), 1.0)]
        if self._retention:
            parts.append((Forward(self._lm, self._retention.objective, inputs["retain"]), self._retention.weight))
        references: list[Tensor | None] = [None] * len(parts)
        if any(part.objective.has_reference for part, _ in parts):
            # Before the pass with gradients: switching the adapter off also switches its gradients off.
            with torch.no_grad(), self._weights.reference():
                references = [self._reference(model, part, inputs["rows"]) for part, _ in parts]
        losses = [
            weight * part.loss(part.read(model), reference) for (part, weight), reference in zip(parts, references, strict=True)
        ]
        loss = torch.stack([found.to(losses[0].device) for found in losses]).sum()
        self._watch.add(float(loss.detach()))
        return loss

    def _reference(self, model: Any, part: Forward, rows: Tensor) -> Tensor | None:
        """What the model before training, which `model` is now, gives for a batch."""
        if not part.objective.has_reference:
            return None
        if part.objective is not self._objective or part.objective.reads != "tokens":
            return part.read(model)  # too large to be kept for every text
        self._before = self._before or self._read_all(model)
        columns = range(len(self._examples[0]))
        return part.together([self._before[number, column] for column in columns for number in rows.tolist()])

    def _read_all(self, model: Any) -> dict[tuple[int, int], Tensor]:
        """By row and column, log-probabilities of each text's labels; always in the same batches, also after a kill."""
        found: dict[tuple[int, int], Tensor] = {}
        texts = {(row, column): text for row, example in enumerate(self._examples) for column, text in enumerate(example)}
        order = sorted(texts, key=lambda place: -len(texts[place].ids))
        size = self.args.per_device_train_batch_size * len(self._examples[0])
        for places in (order[start : start + size] for start in range(0, len(order), size)):
            forward = Forward(self._lm, self._objective, collate(self._lm, [texts[place] for place in places]))
            found |= dict(zip(places, forward.apart(forward.read(model)), strict=True))
        return found
