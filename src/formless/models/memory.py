"""How much memory is free, and weights that lie in a mapped file."""

from __future__ import annotations

from pathlib import Path

import psutil
from torch import Tensor, nn

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


def is_mapped(weight: Tensor) -> bool:
    """Return whether a weight lies in a mapped file, whose pages the system may take away and read again."""
    return weight.device.type == "cpu" and not weight.untyped_storage().resizable()


def read_mapped(model: nn.Module) -> None:
    """Copy weights that lie in a mapped file into the process's own memory, if all of them fit; else leave them there."""
    mapped = [parameter for parameter in model.parameters() if is_mapped(parameter)]
    if sum(parameter.nbytes for parameter in mapped) <= (1 - SPARED) * free_memory():
        for parameter in mapped:
            parameter.data = parameter.data.clone()
