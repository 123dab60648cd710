"""Reference of the matrix product: float64 on the same bf16 numbers."""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem
from tools.microtest.rounding import F32_EPS, bf16_bound, round_to_bf16

SHAPES = [(1, 8, 16), (3, 576, 192), (17, 33, 65), (64, 128, 576), (130, 72, 1000)]


def _build(m: int, n: int, k: int, rng: np.random.Generator) -> Problem:
    """Products of bf16 numbers are exact in float32. Their sum rounds at most 17/16 times a term: once each, and once
    more for each 16 that a tensor core adds at a time; a rounding counts twice, since a tensor core may cut off.
    """
    a, b = round_to_bf16(rng.standard_normal((m, k))), round_to_bf16(rng.standard_normal((n, k)))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    expected = wide_a @ wide_b.T
    error = k * 17 / 16 * 2 * F32_EPS * (np.abs(wide_a) @ np.abs(wide_b).T)
    return Problem({"a": a, "b": b}, {"out": expected}, {"out": bf16_bound(expected, error)})


def cases() -> list[Case]:
    return [Case(f"M{m}-N{n}-K{k}", partial(_build, m, n, k)) for m, n, k in SHAPES]
