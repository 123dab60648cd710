"""Reference of rope_kv_write: rotated queries in place, rotated keys and plain values in their slots, nothing else."""

from __future__ import annotations

from functools import partial

import numpy as np

from tools.microtest.harness import Case, Problem
from tools.microtest.rounding import F32_EPS, bf16_bound, round_to_bf16

PAGE_SIZE = 16
POSITIONS = 300


def rotate(heads: np.ndarray, cos_sin: np.ndarray) -> np.ndarray:
    """float64[T, heads, D]: the pairs (i, i + D/2) of each head turned by the token's angles; cos_sin is [T, D]."""
    low, high = np.split(heads.astype(np.float64), 2, axis=-1)
    cos, sin = np.split(cos_sin.astype(np.float64)[:, None, :], 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def rotation_magnitude(heads: np.ndarray, cos_sin: np.ndarray) -> np.ndarray:
    """|x*cos| + |y*sin|: what the rounding of the two products and of their sum is relative to."""
    low, high = np.split(np.abs(heads.astype(np.float64)), 2, axis=-1)
    cos, sin = np.split(np.abs(cos_sin.astype(np.float64))[:, None, :], 2, axis=-1)
    return np.concatenate([low * cos + high * sin, high * cos + low * sin], axis=-1)


def _write(cache: np.ndarray, values: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """A copy of cache [P, NKV, B, D] with values [T, NKV, D] in their slots."""
    result = cache.astype(np.float64)
    live = slots >= 0
    result[slots[live] // PAGE_SIZE, :, slots[live] % PAGE_SIZE, :] = values[live]
    return result


def _angles(head_dim: int, rng: np.random.Generator) -> np.ndarray:
    angles = rng.uniform(-np.pi, np.pi, (POSITIONS, head_dim // 2))
    angles[0] = 0.0  # position 0 turns nothing
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


def _slots(tokens: int, pages: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct slots, among them the cache's first and last; every fifth token writes nothing."""
    slots = rng.permutation(np.arange(1, pages * PAGE_SIZE - 1))[:tokens].astype(np.int32)
    slots[::5] = -1
    slots[tokens // 2] = pages * PAGE_SIZE - 1
    if tokens > 2:
        slots[1] = 0
    return slots


def _expected(inputs: dict[str, np.ndarray], num_heads: int, num_kv_heads: int) -> Problem:
    qkv, slots = inputs["qkv"], inputs["slot_mapping"]
    turns = inputs["cos_sin"][inputs["positions"]]
    rotated = rotate(qkv, turns)
    error = 2 * F32_EPS * rotation_magnitude(qkv, turns)
    bound = bf16_bound(rotated, error)
    keys = slice(num_heads, num_heads + num_kv_heads)
    values = qkv[:, num_heads + num_kv_heads :]
    everything = np.ones(values.shape, dtype=bool)
    written = _write(np.zeros(inputs["k_cache"].shape), everything, slots) > 0
    is_query = np.broadcast_to(np.arange(qkv.shape[1])[None, :, None] < num_heads, qkv.shape)
    return Problem(
        inputs=inputs,
        scalars={"NH": num_heads},
        expected={
            "qkv": np.where(is_query, rotated, qkv),
            "k_cache": _write(inputs["k_cache"], rotated[:, keys], slots),
            "v_cache": _write(inputs["v_cache"], values, slots),
        },
        bound={"qkv": bound, "k_cache": _write(np.zeros(inputs["k_cache"].shape), bound[:, keys], slots)},
        written={"qkv": is_query, "k_cache": written, "v_cache": written},
    )


def _build(tokens: int, num_heads: int, num_kv_heads: int, head_dim: int, rng: np.random.Generator) -> Problem:
    pages = tokens // PAGE_SIZE + 3
    cache_shape = (pages, num_kv_heads, PAGE_SIZE, head_dim)
    inputs = {
        "qkv": round_to_bf16(rng.standard_normal((tokens, num_heads + 2 * num_kv_heads, head_dim))),
        "k_cache": round_to_bf16(1e4 * rng.standard_normal(cache_shape)),
        "v_cache": round_to_bf16(1e4 * rng.standard_normal(cache_shape)),
        "positions": rng.integers(0, POSITIONS, tokens).astype(np.int32),
        "slot_mapping": _slots(tokens, pages, rng),
        "cos_sin": _angles(head_dim, rng),
    }
    inputs["positions"][0], inputs["positions"][-1] = 0, POSITIONS - 1
    return _expected(inputs, num_heads, num_kv_heads)


def cases() -> list[Case]:
    shapes = [(1, 9, 3, 64), (3, 4, 4, 80), (19, 8, 1, 96), (111, 2, 2, 64), (2, 32, 8, 128), (5, 5, 1, 128)]
    return [Case(f"T{t}-NH{n}-NKV{k}-D{d}", partial(_build, t, n, k, d)) for t, n, k, d in shapes]
