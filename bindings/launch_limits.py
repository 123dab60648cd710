"""The limits of a launch's geometry, in words: a driver says CUDA_ERROR_INVALID_VALUE to whatever is beyond them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

Dim3 = tuple[int, int, int]


@dataclass(frozen=True)
class LaunchLimits:
    """The most blocks and threads along x, y and z, and the most threads of one block of a kernel."""

    max_grid: Dim3
    max_block: Dim3
    max_threads: int

    def broken_by(self, grid: Dim3, block: Dim3) -> str:
        """What is wrong with a launch of this geometry; "" if nothing is."""
        for what, sizes, limits in (("grid", grid, self.max_grid), ("block", block, self.max_block)):
            if not all(1 <= size <= limit for size, limit in zip(sizes, limits, strict=True)):
                return f"the {what} is {sizes}; its sizes must be from (1, 1, 1) to {limits}"
        if prod(block) > self.max_threads:
            return f"a block of {block} has {prod(block)} threads; this kernel may have {self.max_threads}"
        return ""
