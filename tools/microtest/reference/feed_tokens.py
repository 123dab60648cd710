"""Reference of feed_tokens: integers, so every one must agree."""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem


def feed_tokens(token_ids: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """i32[T]: the tokens, those below zero replaced by the chosen ones that they stand for."""
    fed = token_ids.copy()
    fed[token_ids < 0] = chosen[-1 - token_ids[token_ids < 0]]
    return fed


def _build(tokens: int, rows: int, share: float, rng: np.random.Generator) -> Problem:
    chosen = rng.integers(0, 1 << 30, rows).astype(np.int32)
    token_ids = rng.integers(0, 1 << 30, tokens).astype(np.int32)
    fed = rng.random(tokens) < share
    token_ids[fed] = -1 - rng.integers(0, rows, int(fed.sum()))
    token_ids[0], token_ids[-1] = -1, -rows  # the first and the last row
    inputs = {"token_ids": token_ids, "chosen": chosen}
    return Problem(inputs=inputs, expected={"token_ids": feed_tokens(token_ids, chosen)})


def cases() -> list[Case]:
    shapes = [(1, 1, 1.0), (3, 8, 0.5), (255, 255, 1.0), (256, 300, 0.2), (2049, 7, 0.1)]
    return [Case(f"T{t}-C{c}", partial(_build, t, c, share)) for t, c, share in shapes]
