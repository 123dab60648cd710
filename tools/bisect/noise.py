"""What bf16 roundings do inside a sublayer: the variance of an engine's error, followed from operation to operation.

A recording has one value a sublayer where the engine rounds half a dozen times. How far the engine may then lie from it
depends on the numbers: a softmax turns an error of a score into as large a relative error of a weight, and a sum whose
terms cancel keeps the errors of its terms. So the errors are followed with the activations themselves: each rounding
adds EPSILON^2 x^2, errors count as independent, and every operation is taken as linear in them. (docs/accuracy.md: over
a whole model such a formula may be off by a factor of ten; here it runs over one sublayer, since the engine goes on
with the recorded values after it.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray

from bindings.dtypes import decode
from bindings.tensor import Tensor
from tools.bisect.bounds import WEIGHT_ROWS
from tools.bisect.operands import POOLS, Operands, sequences
from tools.microtest.reference.rmsnorm import rmsnorm

EPSILON = 2.0**-8 / sqrt(8 * log(2))  # deviation of one rounding to bf16, docs/accuracy.md
Floats = NDArray[np.float64]


class Noise:
    """The variance of every activation of the step under way, and of the keys and values in the pages."""

    def __init__(self) -> None:
        self._of: dict[str, Floats] = {}  # by the name of the memory
        self._cached: dict[tuple[int, int], Floats] = {}  # by the address of the layer's pages, and slot
        self._rules: Mapping[str, Callable[[Operands], None]] = {
            "embedding": self._gathered,
            "rmsnorm": self._norm,
            "add_rmsnorm": self._norm,
            "rope_kv_write": self._rope,
            "prefill_attention": self._attention,
            "decode_attention": self._attention,
            "silu_mul": self._gated,
        }

    def follow(self, op: str, operands: Operands) -> Floats | None:
        """Take in an operation; of a product, the deviation [M, N] of its error before it is rounded."""
        if op == "gemm":
            return self._product(operands)
        if op in self._rules:
            self._rules[op](operands)
        return None

    def _product(self, operands: Operands) -> Floats:
        """The variance of a row of x times the squares of the weight: single neurons may be what counts."""
        x, out, weight = operands["a"], operands.tensors["out"], operands.tensors["b"]
        variance = self._variance(operands.tensors["a"], x).astype(np.float32)
        made = np.empty(out.shape, np.float64)
        for start in range(0, weight.shape[0], WEIGHT_ROWS):
            part = weight[start : start + WEIGHT_ROWS]
            made[:, start : start + WEIGHT_ROWS] = variance @ np.square(decode(part.numpy(), part.dtype)).T
        if out.dtype.name == "bf16":
            self._of[out.buffer.name] = made + rounding(decode(out.numpy(), out.dtype))
        return np.sqrt(made)

    def _variance(self, tensor: Tensor, values: NDArray) -> Floats:
        """Of a tensor; that of one rounding where nothing else is known (it was taken over)."""
        known = self._of.get(tensor.buffer.name)
        if known is None or known.size < values.size:
            return rounding(values)
        return known.reshape(-1)[: values.size].reshape(values.shape)

    def _gathered(self, operands: Operands) -> None:
        """The last rows of the sequences; the rows of the embedding table itself are exact."""
        known = self._of.get(operands.tensors["table"].buffer.name)
        if known is not None:
            self._of[operands.tensors["out"].buffer.name] = known[operands["token_ids"]]

    def _norm(self, operands: Operands) -> None:
        """The stream was made of rounded terms, and the norm is rounded."""
        terms = [operands["x"], *([operands["residual"]] if "residual" in operands.tensors else [])]
        total = np.asarray(sum(term.astype(np.float64) for term in terms))
        out = rmsnorm(total, operands["weight"], operands.scalar("eps"))
        scale = np.divide(out, total, out=np.zeros_like(out), where=total != 0)
        made = sum((rounding(term) for term in terms), rounding(total)) * scale**2
        self._of[operands.tensors["out"].buffer.name] = made + rounding(out)

    def _rope(self, operands: Operands) -> None:
        """Rotation mixes the variances of a pair; keys and values go to their slots."""
        qkv, turns = operands["qkv"].astype(np.float64), operands.turns()
        variance = self._variance(operands.tensors["qkv"], qkv)
        cos, sin = np.split(turns[:, None, :] ** 2, 2, axis=-1)
        low, high = np.split(variance, 2, axis=-1)
        rotated = np.concatenate([low * cos + high * sin, high * cos + low * sin], axis=-1)
        kv_heads = operands.tensors["k_cache"].shape[1]
        queries = qkv.shape[1] - 2 * kv_heads
        size = np.sqrt(np.mean(qkv**2, axis=-1, keepdims=True))  # a rotated element is about as large as its head's
        rotated += rounding(np.broadcast_to(size, qkv.shape))
        self._of[operands.tensors["qkv"].buffer.name] = rotated
        for token, slot in enumerate(operands["slot_mapping"].tolist()):
            keys, values = operands.tensors["k_cache"].address, operands.tensors["v_cache"].address
            self._cached[keys, slot] = rotated[token, queries : queries + kv_heads]
            self._cached[values, slot] = variance[token, queries + kv_heads :]

    def _attention(self, operands: Operands) -> None:
        """All heads of all sequences, one after the other."""
        qkv, scale, found = operands["qkv"].astype(np.float64), operands.scalar("scale"), []
        variance = self._variance(operands.tensors["qkv"], qkv)
        pools = [operands.tensors[name].address for name in POOLS]
        for rows, slots, keys, values in sequences(operands):
            of_keys, of_values = (np.stack([self._cached[pool, slot] for slot in slots.tolist()]) for pool in pools)
            heads = qkv.shape[1] - 2 * keys.shape[1]
            outs = []
            for head in range(heads):
                kv = head // (heads // keys.shape[1])
                q, of_q = qkv[rows, head], variance[rows, head]
                shared = keys[:, kv], of_keys[:, kv], values[:, kv], of_values[:, kv]
                outs.append(attention_noise(q, of_q, *shared, scale))
            found.append(np.stack(outs, axis=1))
        self._of["activations.attended"] = np.concatenate(found)  # of decode by way of its splits

    def _gated(self, operands: Operands) -> None:
        """silu(gate) * up: the derivatives by both."""
        gate, up = np.split(operands["gate_up"].astype(np.float64), 2, axis=-1)
        of_gate, of_up = np.split(self._variance(operands.tensors["gate_up"], operands["gate_up"]), 2, axis=-1)
        sigmoid = 1 / (1 + np.exp(-np.clip(gate, -80, 80)))
        slope = sigmoid * (1 + gate * (1 - sigmoid))
        made = (slope * up) ** 2 * of_gate + (gate * sigmoid) ** 2 * of_up
        self._of[operands.tensors["out"].buffer.name] = made + rounding(gate * sigmoid * up)


def rounding(values: NDArray) -> Floats:
    """The variance of rounding these values to bf16."""
    variance: Floats = (EPSILON * values.astype(np.float64)) ** 2
    return variance


def attention_noise(
    q: Floats, q_noise: Floats, k: Floats, k_noise: Floats, v: Floats, v_noise: Floats, scale: float
) -> Floats:
    """Variance [n, D] of the attention of n queries, the last of L tokens, from that of q [n, D] and k, v [L, D].

    An error of a query moves all its scores together, by the covariance of keys and values under the weights; errors
    of keys, values and weights (rounded to bf16) are each a token's own.
    """
    visible = np.arange(len(k)) <= len(k) - len(q) + np.arange(len(q))[:, None]
    scores = np.where(visible, scale * (q @ k.T), -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    out = weights @ v
    spread = v[None] - out[:, None]  # [n, L, D]
    covariance = np.einsum("nl,lk,nld->nkd", weights, k, spread, optimize=True)
    made = scale**2 * np.einsum("nk,nkd->nd", q_noise, covariance**2)
    of_weights = weights**2 * (scale**2 * (q**2 @ k_noise.T) + EPSILON**2)
    made += np.einsum("nl,nld->nd", of_weights, spread**2) + weights**2 @ v_noise
    return made + rounding(out)
