"""The Llama decoder in NumPy, as the papers have it: the whole sequence at once, no cache, no pages, no kernels.

Touvron et al., "LLaMA", 2023: RMSNorm before each sublayer, SwiGLU, rotary positions. Ainslie et al., "GQA", 2023:
several query heads share a key and value head.

`llama_forward` names the operations; an `Arithmetic` carries them out. This one computes in float64. With `rounding` it
becomes a model of the engine: the function is applied wherever the engine writes bf16 to memory, and what lies between
is exact. `ErrorAnalysis` in tests/logit_error.py is another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.config import ModelConfig
from engine.rope import inverse_frequencies

Doubles = NDArray[np.float64]
Weights = Mapping[str, NDArray]


def llama_forward(config: ModelConfig, weights: Weights, token_ids: Sequence[int], arithmetic: Arithmetic) -> Any:
    """Logits [T, V] after every token of one sequence, in the arithmetic's own type.

    `weights` by Hugging Face name, matrices [outputs, inputs].
    """

    def weight(name: str) -> Doubles:
        return np.asarray(weights[f"{name}.weight"], dtype=np.float64)

    a, eps = arithmetic, config.rms_norm_eps
    residual = a.constant(weight("model.embed_tokens")[list(token_ids)])
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}"
        x = a.stored(a.rmsnorm(residual, weight(f"{prefix}.input_layernorm"), eps))
        residual = a.stored(a.add(residual, _attention(config, a, x, weight, f"{prefix}.self_attn")))
        x = a.stored(a.rmsnorm(residual, weight(f"{prefix}.post_attention_layernorm"), eps))
        residual = a.stored(a.add(residual, _mlp(a, x, weight, f"{prefix}.mlp")))
    hidden = a.stored(a.rmsnorm(residual, weight("model.norm"), eps))
    return a.linear(hidden, weight("model.embed_tokens" if config.tie_word_embeddings else "lm_head"))


def _attention(config: ModelConfig, a: Arithmetic, x: Any, weight: Callable[[str], Doubles], prefix: str) -> Any:
    """softmax(q k^T / sqrt(D)) v over the tokens up to each one, then the output projection."""
    dim = config.head_dim
    q, k, v = (a.heads(a.stored(a.linear(x, weight(f"{prefix}.{name}_proj"))), dim) for name in "qkv")
    frequencies = inverse_frequencies(config)
    q, k = a.stored(a.rotate(q, frequencies)), a.stored(a.rotate(k, frequencies))
    attended = a.stored(a.attend(q, k, v))
    return a.stored(a.linear(a.joined(attended), weight(f"{prefix}.o_proj")))


def _mlp(a: Arithmetic, x: Any, weight: Callable[[str], Doubles], prefix: str) -> Any:
    """down(silu(gate(x)) * up(x))."""
    gate, up = (a.stored(a.linear(x, weight(f"{prefix}.{name}_proj"))) for name in ("gate", "up"))
    return a.stored(a.linear(a.stored(a.silu_mul(gate, up)), weight(f"{prefix}.down_proj")))


class Arithmetic:
    """The operations in float64; `stored` marks where the engine rounds. T tokens, N heads of D elements."""

    def __init__(self, rounding: Callable[[Doubles], Doubles] = lambda values: values) -> None:
        self.stored = rounding

    def constant(self, values: Doubles) -> Any:
        """Values that are exact in bf16."""
        return values

    def add(self, x: Any, y: Any) -> Any:
        return x + y

    def linear(self, x: Any, weight: Doubles) -> Any:
        return x @ weight.T

    def rmsnorm(self, x: Any, weight: Doubles, eps: float) -> Any:
        return x / root_mean_square(x, eps) * weight

    def heads(self, x: Any, dim: int) -> Any:
        """[T, N D] -> [T, N, D]."""
        return x.reshape(len(x), -1, dim)

    def joined(self, x: Any) -> Any:
        """[T, N, D] -> [T, N D]."""
        return x.reshape(len(x), -1)

    def rotate(self, heads: Any, frequencies: Doubles) -> Any:
        """Turn the pairs (i, i + D/2) of each head by position * frequencies[i]."""
        cos, sin = rotary_factors(len(heads), frequencies)
        return heads * cos + swapped_halves(heads) * sin

    def attend(self, q: Any, k: Any, v: Any) -> Any:
        """Causal attention of q [T, NH, D] over k, v [T, NKV, D].

        The kernel's tensor cores take the weights as bf16 before they are divided by their sum, which is of unrounded
        ones.
        """
        k, v = shared_heads(k, q), shared_heads(v, q)
        weights, total = attention_weights(q, k)
        return (self.stored(weights) @ v.swapaxes(0, 1)).swapaxes(0, 1) / total

    def silu_mul(self, gate: Any, up: Any) -> Any:
        return gate * sigmoid(gate) * up


def root_mean_square(x: Doubles, eps: float) -> Doubles:
    """sqrt(mean(x^2) + eps) of each row, kept as a column."""
    return np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps)


def sigmoid(x: Doubles) -> Doubles:
    return 1 / (1 + np.exp(-x))


def rotary_factors(tokens: int, frequencies: Doubles) -> tuple[Doubles, Doubles]:
    """What each element of a head [T, 1, D] and its partner are multiplied by: cos, and -sin (first half) or sin."""
    angles = np.outer(np.arange(tokens), frequencies)[:, None, :]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([cos, cos], axis=-1), np.concatenate([-sin, sin], axis=-1)


def swapped_halves(heads: NDArray) -> NDArray:
    """Each element's partner of its pair (i, i + D/2)."""
    return np.roll(heads, heads.shape[-1] // 2, axis=-1)


def shared_heads(kv: NDArray, q: NDArray) -> NDArray:
    """[T, NKV, D] -> [T, NH, D]: each key or value head repeated for the query heads that share it."""
    return np.repeat(kv, q.shape[1] // kv.shape[1], axis=1)


def attention_weights(q: Doubles, k: Doubles) -> tuple[Doubles, Doubles]:
    """e^(score - highest score) [NH, T, T] with 0 for the future, and their sums [T, NH, 1]."""
    tokens = len(q)
    scores = q.swapaxes(0, 1) @ k.transpose(1, 2, 0) / np.sqrt(q.shape[-1])
    scores[:, np.triu(np.ones((tokens, tokens), dtype=bool), k=1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights, weights.sum(axis=-1).T[:, :, None]
