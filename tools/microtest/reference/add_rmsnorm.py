"""Reference of add_rmsnorm. The residual is exact: float32 addition and rounding to bf16 have one right result."""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem
from tools.microtest.reference.rmsnorm import SHAPES, rmsnorm, rmsnorm_bound
from tools.microtest.rounding import round_to_bf16


def _build(tokens: int, hidden: int, rng: np.random.Generator) -> Problem:
    residual = round_to_bf16(4 * rng.standard_normal((tokens, hidden)))
    x = round_to_bf16(rng.standard_normal((tokens, hidden)))
    weight = round_to_bf16(1 + 0.5 * rng.standard_normal(hidden))
    if tokens > 1:
        x[1] = -residual[1]  # the sum cancels to zero
    total = round_to_bf16(residual + x)  # both float32, as in the kernel
    expected = rmsnorm(total, weight, 1e-5)
    return Problem(
        inputs={"residual": residual, "x": x, "weight": weight},
        scalars={"eps": 1e-5},
        expected={"out": expected, "residual": total.astype(np.float64)},
        bound={"out": rmsnorm_bound(expected)},
    )


def cases() -> list[Case]:
    return [Case(f"T{t}-H{h}", partial(_build, t, h)) for t, h in SHAPES]
