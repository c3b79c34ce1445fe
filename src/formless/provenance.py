"""The code, the package versions and the machine that a result comes from."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

PACKAGES = ("formless", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "scipy")


class Code(BaseModel):
    """The state of formless in its git repository.

    Args:
        commit: The commit of the checkout.
        dirty: Whether the package's files differ from that commit.
    """

    model_config = ConfigDict(frozen=True)

    commit: str
    dirty: bool


@cache
def code() -> Code | None:
    """Return the commit that this process runs, or None for an installed package or without git."""
    package = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=package, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # the package may lie in another repository
        return Code(commit=git("rev-parse", "HEAD"), dirty=bool(git("status", "--porcelain", "--", ".")))
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Return the versions that an edit or a record depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def hardware() -> dict[str, str]:
    """Return the CPU, the GPU and the number of threads; not the machine's name."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"cpu": f"{os.cpu_count()} x {platform.machine()}", "gpu": gpu, "threads": str(torch.get_num_threads())}


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
