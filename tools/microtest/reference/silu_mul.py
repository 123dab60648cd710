"""Reference of silu_mul."""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem
from tools.microtest.rounding import F32_EPS, bf16_bound, expf_eps, round_to_bf16

EXTREMES = (0.0, -0.0, 88.0, -88.0, 90.0, -90.0, 1e4, -1e4, 3e38, -3e38, 1e-38, -1e-38)


def silu_mul(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """float64 silu(gate) * up. exp is taken of -|gate|, so that it cannot overflow."""
    gate, up = gate.astype(np.float64), up.astype(np.float64)
    small = np.exp(-np.abs(gate))
    return gate * np.where(gate < 0, small, 1.0) / (1.0 + small) * up


def silu_mul_bound(gate: np.ndarray, up: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The error of __expf, and one roundoff each for the addition, the division and the product.

    Below -88 exp(-gate) overflows to infinity and the kernel gives 0, where |silu| < 89 * exp(-88) < 1e-36.
    """
    relative = expf_eps(np.minimum(np.abs(gate), 89.0)) + 3 * F32_EPS
    return bf16_bound(expected, relative * np.abs(expected) + 1e-36 * np.abs(up))


def _problem(gate: np.ndarray, up: np.ndarray) -> Problem:
    expected = silu_mul(gate, up)
    return Problem(
        inputs={"gate_up": np.concatenate([gate, up], axis=-1)},
        expected={"out": expected},
        bound={"out": silu_mul_bound(gate, up, expected)},
    )


def _random(tokens: int, width: int, rng: np.random.Generator) -> Problem:
    gate = round_to_bf16(4 * rng.standard_normal((tokens, width)))
    return _problem(gate, round_to_bf16(rng.standard_normal((tokens, width))))


def _extreme(rng: np.random.Generator) -> Problem:
    gate = round_to_bf16(np.resize(EXTREMES, (2, 24)))
    return _problem(gate, round_to_bf16(rng.uniform(-1, 1, gate.shape)))


def cases() -> list[Case]:
    shapes = [(1, 8), (3, 1536), (19, 1000), (111, 64), (1, 8192), (2, 4096), (1, 2056)]
    return [Case(f"T{t}-I{i}", partial(_random, t, i)) for t, i in shapes] + [Case("extremes", _extreme)]
