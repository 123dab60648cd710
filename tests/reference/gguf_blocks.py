"""float64 values of ggml's quantised blocks, one value at a time, from the layouts of the blocks.

A block is a few scales and a small whole number q for each value. Layouts: the structs block_q8_0 and its kin in
https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h. Halves are little-endian float16.

    type   values  bytes: fields in order                                             value
    Q8_0     32     34    d half, 32 signed q                                         d q
    Q4_0     32     18    d half, 16 bytes of two q                                   d (q - 8)
    Q4_1     32     20    d half, m half, 16 bytes of two q                           d q + m
    Q5_0     32     22    d half, 32 high bits, 16 bytes of two low halves            d (q - 16)
    Q5_1     32     24    d half, m half, 32 high bits, 16 bytes of two low halves    d q + m
    Q4_K    256    144    d half, e half, 8 scales and 8 minima in 12 bytes, 128 q    d s q - e m
    Q5_K    256    176    as Q4_K, with 32 bytes of high bits before the 128          d s q - e m
    Q6_K    256    210    128 low halves, 64 bytes of two high bits, 16 scales, d     d s (q - 32)

Every product is exact in float64, and so is their difference: at most 25 bits each, from 2^-24 up to 2^26. A program
that computes in float32 rounds once, where it adds or makes a product of more than 24 bits; so does `expected_bf16`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bindings.dtypes import float32_to_bf16

Floats = NDArray[np.float64]


def expected_bf16(values: Floats) -> NDArray[np.uint16]:
    """`values` rounded to float32, then to bf16: its bits."""
    with np.errstate(over="ignore"):
        return float32_to_bf16(values.astype(np.float32))


def half(block: bytes, at: int) -> float:
    """The float16 at byte `at`."""
    return float(np.frombuffer(block, "<f2", 1, at)[0])


def nibble(block: bytes, at: int, index: int, count: int) -> int:
    """Of `count` bytes from `at` on, value `index` of 2 `count`: first the low halves of all, then the high ones."""
    return block[at + index % count] >> 4 * (index // count) & 15


def bit(block: bytes, at: int, index: int) -> int:
    """Bit `index`, counted from the lowest of byte `at`."""
    return block[at + index // 8] >> index % 8 & 1


def q8_0(block: bytes) -> list[float]:
    return [half(block, 0) * int.from_bytes(block[2 + i : 3 + i], "little", signed=True) for i in range(32)]


def q4_0(block: bytes) -> list[float]:
    return [half(block, 0) * (nibble(block, 2, i, 16) - 8) for i in range(32)]


def q4_1(block: bytes) -> list[float]:
    return [half(block, 0) * nibble(block, 4, i, 16) + half(block, 2) for i in range(32)]


def q5_0(block: bytes) -> list[float]:
    return [half(block, 0) * (nibble(block, 6, i, 16) + 16 * bit(block, 2, i) - 16) for i in range(32)]


def q5_1(block: bytes) -> list[float]:
    return [half(block, 0) * (nibble(block, 8, i, 16) + 16 * bit(block, 4, i)) + half(block, 2) for i in range(32)]


def k_scale(block: bytes, group: int) -> tuple[int, int]:
    """Scale and minimum of one of 8 groups of 32 values, 6 bits each, in the 12 bytes from byte 4 on.

    Bytes 0 to 3 hold the scales of groups 0 to 3, bytes 4 to 7 their minima; their two highest bits belong to groups
    4 to 7, whose low four bits are in bytes 8 to 11: scale below, minimum above.
    """
    packed = block[4:16]
    if group < 4:
        return packed[group] & 63, packed[group + 4] & 63
    low = packed[group + 4]
    return low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4


def k_values(block: bytes, quant: Callable[[int], int]) -> list[float]:
    values = []
    for i in range(256):
        scale, minimum = k_scale(block, i // 32)
        values.append(half(block, 0) * scale * quant(i) - half(block, 2) * minimum)
    return values


def q4_k(block: bytes) -> list[float]:
    # 32 bytes for 64 values: the low halves are one group, the high halves the next.
    return k_values(block, lambda i: nibble(block, 16 + 32 * (i // 64), i % 64, 32))


def q5_k(block: bytes) -> list[float]:
    # Bit g of high byte j belongs to value j of group g.
    return k_values(
        block, lambda i: nibble(block, 48 + 32 * (i // 64), i % 64, 32) + 16 * (block[16 + i % 32] >> i // 32 & 1)
    )


def q6_k(block: bytes) -> list[float]:
    values = []
    for i in range(256):
        # Two runs of 128 values: 64 bytes of low halves, 32 bytes with two high bits for each of four quarters.
        run, quarter, j = i // 128, i % 128 // 32, i % 32
        low = nibble(block, 64 * run, i % 128, 64)
        high = block[128 + 32 * run + j] >> 2 * quarter & 3
        scale = int.from_bytes(block[192 + i // 16 : 193 + i // 16], "little", signed=True)
        values.append(half(block, 208) * scale * (low + 16 * high - 32))
    return values


# name of the type -> bytes of a block, where its halves lie, its values
BLOCKS: dict[str, tuple[int, tuple[int, ...], Callable[[bytes], list[float]]]] = {
    "Q8_0": (34, (0,), q8_0),
    "Q4_0": (18, (0,), q4_0),
    "Q4_1": (20, (0, 2), q4_1),
    "Q5_0": (22, (0,), q5_0),
    "Q5_1": (24, (0, 2), q5_1),
    "Q4_K": (144, (0, 2), q4_k),
    "Q5_K": (176, (0, 2), q5_k),
    "Q6_K": (210, (208,), q6_k),
}


def dequantized(stored: NDArray[np.uint8], kind: str) -> Floats:
    """The values of whole blocks of the type `kind`, or of plain floats of 16 or 32 bits, as float64."""
    if kind == "F32":
        return stored.view("<f4").astype(np.float64)
    if kind == "F16":
        return stored.view("<f2").astype(np.float64)
    if kind == "BF16":
        return (stored.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    nbytes, _, values = BLOCKS[kind]
    return np.array([value for block in stored.reshape(-1, nbytes) for value in values(block.tobytes())])
