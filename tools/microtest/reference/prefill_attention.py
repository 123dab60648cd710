"""Float64 reference and cases of prefill_attention: causal attention of many queries over paged keys."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem
from tools.microtest.reference.paged_attention import Batch, Doubles, attend, random_batch, round_bf16, softmax_scale
from tools.microtest.rounding import BF16_EPS, bf16_bound

# (queries, tokens of earlier steps) of each sequence: one has nothing to do, one a single query (a decode
# step).
MIXED = ((17, 0), (1, 200), (65, 5), (0, 9), (3, 0))
# (D, NH, NKV): every head_dim; groups of 1, 2, 3, 4, 5 and 8 query heads.
SHAPES = ((64, 3, 3), (64, 4, 2), (64, 9, 3), (80, 5, 1), (80, 2, 2), (96, 8, 1), (128, 4, 1), (128, 2, 2))
SMALL = (64, 2, 1)


def reference(batch: Batch) -> tuple[Doubles, Doubles]:
    """out [T, NH, D] and its bound.

    The kernel rounds the weights to bf16 for the second product but sums them unrounded, so each is off by at
    most BF16_EPS of itself, and the output by BF16_EPS * sum of weight * |value|. To that come float32's
    errors and the rounding of the result.
    """
    expected = [np.zeros(q.shape) for q in batch.queries]
    bound = [np.zeros(q.shape) for q in batch.queries]
    for s, rows in enumerate(batch.queries):
        positions = len(batch.keys[s]) - len(rows) + np.arange(len(rows))
        for h in range(rows.shape[1]):
            attended = attend(*batch.head(s, h), positions, softmax_scale(rows.shape[2]))
            error = attended.out_error + BF16_EPS * (attended.spread + attended.out_error)
            expected[s][:, h] = attended.out
            bound[s][:, h] = bf16_bound(attended.out, error)
    return np.concatenate(expected), np.concatenate(bound)


def problem(
    rng: np.random.Generator, batch: Batch, expected: Doubles, bound: Doubles | float, idle_tiles: int = 0
) -> Problem:
    """The kernel's arguments for `batch`; the grid has `idle_tiles` tiles of 64 queries more than needed."""
    lengths = [len(q) for q in batch.queries]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    scalars = {"scale": softmax_scale(expected.shape[2]), "MAXQ": max(lengths) + 64 * idle_tiles}
    return Problem({**batch.inputs(rng), "query_starts": starts}, {"out": expected}, {"out": bound}, scalars)


def random_problem(
    rng: np.random.Generator,
    lengths: Sequence[tuple[int, int]],
    shape: tuple[int, int, int],
    spread: float = 3.0,
    common: float = 0.0,
    idle_tiles: int = 0,
) -> Problem:
    """See random_batch."""
    batch = random_batch(rng, lengths, shape, spread, common)
    return problem(rng, batch, *reference(batch), idle_tiles)


def running_mean(rng: np.random.Generator, queries: int, earlier: int) -> Problem:
    """Queries of zeros give all visible keys equal weight, and value j is j: position i gives the mean of 0
    .. i, i / 2.

    The weights are exactly 1, the sums are whole numbers that float32 holds, and bf16 holds halves up to
    127.5: no error at all, so that one key too many or too few shows.
    """
    head_dim, num_heads, num_kv_heads = SMALL
    count = queries + earlier
    assert count <= 256
    batch = random_batch(rng, [(queries, earlier)], SMALL)
    zeros = np.zeros((queries, num_heads, head_dim), np.float32)
    index = np.arange(count)[:, None, None]
    values = np.broadcast_to(index, (count, num_kv_heads, head_dim)).astype(np.float32)
    expected = np.broadcast_to(index[earlier:] / 2, zeros.shape)
    return problem(rng, Batch([zeros], batch.keys, [values]), expected, 0.0)


def one_hot(rng: np.random.Generator) -> Problem:
    """Each query is eight times the key of one token that it may see, and the keys are random signs: that
    score is 8 * sqrt(D), the next one lies tens below, and the answer is that token's value, exactly.

    Token i // 2 is asked for by query i of head 0, and token i, its own, of head 1.
    """
    head_dim, _, _ = SMALL
    signs = rng.choice(np.array([-1, 1], np.float32), size=(200, 1, head_dim))
    values = round_bf16(rng.standard_normal(signs.shape))
    positions = 70 + np.arange(130)
    wanted = np.stack([positions // 2, positions], axis=1)
    batch = Batch([8 * signs[wanted, 0]], [signs], [values])
    return problem(rng, batch, values[wanted, 0].astype(np.float64), 0.0)


def cases() -> list[Case]:
    """Lengths around the tile of 64, chunks, every shape on a mixed batch, large scores, two known by hand."""
    single = [
        Case(f"Q{n}-after{c}", partial(random_problem, lengths=[(n, c)], shape=SMALL))
        for n in (1, 3, 17, 63, 64, 65, 130)
        for c in (0, 5, 200)
    ]
    # Queries whose position is next to the edge of a tile of keys, which the mask must take or leave.
    means = [
        Case(f"running-mean-Q{n}-after{c}", partial(running_mean, queries=n, earlier=c))
        for n, c in ((130, 0), (65, 61), (65, 62), (65, 63), (65, 64))
    ]
    mixed = [
        Case(f"mixed-D{d}-NH{h}-NKV{k}", partial(random_problem, lengths=MIXED, shape=(d, h, k))) for d, h, k in SHAPES
    ]
    lengths = [(65, 30), (9, 0)]
    return [
        *single,
        *mixed,
        Case("idle-blocks", partial(random_problem, lengths=lengths, shape=SMALL, idle_tiles=2)),
        Case("large-scores", partial(random_problem, lengths=lengths, shape=SMALL, spread=60.0)),
        Case("scores-far-below-zero", partial(random_problem, lengths=lengths, shape=SMALL, common=5.0)),
        *means,
        Case("one-hot", one_hot),
    ]
