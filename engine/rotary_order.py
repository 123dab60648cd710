"""Which rows of a head are rotated together, and how to get from one convention to the other.

Hugging Face rotates the pairs (i, i + D/2) of a head, and so do the kernels; Meta's own checkpoints and llama.cpp
rotate the pairs (2i, 2i + 1). The rows of the query and key projections are stored in the order of one or the other.
"""

from __future__ import annotations

from numpy.typing import NDArray


def unpermute(rows: NDArray, num_heads: int) -> NDArray:
    """A query or key projection [num_heads * D, ...] of interleaved pairs, in Hugging Face's order; a new array.

    Within each head row (i, h) of [D/2, 2] goes to place (h, i) of [2, D/2].
    """
    pairs = rows.reshape(num_heads, rows.shape[0] // num_heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
