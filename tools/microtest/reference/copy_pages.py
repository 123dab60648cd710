"""Reference of copy_pages: a copy, so every bit must agree, and nothing beside the targets may change."""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem
from tools.microtest.rounding import round_to_bf16


def copy_pages(kv_pages: np.ndarray, sources: np.ndarray, targets: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """[K, P, NKV, B, D] with the first `tokens` [N] tokens of the pages `targets` [N] as those of `sources` [N]."""
    copied = kv_pages.copy()
    for source, target, count in zip(sources, targets, tokens, strict=True):
        copied[:, target, :, :count] = kv_pages[:, source, :, :count]
    return copied


def _build(
    planes: int, pages: int, kv_heads: int, size: int, dim: int, copies: int, rng: np.random.Generator
) -> Problem:
    kv_pages = round_to_bf16(rng.standard_normal((planes, pages, kv_heads, size, dim)))
    order = rng.permutation(pages).astype(np.int32)
    targets, others = order[:copies], order[copies:]
    sources = rng.choice(others, copies).astype(np.int32)  # several copies of one page
    written = np.zeros(kv_pages.shape, dtype=bool)
    tokens = rng.integers(0, size + 1, copies).astype(np.int32)
    tokens[0] = size
    for target, count in zip(targets, tokens, strict=True):
        written[:, target, :, :count] = True
    return Problem(
        inputs={"kv_pages": kv_pages, "sources": sources, "targets": targets, "tokens": tokens},
        expected={"kv_pages": copy_pages(kv_pages, sources, targets, tokens)},
        written={"kv_pages": written},
    )


def cases() -> list[Case]:
    shapes = [(2, 2, 1, 1, 8, 1), (4, 7, 3, 4, 24, 3), (2, 9, 8, 16, 64, 4), (6, 5, 2, 16, 128, 2)]
    return [Case("-".join(f"{n}{v}" for n, v in zip("KPHBDN", s, strict=True)), partial(_build, *s)) for s in shapes]
