"""Float64 reference and cases of decode_attention: one query a sequence, over one split of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from engine.ops import SPLIT_TOKENS
from tools.microtest.harness import Case, Problem
from tools.microtest.reference.paged_attention import Batch, attend, random_batch, round_bf16, softmax_scale
from tools.microtest.rounding import F32_EPS

# Around the page (16), the tile (128) and the split (256).
LENGTHS = (1, 15, 16, 17, 127, 128, 129, 255, 256, 257, 640)
# (D, NH, NKV): every head_dim; groups of 1, 2, 3, 4, 5 and 8 query heads.
SHAPES = ((64, 3, 3), (64, 4, 2), (64, 9, 3), (64, 16, 2), (80, 5, 1), (96, 2, 2), (128, 8, 2), (128, 8, 1))


def reference(rng: np.random.Generator, batch: Batch, num_splits: int) -> Problem:
    """The kernel's arguments for `batch`, and the attention of each split by itself.

    A split that begins at or beyond the sequence's end is not written. The results are float32; their bounds
    are `attend`'s.
    """
    num_heads, head_dim = batch.queries[0].shape[1:]
    shape = (len(batch.queries), num_heads, num_splits)
    out, out_bound = np.zeros((2, *shape, head_dim))
    lse, lse_bound = np.zeros((2, *shape))
    live = np.zeros(shape, np.bool_)
    for s, h, c in np.ndindex(shape):
        query, keys, values = batch.head(s, h)
        tokens = slice(c * SPLIT_TOKENS, min((c + 1) * SPLIT_TOKENS, len(keys)))
        if tokens.start >= tokens.stop:
            continue
        everything = np.array([SPLIT_TOKENS])
        attended = attend(query, keys[tokens], values[tokens], everything, softmax_scale(head_dim))
        live[s, h, c] = True
        out[s, h, c], out_bound[s, h, c] = attended.out[0], attended.out_error[0]
        lse[s, h, c], lse_bound[s, h, c] = attended.lse[0], attended.lse_error[0]
    return Problem(
        inputs=batch.inputs(rng),
        expected={"partial_out": out, "partial_lse": lse},
        bound={"partial_out": out_bound, "partial_lse": lse_bound},
        scalars={"scale": softmax_scale(head_dim)},
        written={"partial_out": np.broadcast_to(live[..., None], out.shape), "partial_lse": live},
    )


def random_problem(
    rng: np.random.Generator,
    lengths: Sequence[int],
    shape: tuple[int, int, int],
    spread: float = 3.0,
    common: float = 0.0,
    idle_splits: int = 0,
) -> Problem:
    """Sequences of these lengths; `idle_splits` more than the longest needs. The rest as in random_batch."""
    batch = random_batch(rng, [(1, length - 1) for length in lengths], shape, spread, common)
    return reference(rng, batch, -(-max(lengths) // SPLIT_TOKENS) + idle_splits)


def equal_weights(rng: np.random.Generator) -> Problem:
    """A query of zeros weighs all tokens alike, and value j is j mod 64: a split gives their mean, and
    log(count).

    The weights are exactly 1 and the sums whole numbers that float32 holds, so that one token too many or too
    few shows: only the division rounds, and the logarithm (in three steps of at most 2^-23 each).
    """
    batch = random_batch(rng, [(1, length - 1) for length in LENGTHS], (64, 3, 1))
    queries = [np.zeros_like(q) for q in batch.queries]
    values = [np.broadcast_to(np.arange(len(v))[:, None, None] % 64, v.shape) for v in batch.values]
    batch = Batch(queries, batch.keys, [v.astype(np.float32) for v in values])
    problem = reference(rng, batch, -(-max(LENGTHS) // SPLIT_TOKENS))
    bound = {
        "partial_out": F32_EPS * np.abs(problem.expected["partial_out"]),
        "partial_lse": 6 * F32_EPS * np.abs(problem.expected["partial_lse"]),
    }
    return replace(problem, bound=bound)


def one_hot(rng: np.random.Generator) -> Problem:
    """Head h asks for token wanted[h] alone (see prefill_attention.one_hot): its split gives that token's
    value.

    Its log-sum-exp is the score of that token, 8 * sqrt(D) = 64, as the others' exponentials vanish beside
    it. In the other split the same query finds no such token, and what it gives is not checked here.
    """
    head_dim, tokens = 64, SPLIT_TOKENS + 40
    wanted = np.array([0, 127, 128, tokens - 1])
    signs = rng.choice(np.array([-1, 1], np.float32), size=(tokens, 1, head_dim))
    values = round_bf16(rng.standard_normal(signs.shape))
    batch = Batch([8 * signs[wanted, 0][None]], [signs], [values])
    problem = reference(rng, batch, 2)
    for h, token in enumerate(wanted):
        split = token // SPLIT_TOKENS
        problem.expected["partial_out"][0, h, split] = values[token, 0]
        problem.expected["partial_lse"][0, h, split] = 64.0
    return problem


def cases() -> list[Case]:
    """Every length by itself, every shape on a mixed batch, idle splits, large scores, and two known by hand."""
    single = [Case(f"L{n}", partial(random_problem, lengths=[n], shape=(64, 3, 1))) for n in LENGTHS]
    mixed = [
        Case(f"mixed-D{d}-NH{h}-NKV{k}", partial(random_problem, lengths=(70, 1, 300, 129), shape=(d, h, k)))
        for d, h, k in SHAPES
    ]
    lengths, shape = (300, 9), (64, 3, 1)
    return [
        *single,
        *mixed,
        Case("idle-splits", partial(random_problem, lengths=lengths, shape=shape, idle_splits=2)),
        Case("large-scores", partial(random_problem, lengths=lengths, shape=shape, spread=60.0)),
        Case("scores-far-below-zero", partial(random_problem, lengths=lengths, shape=shape, common=5.0)),
        Case("equal-weights", equal_weights),
        Case("one-hot", one_hot),
    ]
