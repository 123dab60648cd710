"""Reference of embedding: a copy, so every bit must agree."""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem
from tools.microtest.rounding import round_to_bf16


def embedding(token_ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    """float64[T, H] from i32[T] and a table [V, H]."""
    return table[token_ids].astype(np.float64)


def _build(tokens: int, hidden: int, vocab: int, rng: np.random.Generator) -> Problem:
    table = round_to_bf16(rng.standard_normal((vocab, hidden)))
    token_ids = rng.integers(0, vocab, tokens).astype(np.int32)
    token_ids[0], token_ids[-1] = 0, vocab - 1  # the first and the last row of the table
    return Problem(inputs={"token_ids": token_ids, "table": table}, expected={"out": embedding(token_ids, table)})


def cases() -> list[Case]:
    shapes = [(1, 8, 3), (3, 576, 50), (19, 1000, 7), (111, 64, 300), (5, 2048, 11), (2, 4096, 4), (3, 16384, 5)]
    return [Case(f"T{t}-H{h}-V{v}", partial(_build, t, h, v)) for t, h, v in shapes]
