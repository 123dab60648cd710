"""Philox4x32-10 in NumPy (Salmon et al., SC 2011), checked in tests/pure against the authors' known answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL_STEPS = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HIGH_SHIFT = np.uint64(32)


def philox4x32_10(counter: ArrayLike, key: ArrayLike) -> NDArray[np.uint32]:
    """Four random words, uint32[..., 4], for counters [..., 4] and 64-bit keys of the leading shape."""
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, dtype=np.uint64), -1, 0)
    key = np.asarray(key, dtype=np.uint64)
    k0, k1 = key & LOW, key >> HIGH_SHIFT
    for _ in range(10):
        product0, product1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> HIGH_SHIFT) ^ c1 ^ k0,
            product1 & LOW,
            (product0 >> HIGH_SHIFT) ^ c3 ^ k1,
            product0 & LOW,
        )
        k0, k1 = (k0 + np.uint64(WEYL_STEPS[0])) & LOW, (k1 + np.uint64(WEYL_STEPS[1])) & LOW
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).astype(np.uint32)
