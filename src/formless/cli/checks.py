"""What `formless doctor` finds out about a model, a method and this machine, from configurations, shapes and the tokenizer."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from formless import store
from formless.edits.edit import Edit, refuse_other_shapes
from formless.edits.foreign import ForeignAdapter, WholeModel
from formless.edits.loading import load_edit
from formless.errors import EditError, UserError
from formless.methods.base import MethodConfig
from formless.methods.direction.config import DirectionConfig
from formless.methods.duration import Speed, estimate_tokens, measure_speed
from formless.methods.memory import MemoryEstimate, estimate_memory
from formless.methods.registry import method_config
from formless.methods.rocr.config import RocrConfig
from formless.methods.rocr.sampled import EIGEN_SECONDS, SAMPLES
from formless.methods.training.config import TrainingConfig
from formless.models.families import projection_shape
from formless.models.meta import MetaModel, load_meta, load_tokenizer, stored_fingerprint
from formless.models.quantized import quantization_of
from formless.models.reading.memory import free_memory
from formless.models.reading.placement import DTYPES, find_device
from formless.models.sampled_texts import LENGTH, SAMPLED
from formless.models.settings import BUNDLED, default_style
from formless.models.tokenized import TokenizedModel
from formless.progress import Progress

if TYPE_CHECKING:
    from formless.models.lm import LM

_GB = 2**30
_FEW = 2**30
"""Less free disk than this is a problem."""


@dataclass(frozen=True)
class Finding:
    """One line.

    Args:
        name: What it is about.
        text: What was found.
        is_problem: Whether something that was asked for cannot work.
        remedy: What to do about it; also what could be done where it is no problem.
    """

    name: str
    text: str
    is_problem: bool = False
    remedy: str = ""


@dataclass(frozen=True)
class Checkup:
    """A model and a method on this machine.

    Args:
        name: The model's name, as the user gave it.
        meta: The model without weights, in the dtype in which it would be loaded.
        tokenizer: Its tokenizer with its chat template.
        method: The method.
        config: Its settings.
        device: Where the model would be.
    """

    name: str
    meta: MetaModel
    tokenizer: TokenizedModel
    method: str
    config: MethodConfig
    device: torch.device

    @classmethod
    def of(
        cls,
        model: str,
        dtype: str,
        device: str,
        method: str,
        options: dict[str, Any],
        trust_remote_code: bool,
        report: Progress,
    ) -> Checkup:
        """Read a model's configuration and tokenizer.

        Raises:
            UserError: The model, the device, the method or a setting is not known or wrong, or a layer is missing.
        """
        place = find_device(device)
        chosen = "float32" if dtype == "auto" and place.type == "cpu" else dtype
        meta = load_meta(model, dtype=chosen, trust_remote_code=trust_remote_code, progress=report)
        config = method_config(meta.settings, method, options)
        config.refuse_unused(options)
        if not isinstance(config, RocrConfig):  # its null spaces are looked at below
            config.check_model(meta)
        tokenizer = load_tokenizer(meta, trust_remote_code=trust_remote_code)
        return cls(model, meta, TokenizedModel(meta.model, tokenizer, model), method, config, place)

    @cached_property
    def need(self) -> MemoryEstimate:
        """The memory that the method needs."""
        return estimate_memory(self.meta, self.method, self.config, whole=False)

    @cached_property
    def speed(self) -> Speed:
        """How fast this machine computes the model's projections."""
        return measure_speed(self.meta, self.meta.model.dtype, self.device)

    @property
    def peak(self) -> int:
        """Memory in bytes that the edit takes where the model is."""
        return self.need.main if self.device.type == "cpu" else self.need.device

    @property
    def free(self) -> int:
        """Free memory in bytes where the model would be."""
        if self.device.type == "cuda":
            return int(torch.cuda.mem_get_info(self.device)[0])
        return free_memory()

    @cached_property
    def seconds(self) -> float | None:
        """Time in seconds of one edit, for a training method of one step; None where it is not known."""
        prompt = len(self.tokenizer.encode(self.tokenizer.chat_prompt("Albert Einstein")).ids)
        tokens = estimate_tokens(self.meta, self.config, prompt)
        return None if tokens is None else tokens * self.speed.seconds

    def memory(self) -> dict[str, int]:
        """Return the parts of the estimate, the peak and the free memory, in bytes."""
        return asdict(self.need) | {"peak": self.peak, "free": self.free}

    def findings(self, edit: Path | None) -> list[Finding]:
        """Return what can be said without weights.

        Args:
            edit: A saved edit or adapter whose fit is checked.
        """
        found = [*self._model(), self._template(), self._bos(), *self._machine(), *self._estimate(), *self._layers()]
        return found + ([self._edit(edit)] if edit else [])

    def _model(self) -> list[Finding]:
        meta, model = self.meta, self.meta.model
        count = sum(parameter.numel() for parameter in model.parameters())
        method = quantization_of(model.config, meta.source)
        hidden, width = projection_shape(meta.architecture.down_projection(model, 0))
        vocabulary = model.config.get_text_config().vocab_size
        style = meta.settings.prompt or default_style(str(model.config.model_type))
        return [
            Finding("model", f"{meta.settings.source}, {count / 1e6:,.0f} M parameters"),
            *([Finding("quantized", f"by {method}; memory and time below are those of its floats")] if method else []),
            Finding("family", f"{meta.architecture.name}, model type {model.config.model_type}"),
            Finding(
                "layers",
                f"{meta.architecture.depth(model)}, {meta.architecture.mlp_out} [{hidden}, {width}], vocabulary {vocabulary:,}",
            ),
            Finding("context", f"{self.tokenizer.context_length:,} tokens"),
            Finding(
                "prompts", f"direct-answer line {'yes' if style.direct_answer else 'no'}, letter by letter {style.sub_token}"
            ),
        ]

    def _template(self) -> Finding:
        if self.tokenizer.tokenizer.chat_template is None:
            remedy = "take the model's instruction-tuned version, if questions are to be answered"
            return Finding("chat template", "none: messages are plain text", remedy=remedy)
        return Finding("chat template", f"yes, {'with' if self.tokenizer.has_system_role else 'without'} a system role")

    def _bos(self) -> Finding:
        """Say who writes the token that begins a text; a text that has it twice gets worse answers."""
        token = self.tokenizer.tokenizer.bos_token
        by_tokenizer = (
            self.tokenizer.tokenizer("a")["input_ids"] != self.tokenizer.tokenizer("a", add_special_tokens=False)["input_ids"]
        )
        by_template = bool(token) and self.tokenizer.chat_prompt("Hello").startswith(token)
        if by_tokenizer and by_template:
            text = f"{token} by the template and by the tokenizer; Formless writes it once"
            return Finding("BOS", text, remedy="elsewhere, tokenize rendered prompts with add_special_tokens=False")
        writer = "by the tokenizer" if by_tokenizer else "by the template" if by_template else ""
        return Finding("BOS", f"{token} {writer}" if writer else "none is added")

    def _machine(self) -> list[Finding]:
        cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} of them used" if self.device.type == "cpu" else ""
        folder = store.cache_folder()
        free = store.free_space(folder)
        few = free < _FEW
        remedy = "free space, or set FORMLESS_CACHE to a folder on a larger disk" if few else ""
        return [
            Finding("device", ", ".join(filter(None, (str(self.device), cores)))),
            self._dtype(),
            Finding("disk", f"{free / _GB:.1f} GB free at {folder}", few, remedy),
        ]

    def _dtype(self) -> Finding:
        """Say which of the usual dtypes this machine computes fastest, from products that are timed here."""
        own = self.meta.model.dtype
        other = torch.bfloat16 if own == torch.float32 else torch.float32
        factor = measure_speed(self.meta, other, self.device).seconds / self.speed.seconds
        text = f"{_dtype_name(own)}, stored as {_dtype_name(self.meta.stored)}"
        compared = f"{_dtype_name(other)} takes {factor:.1f} times as long here, by products timed at the model's shapes"
        remedy = f"--dtype {_dtype_name(other)} may be faster" if factor < 0.8 else ""  # smaller differences are noise
        return Finding("dtype", f"{text}; {compared}", remedy=remedy)

    def _estimate(self) -> list[Finding]:
        need, config = self.need, self.config
        labels = {
            "weights": need.weights, "trainable": need.trainable, "gradients and averages": need.gradients,
            "activations": need.activations, "null spaces": need.null_spaces, "applied edit": need.applied,
        }  # fmt: skip
        parts = ", ".join(f"{label} {_size(size)}" for label, size in labels.items() if size)
        batches = ""
        if isinstance(config, TrainingConfig):
            batches = f", batches of {config.per_device_train_batch_size}, texts of {config.max_length} tokens"
        found = [Finding("method", f"{self.method}{batches}"), self._fits("memory", self.peak, parts)]
        if need.loading and self.device.type == "cpu":
            found.append(Finding("loading", f"about {_size(need.loading)} for a moment, while the stored weights are cast"))
        if self.seconds is None:
            found.append(Finding("time", "not known for this method", remedy="try it on one target"))
        elif self.seconds:
            what = "each training step" if isinstance(config, TrainingConfig) else "one target"
            basis = f"from products of one layer timed here, {1e6 * self.speed.seconds:,.0f} µs per token and layer"
            found.append(Finding("time", f"about {_duration(self.seconds)} for {what}, {basis}; within a factor of two"))
        return found

    def _fits(self, name: str, size: int, parts: str) -> Finding:
        text = f"about {_size(size)} of {_size(self.free)} free, counted from shapes: {parts}"
        return Finding(name, text, size > self.free, self._smaller() if size > self.free else "")

    def _smaller(self) -> str:
        """Return how to need less memory."""
        if isinstance(self.config, TrainingConfig) and self.need.activations > self.need.weights:
            return "lower per_device_train_batch_size or max_length"
        if self.meta.model.dtype == torch.float32:
            meta = load_meta(self.name, dtype="bfloat16")
            need = estimate_memory(meta, self.method, self.config, whole=False)
            size = need.main if self.device.type == "cpu" else need.device
            if size < self.peak:
                return f"give --dtype bfloat16, which takes about {_size(size)}, or choose a smaller model, such as smollm2"
        return "choose a smaller model, such as smollm2, or a machine with more memory"

    def _layers(self) -> list[Finding]:
        """Return the layers that the training-free methods edit; of the chosen method with its settings."""
        found = []
        for name in ("cdr", "rocr"):
            config = self.config if self.method == name else method_config(self.meta.settings, name, {})
            if isinstance(config, DirectionConfig):
                found.append(
                    Finding(name, f"layers {list(config.edited_layers(self.meta.architecture.depth(self.meta.model)))}")
                )
            elif isinstance(config, RocrConfig):
                found.append(self._null_spaces(config))
        return found

    def _null_spaces(self, config: RocrConfig) -> Finding:
        layers = f"layers {list(config.layers)}"
        if config.basis == "none":
            return Finding("rocr", f"{layers}, no null spaces: nothing is preserved", remedy=self._make(config))
        try:
            config.check_model(self.meta)
        except EditError as error:
            return Finding("rocr", f"{layers}, null spaces missing: {error.what}", self.method == "rocr", self._make(config))
        except UserError as error:  # a model of fewer layers
            return Finding("rocr", f"{layers}: {error.what}", self.method == "rocr", "give --set layers=...")
        if config.basis == SAMPLED:
            return Finding("rocr", f"{layers}, null spaces of sampled texts, made at the first edit{self._cost(config)}")
        return Finding("rocr", f"{layers}, null spaces ready")

    def _make(self, config: RocrConfig) -> str:
        """Return the command that makes null spaces, and its cost."""
        layers = ",".join(map(str, config.layers))
        options = f"--layers {layers} --threshold {config.threshold:g} --corpus {SAMPLED} --basis-dtype float16"
        folder = f"stats/{Path(self.meta.settings.name).name}"
        command = f"formless stats --model {self.name} {options} --out {folder}"
        return f"{command}, then --set basis={folder}{self._cost(config)}"

    def _cost(self, config: RocrConfig) -> str:
        model, architecture = self.meta.model, self.meta.architecture
        depth = architecture.depth(model)
        try:
            widths = [projection_shape(architecture.down_projection(model, layer))[1] for layer in config.layers]
        except UserError:  # said elsewhere
            return ""
        tokens = SAMPLES * LENGTH
        seconds = tokens * depth * self.speed.seconds + EIGEN_SECONDS * sum(width**3 for width in widths)
        size = sum(width**2 for width in widths)  # of the smaller side of each layer's space in float16
        return f" (about {_duration(seconds)}, at most {size / 2**20:,.0f} MB)"

    def _edit(self, folder: Path) -> Finding:
        try:
            edit = load_edit(folder)
            refuse_other_shapes(self.meta, edit)
        except EditError as error:
            text = f"{error.what} [{error.where}]" if error.where else error.what
            return Finding("edit", text, True, error.remedy or "")
        if isinstance(edit, WholeModel):
            return Finding("edit", "a whole model", remedy="it is compared with its base model when it is applied")
        if isinstance(edit, ForeignAdapter):
            base = self.meta.settings.source
            if base == BUNDLED:
                base = str(self.meta.model.config._name_or_path)
            text = f"the adapter's modules and shapes fit; it names the base {edit.info.model}"
            is_named = edit.info.model == base
            return Finding("edit", text, remedy="" if is_named else "its base must have the same weights as this model")
        return self._fingerprint(edit)

    def _fingerprint(self, edit: Edit) -> Finding:
        info, own = edit.info, stored_fingerprint(self.meta)
        title = f"{info.method}, {info.subject}"
        if own is None:
            return Finding("edit", f"{title}: modules and shapes fit", remedy="--load compares the weights' fingerprint too")
        if own != info.model_fingerprint:
            text = f"{title}: made for other weights ({info.model}, {info.model_fingerprint}; these are {own})"
            return Finding("edit", text, True, "load its base model")
        return Finding("edit", f"{title}: fingerprint, modules and shapes fit")

    def scored(self, lm: LM) -> list[Finding]:
        """Return what needs the weights: whether the model scores an answer, and its fingerprint."""
        from formless.models.scores import Score

        score = lm.score([("The capital of France is", " Paris")])[0]
        text = f"P(Paris | The capital of France is) = {score.probability:.3f}" if isinstance(score, Score) else score.reason
        return [Finding("scoring", text), Finding("fingerprint", lm.fingerprint)]


def _size(size: int) -> str:
    return f"{size / _GB:.1f} GB" if size >= _GB else f"{size / 2**20:.0f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if 1 <= seconds < 120 else f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.1f} s"


def _dtype_name(dtype: torch.dtype) -> str:
    return next((name for name, known in DTYPES.items() if known == dtype), str(dtype).removeprefix("torch."))
