"""The only training loop: transformers' Trainer, quiet, on an adapter or on all weights of the model that an `LM` holds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging as transformers_logging

from formless import store
from formless.errors import EditError, UserError
from formless.methods.training.collator import DataCollatorForUnlearning, ForwardPass, Objective, TrainingRow, pad_texts
from formless.methods.training.config import TrainingConfig
from formless.methods.training.lora import adapted, lora_config
from formless.methods.training.monitor import MonitorCallback, MonitoredTexts, SnapshotCallback, TrainingCurves
from formless.methods.training.preprocessing import Example, TokenizedText
from formless.methods.training.weights import Weights, unfrozen
from formless.models.lm import LM
from formless.models.overlay import Difference, Updates
from formless.progress import Progress


@dataclass(frozen=True)
class RetainLoss:
    """A loss on the retain set, added to the forget loss.

    Args:
        texts: At least one text for each example; of more, each epoch takes the next ones in turn.
        objective: The loss.
        weight: Its weight.
    """

    texts: Sequence[TokenizedText]
    objective: Objective
    weight: float


@dataclass(frozen=True)
class Checkpoints:
    """Where a training run writes checkpoints, from which it is resumed after a kill.

    Args:
        folder: The folder; the caller removes it once the result is saved.
        save_steps: Steps between two checkpoints.
        identity: A digest of method, data and model; a folder of another training run is refused.
    """

    folder: Path
    save_steps: int
    identity: str = ""


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Args:
        updates: What was learned, on the CPU.
        curves: Losses and probabilities during the run.
        snapshots: Step -> what had been learned after it, of the steps that were asked for.
    """

    updates: Updates
    curves: TrainingCurves
    snapshots: Mapping[int, Updates] = field(default_factory=dict)


def train(
    lm: LM,
    examples: Sequence[Example],
    objective: Objective,
    config: TrainingConfig,
    *,
    retain_loss: RetainLoss | None = None,
    monitored: MonitoredTexts | None = None,
    checkpoints: Checkpoints | None = None,
    snapshots_after: Collection[int] = (),
    report: Progress | None = None,
) -> TrainingResult:
    """Train an adapter or all weights; afterwards the model is as before, whatever happens.

    Two training runs with one seed on one machine give the same result, also if one of them was killed and resumed from a
    checkpoint. Gradients of accumulated batches are averaged batch by batch, as the published code does. Dropout of the model
    itself stays off. The reference of an objective is the same model with the adapter disabled, or with its original weights.
    If the loss is computed from log-probabilities, the reference scores every text once before the first step, not once per
    epoch.

    Args:
        lm: The model.
        examples: The training rows.
        objective: The forget loss.
        config: The settings.
        retain_loss: A loss on the retain set.
        monitored: Texts whose probability is measured during training.
        checkpoints: Where to write checkpoints, and to resume from.
        snapshots_after: Steps after which the updates are kept, each as large as the result.
        report: Progress callback, called after every step.

    Raises:
        UserError: The model's layers have no such projections, or a tracker cannot be used.
        EditError: The only step has a learning rate of 0, the loss is NaN, infinite or beyond 10,000 and a hundred times the
            first, no gradient reaches the weights, nothing changes, memory runs out, the model cannot be trained where it is,
            several processes train it, or the checkpoints are damaged or of another training run.
    """
    _check_environment(lm, config)
    _refuse_idle_training(lm, len(examples), config)
    monitor, dtype = MonitorCallback(lm, monitored, report), lm.model.dtype
    with _trainable_weights(lm, config) as weights, _output_folder(checkpoints) as folder, _quiet():
        arguments = _arguments(lm, config, dtype, folder, checkpoints)
        try:
            trainer = _UnlearningTrainer(lm, objective, retain_loss, monitor, weights, arguments, examples)
        except (RuntimeError, ValueError) as error:
            if not config.report_to:
                raise
            raise UserError(str(error).splitlines()[0], where="report_to", remedy="install it, or leave it out") from error
        snapshots = SnapshotCallback(weights, snapshots_after)
        trainer.add_callback(snapshots)
        start = _last_checkpoint(folder)
        if start:
            with _checkpoint_errors(start):
                monitor.resume(start)
                TrainerState.load_from_json(str(start / TRAINER_STATE_NAME))
        try:
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                raise
            clear_device_cache(garbage_collection=True)
            batch, steps = config.per_device_train_batch_size, config.gradient_accumulation_steps
            halve = f"halve per_device_train_batch_size ({batch}) and double gradient_accumulation_steps ({steps})"
            remedy = f"{halve}, or lower max_length"
            raise EditError("memory runs out while training", where=lm.name, remedy=remedy) from error
        updates = weights.updates()
    if not any(bool((change.values if isinstance(change, Difference) else change.up).any()) for change in updates.values()):
        remedy = f"take fewer warm-up steps ({config.warmup_steps}), more epochs or a higher learning rate"
        raise EditError(f"{len(monitor.curves.losses)} steps changed nothing", where=lm.name, remedy=remedy)
    return TrainingResult(updates, monitor.curves, snapshots.found)


def _refuse_idle_training(lm: LM, rows: int, config: TrainingConfig) -> None:
    """Refuse a run of one step that warms up: the learning rate begins at 0, so nothing would change."""
    batch, accumulated = config.per_device_train_batch_size, config.gradient_accumulation_steps
    steps = config.num_train_epochs * ceil(ceil(rows / batch) / accumulated)
    if steps == 1 and config.warmup_steps:
        what = (
            f"{rows} row{'s' * (rows != 1)} in batches of {batch}, {accumulated} per step, make one step, "
            "and the warm-up begins with a learning rate of 0"
        )
        remedy = "set warmup_steps=0, or take more epochs, more rows or smaller batches"
        raise EditError(what, where=lm.name, remedy=remedy)


def _check_environment(lm: LM, config: TrainingConfig) -> None:
    """Refuse several processes for one model, and a tracker that would write into a folder which is removed."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        remedy = "start it without torchrun or accelerate; `formless run --gpu 0,1` trains on several GPUs at once"
        raise EditError("a training run is one process", where=lm.name, remedy=remedy)
    if "tensorboard" in config.report_to and "TENSORBOARD_LOGGING_DIR" not in os.environ:
        remedy = "set TENSORBOARD_LOGGING_DIR to a folder of yours"
        raise UserError("tensorboard would write into a folder that is removed", where="report_to", remedy=remedy)


@contextmanager
def _trainable_weights(lm: LM, config: TrainingConfig) -> Iterator[Weights]:
    if config.full:
        with unfrozen(lm, config.seed) as all_weights:
            yield all_weights
        return
    adapter = lora_config(
        lm, target_modules=config.target_modules, r=config.r, lora_alpha=config.lora_alpha, layers=config.layers
    )
    adapter.base_model_name_or_path = None  # PEFT would warn that it writes the model's folder there
    with adapted(lm, adapter, config.seed) as wrapped:
        yield wrapped


@contextmanager
def _output_folder(checkpoints: Checkpoints | None) -> Iterator[Path]:
    """Yield the Trainer's output folder: the one for checkpoints, which stays, or a temporary one."""
    if checkpoints is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    identity = store.CheckpointsFolder(checkpoints.folder).identity
    is_other = not identity.is_file() or identity.read_bytes() != checkpoints.identity.encode()
    if is_other and _last_checkpoint(checkpoints.folder):
        remedy = "repeat its settings, or delete that folder"
        raise EditError("an unfinished training run of something else is in the way", where=checkpoints.folder, remedy=remedy)
    store.write_text(identity, checkpoints.identity)
    yield checkpoints.folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch off progress bars and messages of transformers inside the block; errors are raised anyway."""
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
    """Return the latest complete checkpoint; incomplete ones are removed, so that the Trainer never reads them."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for broken in [path for path in found if not store.CheckpointsFolder.curves(path).exists()]:
        store.remove_folder(broken)
    return next((path for path in reversed(found) if path.exists()), None)


@contextmanager
def _checkpoint_errors(checkpoint: str | Path | None) -> Iterator[None]:
    """Turn whatever the readers of a damaged checkpoint raise into one error."""
    try:
        yield
    except (torch.OutOfMemoryError, EditError):
        raise
    except Exception as error:  # readers of weights, states and JSON raise whatever they like
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise EditError(f"the checkpoint cannot be read: {reason}", where=checkpoint, remedy="delete it") from error


def _arguments(
    lm: LM, config: TrainingConfig, dtype: torch.dtype, folder: Path, checkpoints: Checkpoints | None
) -> TrainingArguments:
    on_gpu = lm.device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=config.num_train_epochs, learning_rate=config.learning_rate,
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        lr_scheduler_type="cosine", warmup_steps=config.warmup_steps, weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm, optim="adamw_torch", seed=config.seed, data_seed=config.seed,
        # The weights' own dtype; trainable weights and the optimizer's states are always float32.
        fp16=on_gpu and dtype == torch.float16, bf16=dtype == torch.bfloat16 and (on_gpu or _cpu_has_bfloat16()),
        use_cpu=lm.device.type == "cpu", dataloader_pin_memory=False, remove_unused_columns=False,
        save_strategy="steps" if checkpoints else "no", save_steps=checkpoints.save_steps if checkpoints else 1,
        save_total_limit=2, logging_strategy="steps" if config.report_to else "no", logging_steps=1,
        report_to=list(config.report_to) or "none", disable_tqdm=True,
        logging_nan_inf_filter=False,  # the monitor stops at such a loss; this would ask the device twice more per batch
    )  # fmt: skip
    is_spread = getattr(lm.model, "hf_device_map", None) is not None
    place = arguments.device
    if not is_spread and (place.type, place.index or 0) != (lm.device.type, lm.device.index or 0):
        remedy = "make that device the only visible one (CUDA_VISIBLE_DEVICES)"
        raise EditError(f"training runs on {place}, the model is on {lm.device}", where=lm.name, remedy=remedy)
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several visible GPUs would each get a copy of the model
    return arguments


def _cpu_has_bfloat16() -> bool:
    """Return whether the processor multiplies in bfloat16; false where torch is too old to tell."""
    found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


class _TrainingRows(Dataset[TrainingRow]):
    """The examples by number, each with a text of the retain set beside it, in every epoch the next one."""

    def __init__(self, examples: Sequence[Example], retain: Sequence[TokenizedText] | None) -> None:
        self._examples, self._retain, self.epoch = examples, retain, 0

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> TrainingRow:
        if not self._retain:
            return index, self._examples[index], None
        return index, self._examples[index], self._retain[(self.epoch * len(self) + index) % len(self._retain)]


class _EpochCallback(TrainerCallback):
    """Tells the rows which epoch begins or, after a kill, goes on: accelerate's loader does not tell it in the second case."""

    def __init__(self, rows: _TrainingRows) -> None:
        self._rows = rows

    def on_epoch_begin(self, *now: Any, **_: Any) -> None:
        """Take the whole epochs that are done."""
        state: TrainerState = now[1]
        self._rows.epoch = int(state.epoch or 0)


class _UnlearningTrainer(Trainer):
    """Minimises the forget loss plus the weighted retain loss."""

    loss_is_scaled_for_ga = False  # a batch's loss is a mean; the Trainer divides it by the number of batches per step

    def __init__(
        self,
        lm: LM,
        objective: Objective,
        retain_loss: RetainLoss | None,
        monitor: MonitorCallback,
        weights: Weights,
        arguments: TrainingArguments,
        examples: Sequence[Example],
    ) -> None:
        rows = _TrainingRows(examples, retain_loss.texts if retain_loss else None)
        collator = DataCollatorForUnlearning(lm)
        callbacks = [monitor, _EpochCallback(rows)]
        super().__init__(weights.module, arguments, train_dataset=rows, data_collator=collator, callbacks=callbacks)
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False  # older transformers versions decide by it who divides
        self._lm, self._objective, self._retain_loss = lm, objective, retain_loss
        self._monitor, self._weights, self._examples = monitor, weights, examples
        self._references: dict[tuple[int, int], Tensor] = {}

    def _load_from_checkpoint(self, *checkpoint: Any, **more: Any) -> None:
        with _checkpoint_errors(checkpoint[0]):
            super()._load_from_checkpoint(*checkpoint, **more)

    def _save_checkpoint(self, *arguments: Any, **more: Any) -> None:
        with store.output_errors(Path(self.args.output_dir or ".")):
            super()._save_checkpoint(*arguments, **more)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _checkpoint_errors(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _checkpoint_errors(checkpoint):
            super()._load_rng_state(checkpoint)

    def compute_loss(self, model: Any, inputs: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        """Compute the loss of one batch."""
        model.eval()  # train(), which the Trainer calls, would switch on the model's own dropout; the reference has none
        parts = [(ForwardPass(self._lm, self._objective, inputs), 1.0)]
        if self._retain_loss:
            parts.append((ForwardPass(self._lm, self._retain_loss.objective, inputs["retain"]), self._retain_loss.weight))
        references: list[Tensor | None] = [None] * len(parts)
        if any(part.objective.needs_reference for part, _ in parts):
            # Before the pass with gradients: disabling the adapter also disables its gradients.
            with torch.no_grad(), self._weights.reference():
                references = [self._reference(model, part, inputs["rows"]) for part, _ in parts]
        losses = [
            weight * part.loss(part.run(model), reference) for (part, weight), reference in zip(parts, references, strict=True)
        ]
        loss = torch.stack([found.to(losses[0].device) for found in losses]).sum()
        self._monitor.add_loss(float(loss.detach()))
        return loss

    def _reference(self, model: Any, part: ForwardPass, rows: Tensor) -> Tensor | None:
        """Compute the outputs of the model before training, which `model` is now, for a batch."""
        if not part.objective.needs_reference:
            return None
        if part.objective is not self._objective or part.objective.loss_input != "log_probabilities":
            return part.run(model)  # too large to be kept for every text
        self._references = self._references or self._all_references(model)
        columns, numbers = range(len(self._examples[0])), rows.tolist()
        return part.pad([self._references[number, column] for column in columns for number in numbers])

    def _all_references(self, model: Any) -> dict[tuple[int, int], Tensor]:
        """Compute log-probabilities of each text's labels, by row and column; in the same batches also after a kill."""
        found: dict[tuple[int, int], Tensor] = {}
        texts = {(row, column): text for row, example in enumerate(self._examples) for column, text in enumerate(example)}
        order = sorted(texts, key=lambda place: -len(texts[place].ids))
        size = self.args.per_device_train_batch_size * len(self._examples[0])
        for places in (order[start : start + size] for start in range(0, len(order), size)):
            forward = ForwardPass(self._lm, self._objective, pad_texts(self._lm, [texts[place] for place in places]))
            found |= dict(zip(places, forward.unpad(forward.run(model)), strict=True))
        return found
