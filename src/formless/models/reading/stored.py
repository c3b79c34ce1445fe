"""The weights in a folder of safetensors: names and shapes from the headers, values only where they are asked for."""

from __future__ import annotations

import ctypes
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.modeling_utils import str_to_torch_dtype

from formless.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SAMPLES: Final = 64
_WHOLE: Final = 2**15
"""Bytes up to which a tensor is sampled from one piece, rather than value by value."""

_PIECE: Final = 2**22
"""Bytes that are read at a time."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Args:
        path: The file.
        start: The place of its first byte.
        dtype: Its dtype in the file.
        shape: Its shape.
    """

    path: Path
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self, into: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield all values in order, piece by piece, each with the place of its first value.

        Args:
            into: Where to read them, flat, of the dtype in the file and on the CPU; without it, each piece overwrites the last.

        Raises:
            ModelError: The file ends too early.
        """
        one = torch.empty(min(_PIECE, self.size), dtype=torch.uint8)
        with self.path.open("rb") as file:
            file.seek(self.start)
            for first in range(0, self.size, _PIECE):
                end = min(first + _PIECE, self.size)
                part = one[: end - first] if into is None else into.view(torch.uint8)[first:end]
                if file.readinto(_memory(part)) != len(part):
                    raise _unreadable(self.path)
                yield first // self.dtype.itemsize, part.view(self.dtype)

    def sample(self) -> Tensor:
        """Read what `spaced` takes of the tensor; of a large one, nothing else is read."""
        count, size = math.prod(self.shape), self.dtype.itemsize
        step = max(1, count // SAMPLES)
        with self.path.open("rb", buffering=0) as file:
            if count * size <= _WHOLE:
                file.seek(self.start)
                return spaced(self._values(file.read(count * size)))
            if hasattr(os, "posix_fadvise"):  # or the system reads what follows each value too
                os.posix_fadvise(file.fileno(), self.start, count * size, os.POSIX_FADV_RANDOM)
            parts = []
            for place in range(0, count, step)[:SAMPLES]:
                file.seek(self.start + place * size)
                parts.append(file.read(size))
        return self._values(b"".join(parts))

    def _values(self, content: bytes) -> Tensor:
        return torch.frombuffer(bytearray(content), dtype=self.dtype) if content else torch.empty(0, dtype=self.dtype)


def _memory(values: Tensor) -> ctypes.Array[ctypes.c_ubyte]:
    """Return the memory of bytes; PyTorch would mark a tensor that numpy has seen as one that it does not own."""
    return (ctypes.c_ubyte * len(values)).from_address(values.data_ptr())


def spaced(values: Tensor) -> Tensor:
    """Return at most `SAMPLES` evenly spaced values of a tensor."""
    flat = values.flatten()
    return flat[:: max(1, flat.numel() // SAMPLES)][:SAMPLES]


def stored_tensors(model: PreTrainedModel, folder: Path) -> dict[str, StoredTensor]:
    """Return where a model's tensors lie in a folder of safetensors, by their names in the model.

    A tensor that transformers would split or join while it loads is left out, and so is what the model does not have.

    Args:
        model: The model; it may be on the meta device.
        folder: The folder; without safetensors nothing is found.

    Raises:
        ModelError: A file cannot be read.
    """
    names = model.state_dict()
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    found = {}
    for path in weight_files(folder):
        for stored, tensor in _tensors(path).items():
            name, converter = rename_source_key(stored, renamings, converters, model.base_model_prefix, names)
            if converter is None and name in names:
                found[name] = tensor
    return found


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors that transformers reads of a folder: one file, or those that the index names.

    Raises:
        ModelError: The index cannot be read.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        return []
    try:
        files = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(index) from error
    return [folder / name for name in files]


def _tensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by the names that they have there, from its header."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = file.seek(0, os.SEEK_END)
            if length > size:
                raise ValueError("the header is longer than the file")
            file.seek(8)
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        found = {}
        for name, entry in header.items():
            dtype, shape = str_to_torch_dtype[entry["dtype"]], tuple(entry["shape"])
            first, end = entry["data_offsets"]
            if end - first != math.prod(shape) * dtype.itemsize or not 0 <= first <= end <= size - 8 - length:
                raise ValueError(f"the place of {name} does not fit its shape")
            found[name] = StoredTensor(path, 8 + length + first, dtype, shape)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path) from error
    return found


def _unreadable(path: Path) -> ModelError:
    return ModelError("the model's weights cannot be read", where=path, remedy="fetch the file again")
