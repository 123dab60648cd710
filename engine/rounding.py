"""Rounding a stored tensor to bf16 piece by piece."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bindings.dtypes import float32_to_bf16

# Elements rounded at a time: a multiple of every GGUF block (256 at most). The float32 temporaries of a piece (256 KB
# each) stay in a core's cache, twice as fast as a whole embedding at once, and memory peaks at one bf16 tensor.
PIECE = 1 << 16


def round_to_bf16(count: int, piece: Callable[[int, int], NDArray[np.float32]]) -> NDArray[np.uint16]:
    """bf16 bits [count] of the values that `piece(start, stop)` gives as float32 [stop - start]."""
    rounded = np.empty(count, np.uint16)
    for start in range(0, count, PIECE):
        stop = min(start + PIECE, count)
        rounded[start:stop] = float32_to_bf16(piece(start, stop))
    return rounded
