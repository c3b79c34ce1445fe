"""How much memory is free, and weights that lie in a mapped file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import psutil
from torch import nn

WeightsPlace = Literal["memory", "mapped"]

CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
SPARED = 0.25
"""The share of the free memory that weights leave for everything else."""


def free_memory() -> int:
    """Return the bytes of main memory that this process can still take: of the machine, or of its container where that is less.

    Pages of files that the system can drop count as free.
    """
    free = int(psutil.virtual_memory().available)
    return min([free, *_left_in_groups()])


def _left_in_groups() -> list[int]:
    """Return what each limit of Linux's control groups leaves, of version 2."""
    try:
        own = next(line for line in OWN_CGROUP.read_text("utf-8").splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group, found = CGROUPS / own.removeprefix("0::/"), []
    for folder in (group, *group.parents):
        try:
            limit, used = ((folder / name).read_text("utf-8").strip() for name in ("memory.max", "memory.current"))
            counts = dict(line.split() for line in (folder / "memory.stat").read_text("utf-8").splitlines())
        except (OSError, ValueError):  # the root has no limit
            continue
        if limit != "max":
            found.append(int(limit) - int(used) + int(counts["active_file"]) + int(counts["inactive_file"]))
    return found


def weights_place(model: nn.Module) -> WeightsPlace | None:
    """Return where the weights of a model lie that was just loaded; None if some are offloaded or absent.

    A mapped file is in memory page by page: the system may take pages away and has to read them again.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return None
    held = (parameter.untyped_storage() for parameter in model.parameters() if parameter.device.type == "cpu")
    return "memory" if all(storage.resizable() for storage in held) else "mapped"  # only PyTorch's own memory is resizable


def fits(size: int) -> bool:
    """Return whether so many bytes of weights fit into the free memory, beside what work on them needs."""
    return size <= (1 - SPARED) * free_memory()
