"""What lies at an address, as a person would call it."""

from __future__ import annotations

from bindings.cpu.memory import heap
from bindings.memory import memory_map


def describe(address: int) -> str:
    """The buffer's name with the offset in it, else the allocation, else plain hex."""
    name = memory_map.describe(address)
    return name if name != hex(address) else str(heap.find(address) or name)
