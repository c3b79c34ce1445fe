"""Load a model by short name, folder or hub id, with its weights."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from formless.errors import ModelError
from formless.models.families import Architecture, architecture_of
from formless.models.lm import LM
from formless.models.quantized import cast_floats, check_packed, has_packed, quantization_of, warn_of_rounded_activations
from formless.models.reading.checkpoint import (
    check_config,
    check_dtypes,
    check_finite,
    check_folder,
    check_tokenizer,
    check_weights,
    transformers_errors,
)
from formless.models.reading.fingerprint import fingerprint
from formless.models.reading.memory import fits, weights_place
from formless.models.reading.partial import NOT_READ, is_plain, read_weights, stop_after, tensors_to_read
from formless.models.reading.placement import DTYPES, check_dtype, find_device, is_spread, read_mapped, spread_options
from formless.models.settings import BUNDLED, ModelSettings, find_model, is_recipe
from formless.models.sources.bundled import BUNDLED_MODELS
from formless.models.sources.folder import model_source, transformers_bars
from formless.models.sources.hub_files import model_files
from formless.progress import Progress, can_show_bars, progress_bar


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
    check_dtype(dtype)
    if layers is not None and layers < 1:
        raise ModelError(f"{layers} layers are no part of a model", where="layers", remedy="give at least 1, or None for all")
    place = find_device(device)
    if device_map is None and is_spread(device):
        device_map, max_memory = "auto", max_memory or device.partition(":")[2] or None
    settings = find_model(name_or_path)
    source, commit = model_source(settings, progress, revision, partial(model_files, code=trust_remote_code))
    code: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    cast_to = torch.float32 if dtype == "auto" and place.type == "cpu" else DTYPES[dtype]
    with transformers_errors("the model cannot be loaded", source), transformers_bars(progress is True and can_show_bars()):
        config = AutoConfig.from_pretrained(source, **code)
        architecture = architecture_of(config)  # fails before gigabytes of weights are read
        check_config(config, source)
        quantization = quantization_of(config, source)
        tokenizer = AutoTokenizer.from_pretrained(source, **code)
        opened = None
        if device_map is None and not trust_remote_code and is_plain(config, Path(source)):
            held = None if layers is None or layers >= config.get_text_config().num_hidden_layers else layers
            opened = _in_pieces(source, architecture, held, cast_to, place, progress)
        if opened is None and device_map is not None:
            with ExitStack() as scratch:
                code |= spread_options(device_map, max_memory, offload_folder, scratch)
                opened = _spread(source, cast_to, code)
                weakref.finalize(opened.model, scratch.pop_all().close)
        elif opened is None:
            opened = _whole(source, cast_to, place, quantization is not None, code)
        model = opened.model
        check_weights(opened.info, source)
        if quantization:
            check_packed(model, quantization, source)
            warn_of_rounded_activations(model, source)
        check_dtypes(model, source)
        check_tokenizer(tokenizer, model, source)
        check_finite(model, source)
        # Computed before any cast: float16 rounds weights, and the fingerprint would no longer be the checkpoint's.
        mark = fingerprint(model, Path(source))
        opened.finish()
    _name(model, settings, source, commit)
    name = settings.name if is_recipe(name_or_path) else name_or_path
    return LM(
        model, tokenizer, name, settings=settings, fingerprint=mark, checkpoint=Path(source).absolute(),
        loaded_layers=opened.layers, weights_in=weights_place(model),
    )  # fmt: skip


@dataclass(frozen=True)
class _Opened:
    """A model whose weights are checked next, and then put in their places.

    Args:
        model: The model.
        info: What `check_weights` needs.
        finish: Reads the weights if they are not read yet, casts them and puts them on their device.
        layers: How many layers are read; None for all.
    """

    model: PreTrainedModel
    info: dict[str, Any]
    finish: Callable[[], None]
    layers: int | None = None


def _in_pieces(
    source: str,
    architecture: Architecture,
    layers: int | None,
    cast_to: torch.dtype | None,
    place: torch.device,
    progress: bool | Progress,
) -> _Opened | None:
    """Open a model whose weights are read tensor by tensor; None where transformers has to read them."""
    with transformers_bars(False):
        model, info = _weights(source, device_map=NOT_READ)
    tensors = tensors_to_read(model, architecture, layers, Path(source))
    if tensors is None or (layers is None and _stays_mapped(model, cast_to, place)):
        return None

    def finish() -> None:
        with progress_bar(progress) as report:
            read_weights(model, tensors, dtype=cast_to, device=place, source=source, report=report)
        if layers is not None:
            stop_after(model, architecture, layers, source)

    return _Opened(model, info, finish, layers)


def _spread(source: str, cast_to: torch.dtype | None, options: dict[str, Any]) -> _Opened:
    """Open a model whose layers are on several devices or on disk, from where they are cast at each use."""
    model, info = _weights(source, **options, dtype=cast_to or "auto")
    return _Opened(model, info, partial(read_mapped, model))


def _whole(
    source: str, cast_to: torch.dtype | None, place: torch.device, is_quantized: bool, options: dict[str, Any]
) -> _Opened:
    """Open a model that transformers reads."""
    if is_quantized:  # it is read where it stays: to move it is up to its package
        options = options | {"device_map": {"": str(place)}}
    model, info = _weights(source, **options)

    def finish() -> None:
        if cast_to:
            cast_floats(model, cast_to)
        if not is_quantized:
            nn.Module.to(model, device=place)

    return _Opened(model, info, finish)


def _name(model: PreTrainedModel, settings: ModelSettings, source: str, commit: str | None) -> None:
    """Tell a model where it is from, which saved adapters name as their base."""
    if settings.source == BUNDLED:
        model.config._name_or_path = BUNDLED_MODELS[settings.name].origin  # and not a path of this machine
    elif Path(settings.source).exists():  # a saved adapter is loaded from other folders too; of a GGUF file, not its conversion
        model.config._name_or_path = str(Path(settings.source).absolute())
    elif source != settings.source:
        model.config._name_or_path = settings.source  # the hub id, not what the cache has of it
    if commit:
        model.config._commit_hash = commit


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
    with transformers_errors("the model cannot be loaded", folder), transformers_bars(False):
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


def _weights(source: str | Path, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return a model with the weights of a folder, and what `check_weights` needs."""
    # Shapes that differ are ignored there, and refused with their names by `check_weights`.
    options = {"dtype": "auto"} | options | {"output_loading_info": True, "ignore_mismatched_sizes": True}
    return cast(tuple[PreTrainedModel, dict[str, Any]], AutoModelForCausalLM.from_pretrained(source, **options))


def _stays_mapped(model: PreTrainedModel, cast_to: torch.dtype | None, place: torch.device) -> bool:
    """Return whether transformers can leave the weights in their files, and memory is too small for them."""
    is_cast = place.type != "cpu" or cast_to not in (None, model.dtype)
    return not is_cast and not fits(sum(parameter.nbytes for parameter in model.parameters()))
