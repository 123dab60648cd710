"""What the references of the attention kernels share: batches in a paged cache, and float64 attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bindings.dtypes import bf16_to_float32, float32_to_bf16
from tools.microtest.rounding import F32_EPS

PAGE_SIZE = 16
TABLE_TRAPS = (-1, -(2**31), 2**31 - 1, 10**6)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def round_bf16(values: NDArray) -> Floats:
    """The nearest numbers that bf16 holds."""
    return bf16_to_float32(float32_to_bf16(values))


def traps(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """What memory that must not be read holds: NaN, and numbers so large that one of them spoils any sum."""
    return rng.choice(round_bf16(np.array([np.nan, 3e38, -3e38])), size=shape)


def softmax_scale(head_dim: int) -> float:
    """1 / sqrt(head_dim), as float32 has it."""
    return float(np.float32(head_dim**-0.5))


@dataclass(frozen=True)
class Batch:
    """Attention inputs by sequence; every number is exact in bf16.

    queries: [n, NH, D], of the last n tokens; keys, values: [L, NKV, D], of all L >= n tokens.
    """

    queries: Sequence[Floats]
    keys: Sequence[Floats]
    values: Sequence[Floats]

    def inputs(self, rng: np.random.Generator) -> dict[str, NDArray]:
        """qkv [T, NH + 2*NKV, D] and the cache arguments. What a kernel must not read is a trap: the keys and
        values in qkv (it takes them from the pages), pages that nobody owns, the rest of a last page, the
        table past a sequence's pages.
        """
        queries = np.concatenate(self.queries)
        num_kv_heads = self.keys[0].shape[1]
        unused = traps(rng, (len(queries), 2 * num_kv_heads, queries.shape[2]))
        return {"qkv": np.concatenate([queries, unused], axis=1), **self._paged(rng)}

    def _paged(self, rng: np.random.Generator) -> dict[str, NDArray]:
        """k_cache, v_cache [P, NKV, B, D] with the sequences in shuffled pages; block_tables [S, M]; seq_lens [S]."""
        owned = [-(-len(k) // PAGE_SIZE) for k in self.keys]
        num_pages = sum(owned) + 3
        shape = (num_pages, self.keys[0].shape[1], PAGE_SIZE, self.keys[0].shape[2])
        k_cache, v_cache = traps(rng, shape), traps(rng, shape)
        block_tables = rng.choice(np.array(TABLE_TRAPS, np.int32), size=(len(owned), max(owned) + 2))
        free = iter(rng.permutation(num_pages).tolist())
        for table, keys, values in zip(block_tables, self.keys, self.values, strict=True):
            for start in range(0, len(keys), PAGE_SIZE):
                page = table[start // PAGE_SIZE] = next(free)
                used = min(PAGE_SIZE, len(keys) - start)
                k_cache[page, :, :used] = keys[start : start + used].swapaxes(0, 1)
                v_cache[page, :, :used] = values[start : start + used].swapaxes(0, 1)
        seq_lens = np.array([len(k) for k in self.keys], np.int32)
        return {"k_cache": k_cache, "v_cache": v_cache, "block_tables": block_tables, "seq_lens": seq_lens}

    def head(self, sequence: int, head: int) -> tuple[Doubles, Doubles, Doubles]:
        """The queries, keys and values [., D] that one query head of one sequence works on, in float64."""
        q, k, v = self.queries[sequence], self.keys[sequence], self.values[sequence]
        kv_head = head // (q.shape[1] // k.shape[1])
        picked = (q[:, head], k[:, kv_head], v[:, kv_head])
        query, keys, values = (array.astype(np.float64) for array in picked)
        return query, keys, values


def random_batch(
    rng: np.random.Generator,
    lengths: Sequence[tuple[int, int]],
    shape: tuple[int, int, int],
    spread: float = 3.0,
    common: float = 0.0,
) -> Batch:
    """Normal inputs. `lengths`: (queries, earlier tokens) of each sequence; `shape`: (D, NH, NKV).

    `spread` scales the queries, and is about the standard deviation of the scores; `common` is added to every
    element of the keys and taken from the queries, which moves all scores down by sqrt(D) * common^2.
    """
    head_dim, num_heads, num_kv_heads = shape
    normal = rng.standard_normal
    queries = [round_bf16(spread * normal((n, num_heads, head_dim)) - common) for n, _ in lengths]
    keys = [round_bf16(normal((n + earlier, num_kv_heads, head_dim)) + common) for n, earlier in lengths]
    return Batch(queries, keys, [round_bf16(normal(k.shape)) for k in keys])


@dataclass(frozen=True)
class Attended:
    """Attention of n queries of one head, and how far float32 arithmetic may lead from it.

    out [n, D]; lse [n], the log of the sum of exponentials; out_error, lse_error: their bounds; spread [n,
    D]: sum of weight * |value|, which a relative error of the weights multiplies.
    """

    out: Doubles
    lse: Doubles
    out_error: Doubles
    lse_error: Doubles
    spread: Doubles


def attend(query: Doubles, keys: Doubles, values: Doubles, positions: NDArray[np.int64], scale: float) -> Attended:
    """softmax(scale * query keys^T) values, over the keys 0 .. positions[i] for query i.

    query [n, D]; keys, values [L, D]; positions [n].

    The bounds, with u = 2^-23 a rounding (twice float32's unit roundoff: tensor cores may cut off where
    others round to nearest). A score is a sum of D exact products, on tensor cores in steps of 16: at most D
    * 17/16 roundings relative to the sum of magnitudes, and four more for scaling it and subtracting the
    maximum. That absolute error of the exponent is the weight's relative error; the exponential adds 2u. (The
    maximum itself stands above and below the fraction bar, so its error cancels.) A sum over L keys: 17/16
    roundings a key, 3 for each 64 keys to rescale what was summed before, 16 to join the threads' shares.
    """
    u = 2 * F32_EPS
    count, dim = keys.shape
    scores = np.where(np.arange(count) <= positions[:, None], scale * (query @ keys.T), -np.inf)
    highest = scores.max(axis=1, keepdims=True)
    weights = np.exp(scores - highest)
    total = weights.sum(axis=1, keepdims=True)
    weights /= total
    out, spread = weights @ values, weights @ np.abs(values)

    score_error = (dim * 17 / 16 + 4) * u * scale * (np.abs(query) @ np.abs(keys).T)
    weight_error = weights * (np.expm1(score_error) + 2 * u)
    drift = weight_error.sum(axis=1, keepdims=True)
    assert (drift < 0.5).all(), "a broken case: float32 itself loses these scores"
    sum_error = (count * (17 / 16 + 3 / 64) + 16) * u
    moved = weight_error @ np.abs(values) + drift * np.abs(out)
    lse = (highest + np.log(total))[:, 0]
    return Attended(
        out=out,
        lse=lse,
        out_error=(moved + sum_error * (spread + np.abs(out))) / (1 - drift),
        lse_error=(drift / (1 - drift))[:, 0] + sum_error + 4 * u * np.abs(lse),
        spread=spread,
    )
