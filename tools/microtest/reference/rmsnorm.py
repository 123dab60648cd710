"""Reference of rmsnorm, shared by add_rmsnorm and the ladder of cuda_src/lab/rmsnorm."""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem
from tools.microtest.rounding import F32_EPS, bf16_bound, round_to_bf16, sum_eps

SHAPES = [(1, 8), (3, 576), (19, 1000), (111, 64), (1, 2048), (3, 4096), (2, 8192)]


def rmsnorm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """float64[T, H] from x [T, H] and weight [H]; `eps` is rounded to float32 first, as the kernel gets it."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + float(np.float32(eps))) * weight


def rmsnorm_bound(expected: np.ndarray) -> np.ndarray:
    """Bound of a bf16 result: the sum of squares in float32, halved by the square root; then the few steps behind it.

    A square, the division by H and the addition of eps round once each, before the root (3 / 2 roundoffs); rsqrtf
    is off by at most 2 units in the last place (4 roundoffs), and the two products round once each.
    """
    relative = sum_eps(expected.shape[-1]) / 2 + (1.5 + 4 + 2) * F32_EPS
    return bf16_bound(expected, relative * np.abs(expected))


def _build(tokens: int, hidden: int, scale: float, eps: float, rng: np.random.Generator) -> Problem:
    x = round_to_bf16(scale * rng.standard_normal((tokens, hidden)))
    weight = round_to_bf16(1 + 0.5 * rng.standard_normal(hidden))
    if tokens > 1:
        x[1] = 0  # a row of zeros: eps alone keeps it finite
    expected = rmsnorm(x, weight, eps)
    return Problem(
        inputs={"x": x, "weight": weight},
        scalars={"eps": eps},
        expected={"out": expected},
        bound={"out": rmsnorm_bound(expected)},
    )


def cases() -> list[Case]:
    shapes = [Case(f"T{t}-H{h}", partial(_build, t, h, 1.0, 1e-5)) for t, h in SHAPES]
    # 1e15: squares near the top of float32. 1e-22: squares are subnormal, eps decides.
    scales = [Case(f"scale{scale:g}", partial(_build, 3, 576, scale, 1e-6)) for scale in (1e15, 1e-22)]
    return shapes + scales
