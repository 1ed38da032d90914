"""The memory that a program may still take, and a clear refusal before something larger is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

GIB = 2**30
CONTROL_GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def host_memory(groups: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> int:
    """Return the bytes that this process may still take: those of the machine, or what its control groups leave."""
    return max(0, min([psutil.virtual_memory().available, *_left_by_groups(groups, own)]))


def device_memory(device: torch.device) -> int:
    """Return the bytes that are free on a GPU, or on the host for the device "cpu"."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_memory()


def require_memory(needed: int, device: torch.device, what: str) -> None:
    """Raise ValueError, with both numbers, if fewer than `needed` bytes are free. `what` names the thing to load."""
    free = device_memory(device)
    if needed <= free:
        return
    where = "this machine (or its control group)" if device.type == "cpu" else str(device)
    raise ValueError(
        f"{what} needs {needed / GIB:.1f} GiB, and {where} has {free / GIB:.1f} GiB free: use wam.dtype=bfloat16, "
        "fewer processes (rollout.runners, evaluation.processes), or a machine with more memory"
    )


def _left_by_groups(groups: Path, own: Path) -> Iterator[int]:
    """Yield what is left below the limit of every control group around this process."""
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (groups / "memory", _VERSION_1) if controllers else (groups, _VERSION_2)
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            yield from _left_by(group, *names)
            if group == root:
                break


def _left_by(group: Path, limit: str, used: str, cache: str) -> Iterator[int]:
    if not ((group / limit).is_file() and (group / used).is_file()):
        return
    most = (group / limit).read_text().strip()
    if most == "max":
        return
    statistics = (group / "memory.stat").read_text().split() if (group / "memory.stat").is_file() else []
    freed = dict(zip(statistics[::2], statistics[1::2], strict=True)).get(cache, "0")  # the kernel gives it back first
    yield int(most) - int((group / used).read_text()) + int(freed)
