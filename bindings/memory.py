"""Who owns which device address: names for the pointers in errors, traces and reports.

Every `Buffer` registers itself here while it lives, so that an address can be told as
`layers.3.mlp.down.weight+0x40` instead of `0x7f31c2a00040`.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque

from bindings.errors import CudaError

FREED_NAMES = 256  # how many of the ranges freed last keep their names, for reports of a use after free


class OutOfMemory(CudaError):
    """An allocation that found no room: which buffer asked for how many bytes, and what was free.

    `remedy` says what to lower; who knows better than the general hint gives it by `with_remedy`.
    """

    STATUS = "CUDA_ERROR_OUT_OF_MEMORY"

    def __init__(self, buffer: str, nbytes: int, free: int, total: int, remedy: str = "") -> None:
        self.buffer, self.nbytes, self.free, self.total, self.remedy = buffer, nbytes, free, total, remedy
        super().__init__("cuMemAlloc", self.STATUS, "out of memory", f"bytesize={nbytes}")

    def with_remedy(self, remedy: str) -> OutOfMemory:
        """The same error with a remedy of the caller's."""
        return OutOfMemory(self.buffer, self.nbytes, self.free, self.total, remedy)

    def _line(self) -> str:
        asked, free, total = (f"{nbytes / 1e6:,.1f} MB" for nbytes in (self.nbytes, self.free, self.total))
        line = f"out of device memory: {self.buffer} needs {asked}, {free} of {total} are free"
        return f"{line}; {self.remedy or self.hint}"


class MemoryMap:
    """The live, non-overlapping named ranges of device memory, by start address."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: dict[int, tuple[int, str]] = {}
        self._freed: deque[tuple[int, int, str]] = deque(maxlen=FREED_NAMES)
        self.version = 0  # another one after each change

    def add(self, address: int, nbytes: int, name: str) -> None:
        """Register a range of `nbytes` at `address`; a range that began there before is forgotten."""
        self.version += 1
        if address not in self._ranges:
            insort(self._starts, address)
        self._ranges[address] = (nbytes, name)

    def remove(self, address: int) -> None:
        """The range that begins at `address` is freed; its name is kept for a while."""
        self.version += 1
        found = self._ranges.pop(address, None)
        if found is not None:
            del self._starts[bisect_right(self._starts, address) - 1]
            self._freed.append((address, *found))

    def name_at(self, address: int) -> str | None:
        """The name of the range that holds `address`, or of one that did: then as `freed NAME`; None if none did."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._starts[index] + self._ranges[self._starts[index]][0]:
            return self._ranges[self._starts[index]][1]
        freed = self._freed_at(address)
        return None if freed is None else f"freed {freed[2]}"

    def _freed_at(self, address: int) -> tuple[int, int, str] | None:
        return next((range_ for range_ in reversed(self._freed) if 0 <= address - range_[0] < range_[1]), None)

    def describe(self, address: int) -> str:
        """`name+0xOFFSET` of an address, `freed name+0xOFFSET`, `just past the end of name`, else plain hex."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0:
            start = self._starts[index]
            nbytes, name = self._ranges[start]
            offset = address - start
            if offset < nbytes:
                return name if offset == 0 else f"{name}+{offset:#x}"
            if offset < nbytes + 4096:
                return f"{address:#x} ({offset - nbytes} bytes past the end of {name})"
        freed = self._freed_at(address)
        if freed is not None:
            return f"freed {freed[2]}" + (f"+{address - freed[0]:#x}" if address > freed[0] else "")
        return f"{address:#x}" if address else "NULL"

    def live(self) -> list[tuple[int, int, str]]:
        """All live ranges as (address, nbytes, name), by address."""
        return [(start, *self._ranges[start]) for start in self._starts]


memory_map = MemoryMap()
