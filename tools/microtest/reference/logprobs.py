"""Reference of logprobs: log-softmax and ranks in float64."""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem
from tools.microtest.rounding import F32_EPS


def error_bound(logits: np.ndarray) -> np.ndarray:
    """float64[S]: the error of a log-probability.

    A term of the sum is rescaled by expf (2 ulp) each time that its thread meets a new maximum, each time once: at most
    some 20 times in a random row, the last two when threads and block are merged; the sum itself adds V roundings, the
    logarithm one ulp of its own; the difference and the maximum round to the size of the logits.
    """
    vocab = logits.shape[1]
    largest = np.abs(logits, where=np.isfinite(logits), out=np.zeros(logits.shape)).max(axis=1)
    return F32_EPS * (22 * 4 + vocab + 8 + 4 * largest + 4 * np.log(vocab + 1))


def _problem(logits: np.ndarray, token_ids: np.ndarray, num_top: int) -> Problem:
    logits = logits.astype(np.float32)
    x = np.where(np.isnan(logits), -np.inf, logits).astype(np.float64)
    shifted = x - x.max(axis=1, keepdims=True)
    logprob = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    order = np.argsort(-x, axis=1, kind="stable")[:, :num_top]
    rows, asked = np.arange(len(x)), token_ids >= 0
    bound = error_bound(x)
    return Problem(
        inputs={"logits": logits, "token_ids": token_ids.astype(np.int32)},
        expected={
            "chosen": np.where(asked, logprob[rows, token_ids], 0.0),
            "ranks": np.where(asked, 1 + (x > x[rows, token_ids][:, None]).sum(axis=1), 0).astype(np.int32),
            "top_ids": order.astype(np.int32),
            "top_logprobs": np.take_along_axis(logprob, order, axis=1),
        },
        bound={"chosen": bound, "top_logprobs": bound[:, None]},
    )


def _random(sequences: int, vocab: int, num_top: int, rng: np.random.Generator) -> Problem:
    tokens = rng.integers(-1, vocab, sequences)
    return _problem(4 * rng.standard_normal((sequences, vocab)), tokens, num_top)


def _ties(rng: np.random.Generator) -> Problem:
    return _problem(rng.integers(-3, 3, (5, 1001)).astype(np.float64), rng.integers(0, 1001, 5), 20)


def _special(rng: np.random.Generator) -> Problem:
    """Masked tokens and NaN among the others, and a row that rises to its end: every token is a new maximum."""
    logits = 3 * rng.standard_normal((3, 2000))
    logits[0, 1::2] = -np.inf
    logits[1, 5:900] = np.nan
    logits[2] = np.linspace(-8, 8, 2000)
    return _problem(logits, np.array([0, 2, 1999]), 5)


def cases() -> list[Case]:
    shapes = [(1, 1, 1), (3, 7, 7), (5, 1000, 20), (2, 49152, 5), (1, 128256, 3), (4, 50257, 1)]
    random = [Case(f"S{s}-V{v}-N{n}", partial(_random, s, v, n)) for s, v, n in shapes]
    return [*random, Case("ties", _ties), Case("special", _special)]
