"""Float64 reference and cases of combine_splits: the attention of a sequence from that of its splits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from engine.ops import SPLIT_TOKENS
from tools.microtest.harness import Case, Problem
from tools.microtest.reference.paged_attention import (
    PAGE_SIZE,
    Doubles,
    Floats,
    attend,
    random_batch,
    softmax_scale,
    traps,
)
from tools.microtest.rounding import F32_EPS, bf16_bound

# (D, NH, NKV)
SHAPES = ((64, 9, 3), (80, 5, 1), (96, 2, 2), (128, 8, 1))


def reference(partial_out: Floats, partial_lse: Floats, live: Sequence[int]) -> tuple[Doubles, Doubles]:
    """out [S, NH, D] and its bound, from the first live[s] splits of partial_out [S, NH, C, D] and
    partial_lse [S, NH, C].

    An exponent d = lse - max below zero is off by |d| * 2u for the subtraction and the change of base, and
    the exponential by 2u of itself more (u = 2^-23); sums of `live` terms by live * u, and the division by u.
    """
    u = 2 * F32_EPS
    expected, bound = np.zeros((2, *partial_out.shape[:2], partial_out.shape[3]))
    for s, count in enumerate(live):
        if count == 0:
            continue
        out, lse = partial_out[s, :, :count].astype(np.float64), partial_lse[s, :, :count].astype(np.float64)
        below = lse - lse.max(axis=1, keepdims=True)
        weights = np.exp(below) / np.exp(below).sum(axis=1, keepdims=True)
        weight_error = weights * (np.expm1(2 * u * np.abs(below)) + 2 * u)
        expected[s] = np.einsum("hc,hcd->hd", weights, out)
        spread = np.einsum("hc,hcd->hd", weights, np.abs(out))
        moved = np.einsum("hc,hcd->hd", weight_error, np.abs(out))
        moved += weight_error.sum(axis=1, keepdims=True) * np.abs(expected[s])
        bound[s] = bf16_bound(expected[s], moved + (count + 2) * u * (spread + np.abs(expected[s])))
    return expected, bound


def problem(
    rng: np.random.Generator,
    partial_out: Floats,
    partial_lse: Floats,
    lengths: Sequence[int],
    num_kv_heads: int,
) -> Problem:
    """The kernel's arguments; dead splits are traps."""
    live = [-(-length // SPLIT_TOKENS) for length in lengths]
    for s, count in enumerate(live):
        for array in (partial_out, partial_lse):
            array[s, :, count:] = traps(rng, array[s, :, count:].shape)
    expected, bound = reference(partial_out, partial_lse, live)
    inputs = {"partial_out": partial_out, "partial_lse": partial_lse, "seq_lens": np.array(lengths, np.int32)}
    return Problem(inputs, {"out": expected}, {"out": bound}, {"NKV": num_kv_heads, "B": PAGE_SIZE})


def random_problem(
    rng: np.random.Generator,
    lengths: Sequence[int],
    shape: tuple[int, int, int],
    spread: float = 2.0,
    shift: float = 0.0,
) -> Problem:
    """Normal outputs, and log-sum-exps of mean `shift` and deviation `spread`. `shape`: (D, NH, NKV)."""
    head_dim, num_heads, num_kv_heads = shape
    splits = -(-max(lengths) // SPLIT_TOKENS) + 1
    partial_out = rng.standard_normal((len(lengths), num_heads, splits, head_dim)).astype(np.float32)
    partial_lse = (shift + spread * rng.standard_normal(partial_out.shape[:3])).astype(np.float32)
    return problem(rng, partial_out, partial_lse, lengths, num_kv_heads)


def whole_sequence(rng: np.random.Generator) -> Problem:
    """Splits of a real attention: merged, they give the attention over all tokens at once.

    To the bound comes their own rounding to float32: 2^-24 of the outputs, and of the log-sum-exps, which
    moves the weights by as much, above and below the fraction bar.
    """
    length, (head_dim, num_heads, num_kv_heads) = 700, SHAPES[0]
    batch = random_batch(rng, [(1, length - 1)], SHAPES[0])
    splits = -(-length // SPLIT_TOKENS)
    partial_out, partial_lse = np.zeros((1, num_heads, splits, head_dim)), np.zeros((1, num_heads, splits))
    whole = np.zeros((1, num_heads, head_dim))
    scale, everything = softmax_scale(head_dim), np.array([length])
    for h in range(num_heads):
        query, keys, values = batch.head(0, h)
        whole[0, h] = attend(query, keys, values, everything, scale).out[0]
        for c in range(splits):
            tokens = slice(c * SPLIT_TOKENS, (c + 1) * SPLIT_TOKENS)
            attended = attend(query, keys[tokens], values[tokens], everything, scale)
            partial_out[0, h, c], partial_lse[0, h, c] = attended.out[0], attended.lse[0]
    merged = problem(rng, partial_out.astype(np.float32), partial_lse.astype(np.float32), [length], num_kv_heads)
    largest = np.abs(partial_out).max(axis=2)
    rounded = F32_EPS * (1 + 2 * np.abs(partial_lse).max(axis=2)[..., None]) * largest
    return Problem(merged.inputs, {"out": whole}, {"out": merged.bound["out"] + rounded}, merged.scalars)


def cases() -> list[Case]:
    """One split, some, many; sequences of different lengths; log-sum-exps far apart and far from zero."""
    mixed = (70, 900, 0, 256, 257)
    shapes = [Case(f"mixed-D{d}-NH{h}", partial(random_problem, lengths=mixed, shape=(d, h, k))) for d, h, k in SHAPES]
    return [
        *shapes,
        Case("many-splits", partial(random_problem, lengths=(40 * SPLIT_TOKENS,), shape=SHAPES[0])),
        Case("far-apart", partial(random_problem, lengths=mixed, shape=SHAPES[0], spread=50.0)),
        Case("far-below-zero", partial(random_problem, lengths=mixed, shape=SHAPES[0], shift=-500.0)),
        Case("whole-sequence", whole_sequence),
    ]
