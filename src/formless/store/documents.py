"""JSON documents and tensors of our own, with a hash: what is read is what was written, or is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from formless.errors import DataError, UserError
from formless.store.files import output_errors, read_file, scratch_file, sync, write_text
from formless.strict_json import check_json, load_json

if TYPE_CHECKING:
    import torch

HASH: Final = "sha256"
"""The key of a document's hash."""

TENSORS_HASH: Final = "content_sha256"
"""The key of the hash in the metadata of a safetensors file."""


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with a hash of its content, atomically.

    Args:
        path: The file.
        content: Only what JSON knows. NaN and infinity become null. Half characters (lone surrogates), as in names of files
            that are not UTF-8, are replaced.

    Raises:
        OutputError: The disk is full or the folder cannot be written; the old file stays as it was.
    """
    text = json.dumps(content, ensure_ascii=False)
    whole = json.loads(text.encode("utf-8", "replace"), parse_constant=lambda _: None)
    write_text(path, json.dumps(whole | {HASH: _hash(whole)}, indent=2, ensure_ascii=False) + "\n")


def read_document(path: Path, newest: int, *, error: type[UserError] = DataError) -> dict[str, Any]:
    """Return the JSON object of a file, without its hash; a file of an earlier version may have none.

    Args:
        path: The file.
        newest: The newest schema version, the key `format`, that is read.
        error: The kind of error for a newer version.

    Raises:
        UserError: A newer version of Formless wrote the file.
        OSError: The file is missing or cannot be read.
        ValueError: It holds no JSON object, or not what was written; the message is one line.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    refuse_newer(content, newest, path, error=error)
    stated = content.pop(HASH, None)
    if stated is not None and stated != _hash(content):
        raise ValueError(f"its content is not what was written: the hash ({HASH}) differs")
    return content


def read_json(path: Path) -> Any:
    """Return the content of a JSON file in UTF-8: every key once, every number finite, every character whole.

    Raises:
        OSError: The file is missing, is no plain file or cannot be read.
        ValueError: It holds something else; the message is one line.
    """
    content = load_json(read_file(path))
    check_json(content)
    return content


def refuse_newer(content: object, newest: int, where: Path, *, error: type[UserError] = DataError) -> None:
    """Refuse a file of a newer schema version than this version of Formless reads.

    Args:
        content: The file's content; anything but a mapping with a whole number as `format` passes.
        newest: The newest version that is read, e.g. `RECORD_SCHEMA`.
        where: The file, for the message.
        error: The kind of error.

    Raises:
        UserError: The version is newer; of the kind `error`.
    """
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is int and version > newest:
        what = f"the file has the newer schema version {version}; this Formless reads up to {newest}"
        raise error(what, where=where, remedy="update Formless: pip install --upgrade formless")


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], *, with_hash: bool = True
) -> None:
    """Write a safetensors file atomically.

    Args:
        path: The file.
        tensors: By name.
        metadata: Notes in the file; more than one stand there in an order by chance.
        with_hash: Whether a hash of the content is among them. An edit has it in edit.json instead, so that its bytes are the
            same each time.

    Raises:
        OutputError: The disk is full or the folder cannot be written; the old file stays as it was.
    """
    from safetensors.torch import save_file

    whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
    with output_errors(path), scratch_file(path) as (_, scratch):
        stated = {TENSORS_HASH: _tensors_hash(whole, metadata)} if with_hash else {}
        save_file(whole, scratch, metadata={**metadata, **stated})
        os.chmod(scratch, 0o644)
        sync(scratch)
        os.replace(scratch, path)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file by name, and its metadata without the hash, which older files lack.

    Raises:
        OSError: The file is missing, is no plain file or cannot be read.
        ValueError: It is no safetensors file, or does not hold what was written; the message is one line.
    """
    from safetensors import SafetensorError, safe_open

    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from error
    stated = metadata.pop(TENSORS_HASH, None)
    if stated is not None and stated != _tensors_hash(tensors, metadata):
        raise ValueError(f"its content is not what was written: the hash ({TENSORS_HASH}) differs")
    return tensors, metadata


def _hash(content: object) -> str:
    """Return the hash of a JSON value, whatever the order of its keys and the spaces of the file."""
    return hashlib.sha256(_dumps(content, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _dumps(content: object, *, sort_keys: bool = False) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, sort_keys=sort_keys, separators=(",", ":"))


def _tensors_hash(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    import torch

    digest = hashlib.sha256(_dumps(dict(metadata), sort_keys=True).encode("utf-8", "surrogatepass"))
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode("utf-8", "surrogatepass"))
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
