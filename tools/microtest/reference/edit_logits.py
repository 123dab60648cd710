"""Reference of edit_logits."""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem
from tools.microtest.rounding import F32_EPS


def edited(logits, starts, tokens, biases, divisors, penalties):
    """float64[S, V], and the largest error of float32: one rounding of each sum, one of the product or quotient."""
    out, error = logits.astype(np.float64), np.zeros(logits.shape)
    for s in range(len(logits)):
        for e in range(starts[s], starts[s + 1]):
            x, d = out[s, tokens[e]] + biases[e], np.float64(divisors[e])
            scaled = x / d if x > 0 else x * d
            out[s, tokens[e]] = scaled - penalties[e]
            if np.isfinite(biases[e]):
                error[s, tokens[e]] = F32_EPS * (abs(x) * max(d, 1 / d) + 2 * abs(scaled) + abs(scaled - penalties[e]))
    return out, error


def _problem(counts: tuple[int, ...], vocab: int, spare: int, rng: np.random.Generator) -> Problem:
    """`counts` edits of each sequence, of distinct tokens; `spare` entries behind the last, which must not be read."""
    logits = (4 * rng.standard_normal((len(counts), vocab))).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    tokens = np.concatenate([rng.permutation(vocab)[:count] for count in counts] + [np.full(spare, -1)])
    size = len(tokens)
    biases = np.where(rng.random(size) < 0.2, -np.inf, rng.choice([0.0, 2.5, -1.5], size)).astype(np.float32)
    divisors = np.where(rng.random(size) < 0.5, 1.0, rng.uniform(0.5, 2.0, size)).astype(np.float32)
    penalties = rng.uniform(-2, 2, size).astype(np.float32)
    expected, error = edited(logits, starts, tokens, biases, divisors, penalties)
    inputs = {"logits": logits, "starts": starts, "tokens": tokens.astype(np.int32)}
    return Problem(
        inputs=inputs | {"biases": biases, "divisors": divisors, "penalties": penalties},
        expected={"logits": np.where(np.isneginf(expected), 0.0, expected)},
        bound={"logits": error},
        impossible={"logits": np.isneginf(expected)},
    )


def cases() -> list[Case]:
    return [
        Case("S3-V50", partial(_problem, (5, 0, 50), 50, 0)),
        Case("S1-V1", partial(_problem, (1,), 1, 3)),
        Case("S4-V50257", partial(_problem, (300, 1, 0, 4000), 50257, 17)),
        Case("nothing", partial(_problem, (0, 0), 100, 4)),
    ]
