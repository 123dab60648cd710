"""Inputs of the probes: where a function may go wrong first, then random ones, from a seeded generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bindings.dtypes import float32_to_bf16
from tests.cpu_device.intrinsics.probe import Inputs

Recipe = Callable[[np.random.Generator], Inputs]
Floats = NDArray[np.float32]

COUNT = 256  # of one argument
PAIRS = 384  # of two or three

_NANS = (0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFC12345)
_EDGES = (0, 1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000, 0x3F800000, 0x3F7FFFFF)
# Half way between two bf16 numbers, the lower one even and odd, and just beside; the same for f16, its largest number
# and its subnormals; integers and their halves, up to where int and unsigned end.
_HALFWAY = (0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7F8000, 0x00008000, 0x00018000)
_VALUES = (0.5, 1.5, 2.5, 3.5, 2.7, 1e5, 1e10, 3e9, 2.0**31, 2.0**32, 2147483520.0, 4294967040.0, np.pi, 11 * np.pi)
_VALUES += (1 + 2.0**-11, 1 + 3 * 2.0**-11, 65504.0, 65519.996, 65520.0, 2.0**-14, 2.0**-24, 2.0**-25, 3 * 2.0**-25)


def _special_floats() -> Floats:
    bits = np.array((*_EDGES, *_HALFWAY), np.uint32).view(np.float32)
    positive = np.concatenate([bits, np.array(_VALUES, np.float32)])
    return np.concatenate([positive, -positive, np.array(_NANS, np.uint32).view(np.float32)])


def _random_floats(rng: np.random.Generator, count: int) -> Floats:
    """Half of them of any exponent (of any bits), half of everyday size."""
    anything = rng.integers(0, 2**32, count // 2, np.uint32).view(np.float32)
    return np.concatenate([anything, 4 * rng.standard_normal(count - count // 2, np.float32)])


def _floats(rng: np.random.Generator, count: int = COUNT) -> Floats:
    special = _special_floats()
    return np.concatenate([special, _random_floats(rng, count - len(special))])


def floats(rng: np.random.Generator) -> Inputs:
    """Numbers of every kind."""
    return (_floats(rng),)


def float_pairs(rng: np.random.Generator, arguments: int = 2) -> Inputs:
    """Every kind against every kind, shuffled, then random ones: two, or three, arguments."""
    few = np.array((0, 1, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x40490FDB), np.uint32).view(np.float32)
    few = np.concatenate([few, -few])
    first, second = (grid.reshape(-1) for grid in np.meshgrid(few, few))
    columns = [first, second, *(rng.permutation(first) for _ in range(arguments - 2))]
    return tuple(np.concatenate([column, _random_floats(rng, PAIRS - len(column))]) for column in columns)


def float_triples(rng: np.random.Generator) -> Inputs:
    """As float_pairs; in the last 64 the third argument nearly cancels the product of the others."""
    x, y, z = float_pairs(rng, 3)
    last = PAIRS - 64
    with np.errstate(all="ignore"):
        product = -x[last:] * y[last:]
    z[last:] = np.where(np.isnan(product), 0, product)  # which NaN a product gives depends on the processor
    return x, y, z


def within(low: float, high: float, *special: float) -> Recipe:
    """One argument from low to high, the ends among them, after the special ones."""

    def recipe(rng: np.random.Generator) -> Inputs:
        fixed = np.array([*special, low, high], np.float32)
        return (np.concatenate([fixed, rng.uniform(low, high, COUNT - len(fixed)).astype(np.float32)]),)

    return recipe


def every_scale(rng: np.random.Generator) -> Inputs:
    """Positive normal numbers of every exponent, many near 1; 0, infinity, NaN and a negative number."""
    fixed = np.array([0, np.inf, np.nan, -1, 1, 0.5, 2, np.finfo(np.float32).tiny], np.float32)
    scaled = np.exp2(rng.uniform(-126, 127.9, 128)).astype(np.float32)
    return (np.concatenate([fixed, scaled, rng.uniform(0.5, 2, COUNT - 136).astype(np.float32)]),)


def pairs_within(first: tuple[float, float], second: tuple[float, float]) -> Recipe:
    """Two arguments, each in its range."""

    def recipe(rng: np.random.Generator) -> Inputs:
        return tuple(rng.uniform(*bounds, PAIRS).astype(np.float32) for bounds in (first, second))

    return recipe


def _integers(rng: np.random.Generator, count: int, bits: int) -> NDArray[np.uint64]:
    top = 1 << bits
    special = [0, 1, 2, 3, 0x80, 0x7F80, 0xFF00FF, 0x55555555, top - 1, top - 2, top // 2, top // 2 - 1, top // 2 + 1]
    random = rng.integers(0, top, count - len(special), np.uint64, endpoint=False)
    shifts = rng.integers(0, bits, len(random)).astype(np.uint64)  # so that leading zeros of every number occur
    return np.concatenate([np.array(special, np.uint64), random >> shifts])


def words(arguments: int = 1, bits: int = 32, count: int = COUNT) -> Recipe:
    """`count` integers of 32 or 64 bits, unsigned."""

    def recipe(rng: np.random.Generator) -> Inputs:
        kind = np.uint32 if bits == 32 else np.uint64
        drawn = [_integers(rng, count, bits).astype(kind) for _ in range(arguments)]
        return tuple([drawn[0], *(rng.permutation(array) for array in drawn[1:])])

    return recipe


def signed(recipe: Recipe) -> Recipe:
    """The same bits, as signed integers."""

    def as_signed(rng: np.random.Generator) -> Inputs:
        return tuple(array.view(np.dtype(f"i{array.itemsize}")) for array in recipe(rng))

    return as_signed


_HALF_EDGES = (0, 1, 0x3FF, 0x400, 0x7F, 0x80, 0x3C00, 0x3F80, 0x7BFF, 0x7C00, 0x7C01, 0x7F7F, 0x7F80)
_HALF_NANS = (0x7FC0, 0x7FFF, 0x7E00, 0xFE00)


def every_half(arguments: int = 1) -> Recipe:
    """bf16 or f16 bits: the edges of both formats, and random ones."""

    def recipe(rng: np.random.Generator) -> Inputs:
        edges = np.array(
            [0, 1, 0x3FF, 0x400, 0x7F, 0x80, 0x3C00, 0x3F80, 0x7BFF, 0x7C00, 0x7C01, 0x7F7F, 0x7F80], np.uint16
        )
        edges = np.concatenate([edges, edges | 0x8000, np.array([0x7FC0, 0x7FFF, 0x7E00, 0xFE00], np.uint16)])
        count = COUNT if arguments == 1 else PAIRS
        random = [rng.integers(0, 2**16, count - len(edges), np.uint16) for _ in range(arguments)]
        return tuple(np.concatenate([rng.permutation(edges), array]) for array in random)

    return recipe


def everyday_halves(kind: str, arguments: int = 3) -> Recipe:
    """Numbers of everyday size as bf16 or f16."""

    def recipe(rng: np.random.Generator) -> Inputs:
        drawn = [(4 * rng.standard_normal(PAIRS)).astype(np.float32) for _ in range(arguments)]
        return tuple(float32_to_bf16(array) if kind == "bf16" else array.astype(np.float16) for array in drawn)

    return recipe


def half_pairs(kind: str) -> Recipe:
    """Three arguments of two numbers each, as one word."""

    def recipe(rng: np.random.Generator) -> Inputs:
        columns = everyday_halves(kind, 6)(rng)
        return tuple(np.stack(columns[2 * k : 2 * k + 2], axis=1).view(np.uint32)[:, 0] for k in range(3))

    return recipe


def half_float(recipe: Recipe) -> Recipe:
    """f16 bits as numbers."""

    def as_f16(rng: np.random.Generator) -> Inputs:
        return tuple(array.view(np.float16) for array in recipe(rng))

    return as_f16


def small(below: int, arguments: int = 1, count: int = 128) -> Recipe:
    """Integers from 0 up to `below`, so that lanes of a warp share some."""

    def recipe(rng: np.random.Generator) -> Inputs:
        return tuple(rng.integers(0, below, count) for _ in range(arguments))

    return recipe


def matrices(rng: np.random.Generator) -> Inputs:
    """Four matrices of 8 x 8 words of 16 bits."""
    return (rng.permutation(2**16)[: 4 * 64],)


MMA_TILES = 8


def fragments(rng: np.random.Generator) -> Inputs:
    """A, B (bf16 pairs) and C of MMA_TILES products; the last has an infinity and a NaN in it, the one before zeros.

    Every third product has terms that cancel: what is left shows how sums are cut off.
    """
    a = rng.standard_normal((MMA_TILES, 32, 8)).astype(np.float32)
    b = rng.standard_normal((MMA_TILES, 32, 4)).astype(np.float32)
    c = rng.standard_normal((MMA_TILES, 32, 4)).astype(np.float32)
    a[::3] *= np.exp2(rng.integers(-12, 12, (len(a[::3]), 32, 8))).astype(np.float32)
    a[-2] = 0
    a[-1, 3, 1], c[-1, 5, 2] = np.inf, np.nan
    packed = (float32_to_bf16(array).reshape(-1, 2).view(np.uint32)[:, 0] for array in (a, b))
    return (*packed, c.reshape(-1))
