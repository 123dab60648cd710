"""Reference of argmax. The answer is an index: it must be equal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem


def argmax(logits: np.ndarray) -> np.ndarray:
    """i32[S]: the lowest index of the largest number of each row; NaN is less than any; 0 for a row of only NaN."""
    return np.array([_argmax_row(row) for row in logits], dtype=np.int32)


def _argmax_row(row: np.ndarray) -> int:
    numbers = row[~np.isnan(row)]
    return int(np.flatnonzero(row == numbers.max())[0]) if numbers.size else 0


def _problem(logits: np.ndarray) -> Problem:
    logits = logits.astype(np.float32)
    return Problem(inputs={"logits": logits}, expected={"token_ids": argmax(logits)})


def _random(sequences: int, vocab: int, rng: np.random.Generator) -> Problem:
    return _problem(rng.standard_normal((sequences, vocab)))


def _ties(rng: np.random.Generator) -> Problem:
    """A few distinct values, many times each, the largest of them 0 and -0: those two are equal."""
    logits = rng.integers(-3, 1, (19, 1001)).astype(np.float32)
    negative_zero = (logits == 0) & (rng.random(logits.shape) < 0.5)
    return _problem(np.where(negative_zero, -0.0, logits))


def _first_and_last(_: np.random.Generator) -> Problem:
    """The winner at the first place, at the last, and at both."""
    logits = np.full((3, 4097), -1.0)
    logits[0, 0] = logits[1, -1] = logits[2, 0] = logits[2, -1] = 5.0
    return _problem(logits)


def _special(vocab: int, rng: np.random.Generator) -> Problem:
    """NaN at the first place and everywhere else, rows of one special value, -inf among NaN, two infinities."""
    logits = rng.standard_normal((8, vocab))
    logits[0, 0] = np.nan
    logits[1, ::2] = np.nan
    logits[2] = np.nan
    logits[3] = -np.inf
    logits[4] = np.nan
    logits[4, vocab - 1] = -np.inf
    logits[5, [vocab // 2, vocab - 1]] = np.inf
    logits[6] = -np.abs(logits[6])
    logits[7] = np.finfo(np.float32).min
    return _problem(logits)


def cases() -> list[Case]:
    shapes = [(1, 1), (3, 7), (19, 31), (111, 33), (1, 4096), (2, 49152), (1, 128256), (1, 128257)]
    special: list[tuple[str, Callable[[np.random.Generator], Problem]]] = [
        ("ties", _ties),
        ("first-and-last", _first_and_last),
        ("special-V31", partial(_special, 31)),
        ("special-V6000", partial(_special, 6000)),
    ]
    return [Case(f"S{s}-V{v}", partial(_random, s, v)) for s, v in shapes] + [Case(*pair) for pair in special]
