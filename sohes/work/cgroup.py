"""What the kernel lets this process have, as a container or a job of Slurm is limited: CPU time and memory.

Control groups, version 2 and 1 (the kernel's admin-guide/cgroup-v2.rst and cgroup-v1). A limit of a group holds for all
groups inside it, so every one around this process counts. In a container the outermost is the container's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")  # lines of `number:controllers:path`; of version 2 one, without controllers


def cpu_limit() -> float | None:
    """The number of CPUs whose time this process may use, such as 2.5; None without a limit."""
    pairs = [text.split() for text in _texts("", "cpu.max")]
    quotas = _texts("cpu", "cpu.cfs_quota_us")
    pairs += [[quota, period] for quota, period in zip(quotas, _texts("cpu", "cpu.cfs_period_us"), strict=False)]
    # Without a limit the quota is `max` or -1.
    return min((int(quota) / int(period) for quota, period in pairs if quota.isdecimal()), default=None)


def memory_limit() -> int | None:
    """Bytes that this process and those of its groups may hold together; None without a limit."""
    texts = (*_texts("", "memory.max"), *_texts("memory", "memory.limit_in_bytes"))
    return min((int(text) for text in texts if text.isdecimal()), default=None)


def _texts(controller: str, name: str) -> Iterator[str]:
    """What such a file says in this process's group and in each around it. controller: of version 1; empty for 2."""
    top = ROOT / controller
    group = top / _group(controller)
    for folder in (group, *group.parents):
        if folder.is_relative_to(top):
            with suppress(OSError):
                yield (folder / name).read_text().strip()


def _group(controller: str) -> str:
    with suppress(OSError):
        for line in OWN.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                return path.strip("/")
    return ""
