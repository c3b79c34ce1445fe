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


def environment() -> dict[str, str]:
    """Return what a bug report should say: commit, versions, system and CPU. No torch is imported."""
    found = code()
    commit = f"{found.commit}{', changed since' if found.dirty else ''}" if found else "none, an installed package"
    return {"commit": commit} | versions() | {"platform": platform.platform(), "cpu": _cpu()}


_DTYPE_FLAGS = {
    "bfloat16": ("amx_bf16", "avx512_bf16", "bf16", "svebf16"), "float16": ("amx_fp16", "avx512_fp16", "asimdhp"),
}  # fmt: skip
"""By dtype, the flags of x86 and ARM CPUs that multiply it in hardware."""


def _cpu(info: Path = Path("/proc/cpuinfo")) -> str:
    """Return the cores and the dtypes that the CPU multiplies in hardware, as far as Linux says it."""
    cores = f"{os.cpu_count()} x {platform.machine()}"
    try:
        lines = info.read_text("utf-8", "replace").splitlines()
    except OSError:
        return cores
    flags = {
        flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.partition(":")[2].split()
    }
    able = {dtype: [flag for flag in known if flag in flags] for dtype, known in _DTYPE_FLAGS.items()}
    return "; ".join([cores, *(f"{dtype} in hardware: {', '.join(found) or 'no'}" for dtype, found in able.items())])


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
