"""Where and with what a result was made."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import version

import torch

PACKAGES = ("formless", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """The versions that an edit or a record depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def hardware() -> dict[str, str]:
    """The machine, without its name."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"cpu": f"{os.cpu_count()} x {platform.machine()}", "gpu": gpu, "threads": str(torch.get_num_threads())}


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
