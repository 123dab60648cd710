"""How far an operation may lie from exact arithmetic on its own inputs: the tolerance of one operation.

Both sides of a comparison start an operation from the same inputs. Each lies within its bound of what exact arithmetic
gives, so they lie within the sum of both bounds of each other. Nothing accumulates: the tolerance of layer 30 is that
of layer 0, and a fault shows where it is made.

The kernels' bounds are those that microtest holds them to (tools/microtest/reference/): float32's roundings in any
order of summation, the errors of exp and rsqrt, one rounding to bf16 at the end. What only copies, and a sum of two
bf16 numbers in float32 rounded once, has one right result: the bound is 0. Matrix products and random weights are
bounded here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from bindings.dtypes import decode
from bindings.errors import CutawayError
from bindings.tensor import Tensor
from engine.ops import SPLIT_TOKENS
from tools.bisect.messages import Index, Lengths
from tools.bisect.operands import Operands, sequences
from tools.microtest.reference import combine_splits as combine
from tools.microtest.reference import decode_attention as decoding
from tools.microtest.reference import prefill_attention as prefill
from tools.microtest.reference.paged_attention import Batch
from tools.microtest.reference.random_normal import TRIGONOMETRIC_ERROR
from tools.microtest.reference.rmsnorm import rmsnorm, rmsnorm_bound
from tools.microtest.reference.rope_kv_write import rotate, rotation_magnitude
from tools.microtest.reference.silu_mul import silu_mul, silu_mul_bound
from tools.microtest.rounding import BF16_EPS, F32_EPS, bf16_bound, round_to_bf16

# A sum of K products errs by at most sigmas * sqrt(K) roundings of the sum of magnitudes, but for a chance of
# 2 exp(-sigmas^2 / 2): Higham and Mary, "A New Approach to Probabilistic Rounding Error Analysis", 2019. With 8 that is
# 2.5e-14, and a run compares some 10^9 elements.
SIGMAS = 8.0

WEIGHT_ROWS = 4096  # of a weight at a time on the host


@dataclass(frozen=True)
class Bound:
    """What an Output tells of its errors; `exact` gives the exact value of one element where that is cheap."""

    absolute: NDArray[np.float64] | float = 0.0
    relative: float = 0.0
    exact: Callable[[Index], float] | None = None
    lengths: Lengths | None = None


EXACT = Bound()  # one right result
Bounds = Mapping[str, Bound]


def _known(expected: NDArray, bound: NDArray[np.float64] | float) -> Bound:
    """A float64 reference and the bound around it."""
    return Bound(bound, exact=lambda index: float(expected[index]))


class Bounder:
    """Bounds of the operations of one engine. Remembers the row norms of its weights, which do not change."""

    def __init__(self) -> None:
        self._row_norms: dict[tuple[int, tuple[int, ...]], NDArray[np.float64]] = {}
        self.rules: dict[str, Callable[[Operands], Bounds]] = {
            "random_normal": random_normal,
            "feed_tokens": lambda _: {"token_ids": EXACT},
            "embedding": lambda _: {"out": EXACT},
            "rmsnorm": norm,
            "add_rmsnorm": add_norm,
            "gemm": self.product,
            "rope_kv_write": rope,
            "prefill_attention": prefill_attention,
            "decode_attention": decode_attention,
            "combine_splits": combine_splits,
            "silu_mul": gated,
            "argmax": lambda _: {"token_ids": EXACT},
        }

    def bounds(self, op: str, operands: Operands) -> Bounds:
        """Of each output of `op`. Raises CutawayError for an operation that nobody derived a bound for."""
        if op not in self.rules:
            raise CutawayError(f"no tolerance is known for {op}: derive one in tools/bisect/bounds.py")
        return self.rules[op](operands)

    def product(self, operands: Operands) -> Bounds:
        """out = a b^T: a sum of K products in float32 in any order, then one rounding.

        By Cauchy and Schwarz the sum of magnitudes is at most |a| |b|, the lengths of the two rows. A rounding is
        2^-23, twice float32's, as tensor cores may cut off where others round to nearest.
        """
        a, weight = operands["a"].astype(np.float64), operands.tensors["b"]
        columns = self.row_norms(weight, bool(operands.params["transpose_b"]))
        error = SIGMAS * sqrt(a.shape[1]) * 2 * F32_EPS
        lengths = Lengths(np.linalg.norm(a, axis=1), columns, error)

        def exact(index: Index) -> float:
            row, column = index
            if operands.params["transpose_b"]:
                return float(a[row] @ decode(weight[column : column + 1].numpy()[0], weight.dtype))
            return float(a[row] @ operands["b"][:, column])

        relative = BF16_EPS if operands.tensors["out"].dtype.name == "bf16" else F32_EPS
        return {"out": Bound(0.0, relative, exact, lengths)}

    def row_norms(self, weight: Tensor, rows: bool) -> NDArray[np.float64]:
        """The length of each row, or column, of a weight."""
        key = weight.address, weight.shape
        if key not in self._row_norms:
            starts = range(0, weight.shape[0], WEIGHT_ROWS)
            parts = (decode(weight[start : start + WEIGHT_ROWS].numpy(), weight.dtype) for start in starts)
            norms = [np.linalg.norm(part, axis=1 if rows else 0).astype(np.float64) for part in parts]
            self._row_norms[key] = np.concatenate(norms) if rows else np.linalg.norm(norms, axis=0)
        return self._row_norms[key]


def random_normal(operands: Operands) -> Bounds:
    """std * radius * cos(angle), as tools/microtest/reference/random_normal.py derives it.

    There the radius is known of each value; here its largest will do: u1 is at least 2^-33.
    """
    largest_radius = sqrt(2 * 33 * np.log(2))
    error = operands.scalar("std") * largest_radius * TRIGONOMETRIC_ERROR
    return {"out": Bound((1 + BF16_EPS) * error, BF16_EPS + 5 * F32_EPS)}


def norm(operands: Operands) -> Bounds:
    """rmsnorm."""
    expected = rmsnorm(operands["x"], operands["weight"], operands.scalar("eps"))
    return {"out": _known(expected, rmsnorm_bound(expected))}


def add_norm(operands: Operands) -> Bounds:
    """add_rmsnorm: the new residual has one right result, and the norm is of that."""
    total = round_to_bf16(operands["residual"] + operands["x"])
    expected = rmsnorm(total, operands["weight"], operands.scalar("eps"))
    return {"residual": _known(total, 0.0), "out": _known(expected, rmsnorm_bound(expected))}


def rope(operands: Operands) -> Bounds:
    """Rotated queries in place, rotated keys in their slots; values are copied."""
    qkv, turns = operands["qkv"], operands.turns()
    rotated = rotate(qkv, turns)
    bound = bf16_bound(rotated, 2 * F32_EPS * rotation_magnitude(qkv, turns))
    num_kv_heads = operands.tensors["k_cache"].shape[1]
    queries = qkv.shape[1] - 2 * num_kv_heads
    is_query = np.arange(qkv.shape[1])[None, :, None] < queries
    live, keys = operands["slot_mapping"] >= 0, slice(queries, queries + num_kv_heads)
    return {
        "qkv": _known(np.where(is_query, rotated, qkv), np.where(is_query, bound, 0.0)),
        "k_cache": _known(rotated[live][:, keys], bound[live][:, keys]),
        "v_cache": _known(qkv[live][:, queries + num_kv_heads :], 0.0),
    }


def gated(operands: Operands) -> Bounds:
    """silu(gate) * up."""
    gate, up = np.split(operands["gate_up"], 2, axis=-1)
    expected = silu_mul(gate, up)
    return {"out": _known(expected, silu_mul_bound(gate, up, expected))}


def prefill_attention(operands: Operands) -> Bounds:
    """Each sequence's queries over its keys and values, gathered from their pages."""
    batch = _batch(operands)
    return unless_scores_are_lost(["out"], lambda: {"out": _known(*prefill.reference(batch))})


def decode_attention(operands: Operands) -> Bounds:
    """One query a sequence; each of its splits by itself."""
    names, shape = ["partial_out", "partial_lse"], operands.tensors["partial_out"].shape
    batch = _batch(operands)
    random = np.random.default_rng(0)  # fills what the kernel must not read, which is of no interest here

    def known() -> Bounds:
        problem = decoding.reference(random, batch, shape[2])
        return {name: _known(problem.expected[name], np.asarray(problem.bound[name])) for name in names}

    return unless_scores_are_lost(names, known)


def combine_splits(operands: Operands) -> Bounds:
    """The splits of each sequence, merged."""
    live = -(-operands["seq_lens"] // SPLIT_TOKENS)
    return {"out": _known(*combine.reference(operands["partial_out"], operands["partial_lse"], live.tolist()))}


def _batch(operands: Operands) -> Batch:
    """What attention reads: the queries of each sequence, and its keys and values."""
    num_heads = operands["qkv"].shape[1] - 2 * operands.tensors["k_cache"].shape[1]
    rows, _, keys, values = zip(*sequences(operands), strict=True)
    return Batch([operands["qkv"][part, :num_heads] for part in rows], keys, values)


def unless_scores_are_lost(outputs: list[str], known: Callable[[], Bounds]) -> Bounds:
    """Bounds of attention; none where the scores are so large that float32 loses them, or not finite."""
    try:
        return known()
    except AssertionError:  # how the references say so
        return {name: Bound(np.inf) for name in outputs}
