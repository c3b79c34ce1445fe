"""Faults of a file, generated from what the file holds: of each JSON field, of each tensor, and of the file as a whole."""

from __future__ import annotations

import codecs
import copy
import gzip
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

Keys = tuple[str | int, ...]
Tensors = dict[str, Tensor]

TRUNCATED = (1, 25, 50, 75, 99)
"""Per cent of a file that is left of it."""

_SECOND = "\u2063second"  # marks the second of two equal keys until the text is written


@dataclass(frozen=True)
class Fault:
    """One way to damage a file.

    Args:
        kind: What is done, e.g. "retyped"; rows of the table.
        place: The field, the tensor or the part of the file.
        apply: Does it to the file at a path.
        says: Words of which an error line must have one, beside the file's name; empty if the name is enough.
    """

    kind: str
    place: str
    apply: Callable[[Path], object]
    says: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.place}".strip()


def file_faults(binary: bool, optional: bool = False) -> Iterator[Fault]:
    """Yield faults of a file as a whole; one that may be missing is not removed."""
    for part in TRUNCATED:
        yield Fault("truncated", f"to {part} %", partial(_cut, part))
    yield Fault("emptied", "", lambda path: path.write_bytes(b""))
    if not optional:
        yield Fault("missing", "", Path.unlink)
    for what, replace in (
        ("a folder", Path.mkdir),
        ("a named pipe", os.mkfifo),
        ("a link to itself", lambda path: path.symlink_to(path)),
        ("a link to nothing", lambda path: path.symlink_to("nothing")),
    ):
        yield Fault("replaced", f"by {what}", partial(_replace, replace))
    yield Fault("replaced", "by a link to its copy", _link)
    for encoding, encode in (
        ("gzip", gzip.compress),
        *(() if binary else (("UTF-16", _as_utf_16), ("UTF-8 with a mark", codecs.BOM_UTF8.__add__))),
    ):
        yield Fault("encoded", encoding, partial(_rewrite, encode))
    if not binary:
        yield Fault("encoded", "not UTF-8", partial(_rewrite, lambda content: content + b'"\xe9'))
    yield Fault("changed", "with a NUL at the end", partial(_rewrite, lambda content: content + b"\0"))
    yield Fault("changed", "with zeros for its second half", partial(_rewrite, _half_zero))
    for part in TRUNCATED if binary else ():
        yield Fault("changed", f"in one bit at {part} %", partial(_flip, part))


def json_faults(content: Any, *, newest: bool = False, values: bool = False, foreign: bool = True) -> Iterator[Fault]:
    """Yield faults of the fields of a JSON or YAML document.

    Args:
        content: The document.
        newest: Whether a larger `format` is a newer version.
        values: Whether a value of the right type and range that is not the written one is a fault: the file is ours, not the
            user's.
        foreign: Whether a missing or a further field is a fault.
    """
    for keys, value in _fields(content):
        place = ".".join(map(str, keys))
        says = ("version", "format") if keys == ("format",) else tuple(key for key in keys if isinstance(key, str))[-1:]
        if foreign and isinstance(keys[-1], str):
            yield _json_fault("removed", place, keys, None, says)
        for kind, what, changed in _replacements(value, values):
            yield _json_fault(kind, f"{place}: {what}", keys, changed, says)
        if isinstance(keys[-1], str):
            yield _json_fault("doubled", place, (*keys[:-1], keys[-1] + _SECOND), _other(value), says)
    if newest:
        yield _json_fault("newer", "format", ("format",), 99, ("newer",))
    if isinstance(content, dict) and foreign:
        yield _json_fault("added", "no_such_field", ("no_such_field",), 1, ("no_such_field",))
    for what, other in (("a list", [content]), ("a number", 7), ("null", None), ("NaN", float("nan"))):
        yield Fault("retyped", f"the whole file: {what}", partial(_write, other))
    yield Fault("retyped", "the whole file: 100,000 brackets", lambda path: path.write_text("[" * 100_000))
    yield Fault("retyped", "the whole file: 10,000 digits", lambda path: path.write_text("9" * 10_000))


def tensor_faults(path: Path, *, values: bool = True) -> Iterator[Fault]:
    """Yield faults of the tensors of a safetensors file.

    Args:
        path: The whole file.
        values: Whether other values of the right shape and dtype are a fault: the file is ours, not a user's model.
    """
    for name, tensor in load_file(path).items():
        for kind, change in _tensor_changes(tensor, values):
            yield Fault(kind, name, partial(_change_tensor, name, change))
        yield Fault("renamed", name, partial(_rename_tensor, name))
    yield Fault("added", "a tensor", partial(_edit_tensors, lambda tensors: tensors | {"no.such.weight": torch.ones(3)}))
    yield Fault("removed", "all tensors", partial(_edit_tensors, lambda tensors: {}))
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    for key, value in metadata.items() if values else ():
        for kind, changed in (("removed", None), ("emptied", ""), ("retyped", "x"), ("changed", _other_text(value))):
            yield Fault(kind, f"metadata {key}", partial(_edit_metadata, key, changed))


def _fields(content: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield every field; of a list the first and the last element."""
    if isinstance(content, dict):
        found = list(content.items())
    elif isinstance(content, list):
        found = [(index, content[index]) for index in sorted({0, len(content) - 1}) if content]
    else:
        return
    for key, value in found:
        yield (*keys, key), value
        yield from _fields(value, (*keys, key))


def _replacements(value: Any, values: bool) -> Iterator[tuple[str, str, Any]]:
    """Yield kind, description and value of what may stand in a field instead."""
    if value is not None:
        yield "retyped", "null", None
    if isinstance(value, bool):
        yield from (("retyped", "a text", "yes"), ("retyped", "a number", 2))
    elif isinstance(value, int | float):
        yield from (("retyped", "a text", "many"), ("retyped", "a list", [value]))
        yield from (("out of range", "-10^30", -(10**30)), ("out of range", "10^30", 10**30))
        yield from (("not finite", "NaN", float("nan")), ("not finite", "infinity", float("inf")))
    elif isinstance(value, str):
        yield from (("retyped", "a number", 7), ("retyped", "a mapping", {"a": 1}))
        yield from (("text", "a lone surrogate", value + "\ud800"), ("text", "a NUL", value + "\0"))
    elif isinstance(value, list):
        yield from (("retyped", "a mapping", {"a": 1}), ("retyped", "a text", "x"))
    elif isinstance(value, dict):
        yield from (("retyped", "a list", [1]), ("retyped", "a text", "x"))
    if values and value is not None:
        yield "changed", "another value", _other(value)


def _other(value: Any) -> Any:
    """Return a value of the same type that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value / 2 + 0.25 if isinstance(value, float) else value + 1
    if isinstance(value, str):
        return _other_text(value)
    if isinstance(value, list):
        return value[:-1]
    return dict(list(value.items())[:-1]) if isinstance(value, dict) else 1


def _other_text(text: str) -> str:
    if re.search(r"\d", text):
        return re.sub(r"\d", lambda found: str((int(found[0]) + 1) % 10), text, count=1)
    return {"True": "False", "False": "True"}.get(text, text[1:] if len(text) > 1 else text + "x")


def _json_fault(kind: str, place: str, keys: Keys, value: Any, says: tuple[str, ...]) -> Fault:
    def apply(path: Path) -> None:
        content = copy.deepcopy(_read(path))
        parent = content
        for key in keys[:-1]:
            parent = parent[key]
        if kind == "removed":
            del parent[keys[-1]]
        else:
            parent[keys[-1]] = value
        _write(content, path)

    return Fault(kind, place.replace(_SECOND, ""), apply, says)


def _read(path: Path) -> Any:
    text = path.read_text("utf-8")
    return yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)


def _write(content: Any, path: Path) -> None:
    """Write JSON, which is YAML too, if NaN and infinity are spelled its way."""
    text = json.dumps(content, indent=2).replace(json.dumps(_SECOND)[1:-1], "")
    if path.suffix in (".yaml", ".yml"):
        text = re.sub(
            r"(?<![\w\"])(-?)(NaN|Infinity)\b", lambda found: f"{found[1]}.{'nan' if found[2] == 'NaN' else 'inf'}", text
        )
    path.write_text(text, "utf-8")


def _rewrite(change: Callable[[bytes], bytes], path: Path) -> None:
    path.write_bytes(change(path.read_bytes()))


def _replace(make: Callable[[Path], object], path: Path) -> None:
    path.unlink()
    make(path)


def _link(path: Path) -> None:
    aside = path.with_name(f".{path.name}.copy")
    shutil.copyfile(path, aside)
    path.unlink()
    path.symlink_to(aside.absolute())


def _cut(part: int, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: max(1, min(len(content) - 2, len(content) * part // 100))])


def _half_zero(content: bytes) -> bytes:
    return content[: len(content) // 2].ljust(len(content), b"\0")


def _flip(part: int, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * part // 100] ^= 64
    path.write_bytes(content)


def _as_utf_16(content: bytes) -> bytes:
    return content.decode("utf-8").encode("utf-16")


def _tensor_changes(tensor: Tensor, values: bool) -> Iterator[tuple[str, Callable[[Tensor], Tensor | None]]]:
    yield "removed", lambda _: None
    yield "reshaped", lambda tensor: tensor.flatten()[None]
    yield "reshaped", lambda tensor: tensor[:-1]
    yield "retyped", lambda tensor: tensor.to(torch.int32)
    yield "retyped", lambda tensor: tensor.to(torch.complex64)
    yield "retyped", lambda tensor: tensor > 0
    yield "not finite", lambda tensor: tensor.index_put((torch.tensor([0]),), torch.tensor(float("nan"), dtype=tensor.dtype))
    yield "not finite", lambda tensor: tensor.index_put((torch.tensor([0]),), torch.tensor(float("inf"), dtype=tensor.dtype))
    if not values:
        return
    yield "retyped", lambda tensor: tensor.to(torch.bfloat16 if tensor.dtype == torch.float32 else torch.float32)
    yield "zeroed", torch.zeros_like
    yield "scaled", lambda tensor: tensor * 2
    yield "scaled", lambda tensor: tensor * -1
    if tensor.dim() > 1 and tensor.shape[0] > 1:
        yield "reordered", lambda tensor: tensor.flip(0)


def _edit_tensors(edit: Callable[[Tensors], Tensors], path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = edit({name: tensor.clone() for name, tensor in load_file(path).items()})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)


def _change_tensor(name: str, change: Callable[[Tensor], Tensor | None], path: Path) -> None:
    def edit(tensors: Tensors) -> Tensors:
        changed = change(tensors.pop(name))
        return tensors if changed is None else tensors | {name: changed}

    _edit_tensors(edit, path)


def _rename_tensor(name: str, path: Path) -> None:
    _edit_tensors(lambda tensors: {f"x.{key}" if key == name else key: tensor for key, tensor in tensors.items()}, path)


def _edit_metadata(key: str, value: str | None, path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    del metadata[key]
    save_file(tensors, path, metadata=metadata | ({} if value is None else {key: value}))
