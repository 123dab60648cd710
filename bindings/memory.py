"""Who owns which device address: names for the pointers in errors, traces and reports.

Every `Buffer` registers itself here while it lives, so that an address can be told as
`layers.3.mlp.down.weight+0x40` instead of `0x7f31c2a00040`.
"""

from bisect import bisect_right, insort


class MemoryMap:
    """The live, non-overlapping named ranges of device memory, by start address."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: dict[int, tuple[int, str]] = {}

    def add(self, address: int, nbytes: int, name: str) -> None:
        """Register a range of `nbytes` at `address`; a range that began there before is forgotten."""
        if address not in self._ranges:
            insort(self._starts, address)
        self._ranges[address] = (nbytes, name)

    def remove(self, address: int) -> None:
        """Forget the range that begins at `address`."""
        if self._ranges.pop(address, None) is not None:
            del self._starts[bisect_right(self._starts, address) - 1]

    def describe(self, address: int) -> str:
        """`name` or `name+0xOFFSET` for an address inside a range, `just past the end of name`, else plain hex."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0:
            start = self._starts[index]
            nbytes, name = self._ranges[start]
            offset = address - start
            if offset < nbytes:
                return name if offset == 0 else f"{name}+{offset:#x}"
            if offset < nbytes + 4096:
                return f"{address:#x} ({offset - nbytes} bytes past the end of {name})"
        return f"{address:#x}" if address else "NULL"

    def live(self) -> list[tuple[int, int, str]]:
        """All live ranges as (address, nbytes, name), by address."""
        return [(start, *self._ranges[start]) for start in self._starts]


memory_map = MemoryMap()
