"""Reference of copy_pages: a copy, so every bit must agree, and nothing beside the targets may change."""

from __future__ import annotations

from functools import partial

import numpy as np

from tests.harness import Case, Problem
from tests.rounding import round_to_bf16


def copy_pages(kv_pages: np.ndarray, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[K, P, NKV, B, D] with the pages `targets` [N] as the pages `sources` [N]."""
    copied = kv_pages.copy()
    copied[:, targets] = kv_pages[:, sources]
    return copied


def _build(
    planes: int, pages: int, kv_heads: int, size: int, dim: int, copies: int, rng: np.random.Generator
) -> Problem:
    kv_pages = round_to_bf16(rng.standard_normal((planes, pages, kv_heads, size, dim)))
    order = rng.permutation(pages).astype(np.int32)
    targets, others = order[:copies], order[copies:]
    sources = rng.choice(others, copies).astype(np.int32)  # several copies of one page
    written = np.zeros(kv_pages.shape, dtype=bool)
    written[:, targets] = True
    return Problem(
        inputs={"kv_pages": kv_pages, "sources": sources, "targets": targets},
        expected={"kv_pages": copy_pages(kv_pages, sources, targets)},
        written={"kv_pages": written},
    )


def cases() -> list[Case]:
    shapes = [(2, 2, 1, 1, 8, 1), (4, 7, 3, 4, 24, 3), (2, 9, 8, 16, 64, 4), (6, 5, 2, 16, 128, 2)]
    return [Case("-".join(f"{n}{v}" for n, v in zip("KPHBDN", s, strict=True)), partial(_build, *s)) for s in shapes]
