"""What the CPU device is made of: the host's processor and memory, and the limits that the user sets."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bindings.errors import CutawayError

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class MemoryLimit:
    """`total` bytes of device memory; `of_host` when that is the host's memory, shared with every other program."""

    total: int
    of_host: bool

    def free(self, allocated: int) -> int:
        """What is left when the device has handed out `allocated` bytes."""
        left = self.total - allocated
        return max(min(left, meminfo()["MemAvailable"]) if self.of_host else left, 0)


def meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    pairs = (line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def _container_limit() -> int | None:
    """What a container may use, if less than the machine has."""
    for path in CGROUP_LIMITS:
        try:
            return int(Path(path).read_text())
        except (OSError, ValueError):  # not there, or "max"
            continue
    return None


@lru_cache(maxsize=1)
def _host_total() -> int:
    total = meminfo()["MemTotal"]
    return min(total, _container_limit() or total)


def memory_limit() -> MemoryLimit:
    """$CUTAWAY_CPU_MEMORY in bytes if set, else the host's memory. Raises CutawayError on another word."""
    text = os.environ.get("CUTAWAY_CPU_MEMORY", "")
    if text:
        if not text.isdecimal() or not int(text):
            raise CutawayError(f"CUTAWAY_CPU_MEMORY is {text!r}; it must be a number of bytes")
        return MemoryLimit(int(text), of_host=False)
    return MemoryLimit(_host_total(), of_host=True)


@lru_cache(maxsize=1)
def processor_name() -> str:
    """The processor's name as its maker writes it, without the trademark signs."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].replace("(R)", "").replace("(TM)", "").strip()
    return platform.machine()
