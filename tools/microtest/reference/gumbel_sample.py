"""Reference of gumbel_sample: the same random words, the scores in float64.

The answer is an index, so it must be equal; a row whose two best scores lie closer together than the float32 error of a
score would have two right answers, and makes the case itself fail.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem
from tools.microtest.reference.argmax import argmax
from tools.microtest.reference.philox import philox4x32_10
from tools.microtest.rounding import F32_EPS


def gumbel_noise(seeds: np.ndarray, positions: np.ndarray, vocab: int) -> np.ndarray:
    """float64[S, V]: the variate of each token, from word v % 4 of the counter (v / 4, position, 0, 0)."""
    groups = -(-vocab // 4)
    counters = np.zeros((len(seeds), groups, 4), dtype=np.uint64)
    counters[..., 0] = np.arange(groups)
    counters[..., 1] = positions.astype(np.uint32)[:, None]
    words = philox4x32_10(counters, seeds[:, None]).reshape(len(seeds), -1)[:, :vocab]
    # u is rounded as in the kernel: float32 arithmetic is the same everywhere.
    u = (words.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    u = np.minimum(u, np.float32(1 - 2.0**-24)).astype(np.float64)
    return -np.log(-np.log1p(-u))


def gumbel_scores(logits: np.ndarray, temperature: np.ndarray, seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """float64[S, V]: logits / temperature + noise, or the logits themselves in a greedy row (temperature 0)."""
    greedy = (temperature == 0)[:, None]
    divisor = np.where(greedy, 1.0, temperature[:, None].astype(np.float64))
    noise = gumbel_noise(seeds, positions, logits.shape[1])
    return logits.astype(np.float64) / divisor + np.where(greedy, 0.0, noise)


def _assert_one_answer(scores: np.ndarray, greedy: np.ndarray) -> None:
    """Score error: 1/T, the fused product and sum round once each; beside that the noise itself is off.

    It is log(E) of an exponential variate E, relatively off by 2^-19; __logf adds 3 ulp (6 roundoffs) of up to 23.
    """
    if scores.shape[1] < 2:
        return
    numbers = np.where(np.isnan(scores), -np.inf, scores)
    best = np.sort(numbers, axis=1)[:, -2:]
    error = (8 * np.abs(numbers).max(axis=1, where=np.isfinite(numbers), initial=1.0) + 6 * 23) * F32_EPS + 2.0**-19
    clear = np.isneginf(best[:, 1])  # nothing but -inf and NaN: the lowest index
    with np.errstate(invalid="ignore"):
        clear |= best[:, 1] - best[:, 0] > 2 * error
    unclear = ~clear & ~greedy
    assert not unclear.any(), f"the case has rows with two right answers: {np.flatnonzero(unclear)}"


def _problem(logits: np.ndarray, temperature: np.ndarray, rng: np.random.Generator) -> Problem:
    sequences = len(logits)
    logits, temperature = logits.astype(np.float32), temperature.astype(np.float32)
    seeds = rng.integers(0, 2**64, sequences, dtype=np.uint64)
    positions = rng.integers(0, 2**31, sequences).astype(np.int32)
    scores = gumbel_scores(logits, temperature, seeds, positions)
    _assert_one_answer(scores, temperature == 0)
    return Problem(
        inputs={"logits": logits, "temperature": temperature, "seeds": seeds, "positions": positions},
        expected={"token_ids": argmax(scores)},
    )


def _random(sequences: int, vocab: int, rng: np.random.Generator) -> Problem:
    temperature = np.resize([1.0, 0.7, 0.0, 2.5], sequences)
    return _problem(3 * rng.standard_normal((sequences, vocab)), temperature, rng)


def _special(rng: np.random.Generator) -> Problem:
    """NaN and -inf (a masked token) never win while another can; a nearly greedy temperature; a flat row."""
    logits = 3 * rng.standard_normal((5, 1001))
    logits[0, ::3] = np.nan
    logits[1, 1:] = -np.inf
    logits[2] = np.nan
    logits[3] = 0.0
    return _problem(logits, np.array([1.0, 1.0, 1.0, 1.0, 1e-3]), rng)


def cases() -> list[Case]:
    shapes = [(1, 1), (3, 7), (19, 31), (111, 33), (4, 4096), (1, 49152), (1, 128256), (1, 50257)]
    return [Case(f"S{s}-V{v}", partial(_random, s, v)) for s, v in shapes] + [Case("special", _special)]
