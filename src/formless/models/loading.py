"""Load a model by short name, folder or hub id, with its weights or on the meta device."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from formless import hub
from formless.errors import ModelError
from formless.models.bundled import BUNDLED_MODELS, bundled_model
from formless.models.checkpoint import (
    check_config,
    check_dtypes,
    check_finite,
    check_folder,
    check_tokenizer,
    check_weights,
    transformers_errors,
)
from formless.models.families import Architecture, architecture_of
from formless.models.fingerprint import fingerprint, fingerprint_of
from formless.models.gguf_header import is_gguf
from formless.models.gguf_models import gguf_model
from formless.models.hub_files import model_files
from formless.models.lm import LM
from formless.models.memory import fits, weights_place
from formless.models.partial import NOT_READ, is_plain, read_weights, stop_after, tensors_to_read
from formless.models.placement import is_spread, memory_size, read_mapped, spread_options
from formless.models.quantized import cast_floats, check_packed, has_packed, quantization_of, warn_of_rounded_activations
from formless.models.settings import BUNDLED, ModelSettings, find_model, is_recipe
from formless.models.stored import stored_tensors
from formless.progress import Progress, can_show_bars, progress_bar

_SHAPE = {
    "model_type": "family", "num_hidden_layers": "number of layers", "hidden_size": "hidden size", "vocab_size": "vocabulary",
}  # fmt: skip
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class MetaModel:
    """A model on PyTorch's meta device: modules and shapes without weights.

    Args:
        model: The transformers model; its parameters have shapes and a dtype but take no memory.
        architecture: The architecture of its family.
        settings: The model's entry in configs/models.
        stored: The dtype of the checkpoint.
        source: The folder that is read.
    """

    model: PreTrainedModel
    architecture: Architecture
    settings: ModelSettings
    stored: torch.dtype
    source: str


def load(
    name_or_path: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    layers: int | None = None,
    max_memory: str | dict[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: bool | Progress = True,
) -> LM:
    """Load a causal language model with its tokenizer.

    Args:
        name_or_path: A short name (`formless models` lists them), a folder, a GGUF file, a hub id (`owner/name`, or
            `owner/name@revision`), or a recipe (`FILE.yaml`), which names one of them and its settings.
        dtype: `float32`, `bfloat16` or `float16`; `auto` takes float32 on the CPU and the checkpoint's own elsewhere.
        device: A torch device; `auto` takes CUDA, then MPS, then the CPU. `spread` stands for `device_map="auto"`, and
            `spread:2GB` for that with `max_memory="2GB"`.
        device_map: As in transformers, e.g. `"auto"` to spread layers over several devices; replaces `device`. Layers that do
            not fit stay on disk and are read at each use.
        max_memory: How much memory the weights may take with `device_map="auto"`: a size for the main memory, or as in
            transformers.
        offload_folder: Where weights are written that cannot be read from the model's own files, such as pickled ones; by
            default a scratch folder in the cache, which is removed with the model.
        layers: Read the embeddings and so many layers alone, from the first on; `MethodConfig.needed_layers` says what an edit
            needs. What needs more of the model is refused. With a device map or code of the model's own, and of files that are
            no safetensors or are quantized, the whole model is read.
        revision: The branch, tag or commit of a hub id; by default that of `name_or_path`.
        trust_remote_code: Whether code from the model's repository may run.
        progress: Show bars while weights are downloaded and read. A callback is called while they are downloaded or converted,
            and while a gigabyte or more is read.

    Raises:
        UnknownNameError: There is no such model, or its family is not supported.
        ModelError: The model cannot be loaded, or its weights do not fit its configuration.

    Examples:
        >>> import formless
        >>> lm = formless.load("smollm2", progress=False)
        >>> lm.generate(["The capital of France is"], max_new_tokens=1)
        ['Paris']
    """
    _check_dtype(dtype)
    if layers is not None and layers < 1:
        raise ModelError(f"{layers} layers are no part of a model", where="layers", remedy="give at least 1, or None for all")
    place = find_device(device)
    if device_map is None and is_spread(device):
        device_map, max_memory = "auto", max_memory or device.partition(":")[2] or None
    settings = find_model(name_or_path)
    files = partial(model_files, code=trust_remote_code)
    source, commit = _source(settings, progress, revision, files)
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    cast_to = torch.float32 if dtype == "auto" and place.type == "cpu" else DTYPES[dtype]
    with transformers_errors("the model cannot be loaded", source), _bars(progress is True and can_show_bars()):
        config = AutoConfig.from_pretrained(source, **common)
        architecture = architecture_of(config)  # fails before gigabytes of weights are read
        check_config(config, source)
        quantization = quantization_of(config, source)
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
        held = None if layers is None or layers >= config.get_text_config().num_hidden_layers else layers
        tensors = None
        if device_map is None and not trust_remote_code and is_plain(config, Path(source)):
            with _bars(False):
                model, info = _weights(source, device_map=NOT_READ)
            tensors = tensors_to_read(model, architecture, held, Path(source))
        if tensors is None or (held is None and _stays_mapped(model, cast_to, place)):
            tensors = held = None
            with ExitStack() as scratch:
                if device_map is not None:  # weights on disk are cast at each use, to the dtype that is chosen here
                    common |= spread_options(device_map, max_memory, offload_folder, scratch) | {"dtype": cast_to or "auto"}
                elif quantization:  # it is read where it stays: to move it is up to its package
                    common |= {"device_map": {"": str(place)}}
                model, info = _weights(source, **common)
                weakref.finalize(model, scratch.pop_all().close)
        check_weights(info, source)
        if quantization:
            check_packed(model, quantization, source)
            warn_of_rounded_activations(model, source)
        check_dtypes(model, source)
        check_tokenizer(tokenizer, model, source)
        check_finite(model, source)
        # Computed before any cast: float16 rounds weights, and the fingerprint would no longer be the checkpoint's.
        mark = fingerprint(model, Path(source))
        if tensors is not None:
            with progress_bar(progress) as report:
                read_weights(model, tensors, dtype=cast_to, device=place, source=source, report=report)
        elif device_map is None:
            if cast_to:
                cast_floats(model, cast_to)
            if not quantization:
                nn.Module.to(model, device=place)
        else:
            read_mapped(model)
        if held is not None:
            stop_after(model, architecture, held, source)
    if settings.source == BUNDLED:
        model.config._name_or_path = BUNDLED_MODELS[settings.name].origin  # saved adapters name it, not a path of this machine
    elif Path(settings.source).exists():  # a saved adapter is loaded from other folders too; of a GGUF file, not its conversion
        model.config._name_or_path = str(Path(settings.source).absolute())
    elif source != settings.source:
        model.config._name_or_path = settings.source  # the hub id, not what the cache has of it
    if commit:
        model.config._commit_hash = commit
    name = settings.name if is_recipe(name_or_path) else name_or_path
    return LM(
        model, tokenizer, name, settings=settings, fingerprint=mark, checkpoint=Path(source).absolute(), loaded_layers=held,
        weights_in=weights_place(model),
    )  # fmt: skip


def load_meta(
    name_or_path: str,
    *,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: bool | Progress = False,
) -> MetaModel:
    """Build a model on the meta device from its configuration; no weights are downloaded or allocated.

    Args:
        name_or_path: As in `load`.
        dtype: `float32`, `bfloat16` or `float16`; `auto` takes the checkpoint's own.
        revision: As in `load`.
        trust_remote_code: Whether code from the model's repository may run.
        progress: As in `load`, for a model that is downloaded or converted first; of a hub id only small files are downloaded.

    Raises:
        UnknownNameError: There is no such model, or its family is not supported.
        ModelError: The dtype is unknown, or the configuration cannot be read.
    """
    _check_dtype(dtype)
    settings = find_model(name_or_path)
    source, _ = _source(settings, progress, revision, partial(model_files, code=trust_remote_code, weights=False))
    with transformers_errors("the model's configuration cannot be read", source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        architecture = architecture_of(config)
        check_config(config, source)
        quantization_of(config, source)
        stored = config.get_text_config().dtype or torch.float32
        precision = DTYPES[dtype] or stored
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=precision, trust_remote_code=trust_remote_code)
    return MetaModel(model, architecture, settings, stored, source)


def refuse_other_architecture(model: MetaModel, retain: MetaModel) -> None:
    """Refuse a retain model that cannot have been trained from the same model.

    Raises:
        ModelError: Its family, number of layers, hidden size or vocabulary is another.
    """
    for name, title in _SHAPE.items():
        own, other = (getattr(one.model.config.get_text_config(), name) for one in (model, retain))
        if own != other:
            what = f"the retain model is of another architecture: its {title} is {other}, not {own}"
            remedy = "give a model that was trained from the same one, without the forget set"
            raise ModelError(what, where=retain.source, remedy=remedy)


def load_tokenizer(meta: MetaModel, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, without its weights.

    Raises:
        ModelError: It cannot be loaded.
    """
    with transformers_errors("the tokenizer cannot be loaded", meta.source):
        return AutoTokenizer.from_pretrained(meta.source, trust_remote_code=trust_remote_code)


def stored_fingerprint(meta: MetaModel) -> str | None:
    """Return the fingerprint of a model in a folder of safetensors, of which only the hashed values are read.

    Returns:
        None where the weights are not on this machine, where the files name or shape them otherwise than the model does, and
        of a quantized model.
    """
    if quantization_of(meta.model.config, meta.source):
        return None
    stored = stored_tensors(meta.model, Path(meta.source))
    named = dict(meta.model.named_parameters())
    if any(name not in stored or stored[name].shape != parameter.shape for name, parameter in named.items()):
        return None
    return fingerprint_of({name: (stored[name].shape, stored[name].sample()) for name in named})


def read_model(folder: Path, like: LM) -> PreTrainedModel:
    """Read the weights of a folder with a fine-tuned version of a model, on the CPU; no tokenizer is needed.

    Args:
        folder: What `save_pretrained` wrote, as safetensors or pickled weights.
        like: The original.

    Raises:
        ModelError: The weights cannot be read, or are of another architecture or vocabulary than the original's.
    """
    check_folder(folder)
    remedy = "load its own base model with --model"
    with transformers_errors("the model cannot be loaded", folder), _bars(False):
        config = AutoConfig.from_pretrained(folder)
        own = like.model.config
        if quantization_of(config, folder) or has_packed(like.model):
            what = "the weights of a quantized model are not compared"
            raise ModelError(what, where=folder, remedy="give both models unquantized, or the edit as an adapter")
        if config.model_type != own.model_type:
            what = f"its model type is {config.model_type}, that of {like.name} is {own.model_type}"
            raise ModelError(what, where=folder, remedy=remedy)
        check_config(config, str(folder))
        model, info = _weights(folder)
        check_weights(info, str(folder))
        check_dtypes(model, str(folder))
        check_finite(model, str(folder))
    expected, found = (
        {name: list(each.shape) for name, each in one.named_parameters() if name not in one.all_tied_weights_keys}
        for one in (like.model, model)  # accelerate unties weights that it offloads
    )
    for name in {**expected, **found}:
        if expected.get(name) != found.get(name):
            shapes = f"{found.get(name, 'missing')}, in {like.name} {expected.get(name, 'missing')}"
            raise ModelError(f"{name} is {shapes}", where=folder, remedy=remedy)
    return model


def load_prompts(name_or_path: str, *, trust_remote_code: bool = False, progress: bool | Progress = False) -> LM:
    """Load a model's tokenizer and configuration, to render and tokenize its prompts; it has no weights and cannot run.

    Args:
        name_or_path: As in `load`.
        trust_remote_code: Whether code from the model's repository may run.
        progress: As in `load_meta`.

    Raises:
        UserError: As `load_meta`, or the tokenizer cannot be loaded.
    """
    meta = load_meta(name_or_path, trust_remote_code=trust_remote_code, progress=progress)
    tokenizer = load_tokenizer(meta, trust_remote_code=trust_remote_code)
    with transformers_errors("the tokenizer cannot be loaded", meta.source):
        check_tokenizer(tokenizer, meta.model, meta.source)
    name = meta.settings.name if is_recipe(name_or_path) else name_or_path
    return LM(meta.model, tokenizer, name, settings=meta.settings)


def _weights(source: str | Path, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return a model with the weights of a folder, and what `check_weights` needs."""
    # Shapes that differ are ignored there, and refused with their names by `check_weights`.
    options = {"dtype": "auto"} | options | {"output_loading_info": True, "ignore_mismatched_sizes": True}
    return cast(tuple[PreTrainedModel, dict[str, Any]], AutoModelForCausalLM.from_pretrained(source, **options))


def _stays_mapped(model: PreTrainedModel, cast_to: torch.dtype | None, place: torch.device) -> bool:
    """Return whether transformers can leave the weights in their files, and memory is too small for them."""
    is_cast = place.type != "cpu" or cast_to not in (None, model.dtype)
    return not is_cast and not fits(sum(parameter.nbytes for parameter in model.parameters()))


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}", where="--dtype", remedy=f"choose from {', '.join(DTYPES)}")


def _source(
    settings: ModelSettings, progress: bool | Progress, revision: str | None, files: hub.Files
) -> tuple[str, str | None]:
    """Return the folder to read, and the commit of a hub id; what is not on this machine yet is downloaded or converted."""
    place = Path(settings.source)
    if settings.source == BUNDLED:
        with _bars(False):
            return str(bundled_model(settings.name, progress=progress)), None
    if is_gguf(place):
        with _bars(False):
            return str(gguf_model(place, progress=progress)), None
    if place.is_dir():
        check_folder(place)
        return settings.source, None
    repository = hub.Repository(settings.source, revision=revision or settings.revision)
    with progress_bar(progress) as report:
        folder = hub.fetch(repository, files, report)
    check_folder(folder)
    return str(folder), folder.name


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Turn the progress bars of transformers off for a while, unless they are to be shown."""
    if shown or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def find_device(name: str) -> torch.device:
    """Return a device of this machine; `auto` and `spread` stand for CUDA, then MPS, then the CPU.

    Raises:
        ModelError: The name is none, or this machine has no such device.
    """
    if is_spread(name):
        _, colon, size = name.partition(":")
        if colon:
            memory_size(size, where="--device")
    elif name != "auto":
        remedy = "e.g. cpu, cuda:0, mps"
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ModelError(f"unknown device {name!r}", where="--device", remedy=remedy) from error
        if device.type == "meta":
            raise ModelError("the device meta holds no weights", where="--device", remedy=remedy)
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError, ImportError) as error:  # ImportError: a type for which torch has no code
            reason = str(error).splitlines()[0].partition(". ")[0]
            raise ModelError(f"no device {name!r} here ({reason})", where="--device", remedy=remedy) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
