"""Reference of random_normal: the same random words, the transform in float64."""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem
from tools.microtest.reference.philox import philox4x32_10
from tools.microtest.rounding import F32_EPS, bf16_bound

# Largest absolute error of __sinf and __cosf between -pi and pi.
# Source: CUDA C++ Programming Guide, "Mathematical Functions", table of intrinsic functions.
TRIGONOMETRIC_ERROR = 2.0**-21.19


def radius_and_angle(count: int, seed: int, subsequence: int) -> tuple[np.ndarray, np.ndarray]:
    """float64[pairs] both. Up to u1 and the angle the arithmetic is float32's own, which is the same everywhere."""
    counters = np.zeros((-(-count // 4), 4), dtype=np.uint64)
    counters[:, 0], counters[:, 2] = np.arange(len(counters)), subsequence
    words = philox4x32_10(counters, np.uint64(seed)).reshape(-1, 2)
    u1 = (words[:, 0].astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    angle = words[:, 1].view(np.int32).astype(np.float32) * np.float32(np.pi * 2.0**-31)
    return np.sqrt(-2 * np.log(u1.astype(np.float64))), angle.astype(np.float64)


def random_normal(count: int, seed: int, subsequence: int) -> np.ndarray:
    """float64[count]: variates of standard deviation 1."""
    radius, angle = radius_and_angle(count, seed, subsequence)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)[:count]


def _build(count: int, std: float, seed: int, subsequence: int, rng: np.random.Generator) -> Problem:
    std = float(np.float32(std))
    expected = std * random_normal(count, seed, subsequence)
    radius = np.repeat(radius_and_angle(count, seed, subsequence)[0], 2)[:count]
    # The logarithm is good to 1 unit in the last place (2 roundoffs, halved by the root); one roundoff each for -2 ln,
    # the root and the two products.
    error = std * radius * TRIGONOMETRIC_ERROR + 5 * F32_EPS * np.abs(expected)
    return Problem(
        inputs={},
        expected={"out": expected},
        bound={"out": bf16_bound(expected, error)},
        scalars={"std": std, "seed": seed, "subsequence": subsequence},
    )


def cases() -> list[Case]:
    """One value, a lone tail, several blocks, many turns of a grid of one block; large seeds and subsequences."""
    shapes = [(1, 1.0, 0, 0), (13, 0.5, 1, 2), (2048, 0.02, 7, 3), (4099, 1.0, 2**64 - 1, 2**32 - 1)]
    shapes.append((50_007, 1.0, 3, 1))
    return [
        Case(f"N{n}-std{std}-seed{seed}", partial(_build, n, std, seed, subsequence))
        for n, std, seed, subsequence in shapes
    ]
