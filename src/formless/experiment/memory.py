"""The most memory that a run takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

if sys.platform != "win32":
    import resource

import torch
from pydantic import BaseModel, ConfigDict

_MARK, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Memory(BaseModel):
    """Peaks in bytes.

    Args:
        resident: Resident memory of the process, the loaded model too.
        since: Whether `resident` is the peak of this run (Linux), or of its process so far.
        gpu: Tensors on CUDA devices during the run, by far the largest share of what a GPU holds; nothing without one.
    """

    model_config = ConfigDict(frozen=True)

    resident: int
    since: Literal["run", "process"]
    gpu: int | None


class Peak:
    """Measures from its creation on."""

    def __init__(self) -> None:
        """Begin anew, where the system lets a process do that."""
        try:
            _MARK.write_text("5")  # Linux: sets VmHWM back to what is resident now
            self._since_run = True
        except OSError:
            self._since_run = False
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> Memory:
        """The peaks so far."""
        used = [torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count())]
        gpu = sum(used) if used else None
        if self._since_run and (resident := _high_water()) is not None:
            return Memory(resident=resident, since="run", gpu=gpu)
        scale = 1 if sys.platform == "darwin" else 1024
        return Memory(resident=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale, since="process", gpu=gpu)


def _high_water() -> int | None:
    for line in _STATUS.read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
