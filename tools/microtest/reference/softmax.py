"""Reference of softmax over rows, for the ladder of cuda_src/lab/softmax."""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem
from tools.microtest.rounding import F32_EPS, expf_eps, sum_eps


def softmax(x: np.ndarray) -> np.ndarray:
    """float64[T, N] from x [T, N]."""
    x = x.astype(np.float64)
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def softmax_bound(x: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Bound that holds for every rung, online softmax included.

    With r the largest difference within the row: each exponent is rounded (r roundoffs of the result) and each
    exponential is off by expf_eps(r), in the numerator and in the sum. Online, an element's share of the sum may be
    rescaled once by each later element; the exponents of those steps add up to r at most, their other errors to 5
    roundoffs a step. The sum and the quotient round too. What underflows is below 1e-37.
    """
    finite = np.where(np.isfinite(x), x.astype(np.float64), np.nan)
    spread = np.nanmax(finite, axis=-1, keepdims=True) - np.nanmin(finite, axis=-1, keepdims=True)
    one = expf_eps(spread) + spread * F32_EPS
    length = x.shape[-1]
    relative = 2 * one + one + 5 * length * F32_EPS + sum_eps(length) + 2 * F32_EPS
    return relative * expected + 1e-37


def _problem(x: np.ndarray) -> Problem:
    x = x.astype(np.float32)
    expected = softmax(x)
    return Problem(inputs={"x": x}, expected={"out": expected}, bound={"out": softmax_bound(x, expected)})


def _random(rows: int, length: int, rng: np.random.Generator) -> Problem:
    return _problem(3 * rng.standard_normal((rows, length)))


def _masked(rng: np.random.Generator) -> Problem:
    """-inf, as a mask leaves it: probability 0. At the start, in between, and everywhere but one place."""
    x = rng.standard_normal((3, 300))
    x[0, :200] = -np.inf
    x[1, ::2] = -np.inf
    x[2, :-1] = -np.inf
    return _problem(x)


def _ascending(_: np.random.Generator) -> Problem:
    """Each element is a new maximum: online softmax rescales at every step."""
    return _problem(np.linspace(-20, 20, 1000)[None, :].repeat(2, axis=0))


def _shifted(by: float, rng: np.random.Generator) -> Problem:
    """Exponentials of these overflow (or all underflow to 0) unless the maximum is taken off first."""
    return _problem(by + 3 * rng.standard_normal((3, 257)))


def cases() -> list[Case]:
    """The two shifted cases are beyond a softmax that does not subtract the maximum."""
    shapes = [(1, 1), (3, 7), (19, 31), (111, 33), (2, 576), (1, 4096), (5, 1025)]
    shifted = [Case(f"shifted{by}", partial(_shifted, float(by))) for by in (1000, -1000)]
    named = [Case("masked", _masked), Case("ascending", _ascending), *shifted]
    return [Case(f"T{t}-N{n}", partial(_random, t, n)) for t, n in shapes] + named
