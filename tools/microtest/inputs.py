"""Inputs to time a kernel on: random numbers, and valid indices where a kernel follows them.

The test cases' inputs come with a float64 reference, which is slow at the sizes that are worth timing. Here nothing is
expected to come out, so numbers may repeat; indices (block tables, slots, tokens) are what the engine would give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from bindings.dtypes import FLOATS, DType, encode
from engine.ops import SPLIT_TOKENS
from engine.spec import Op, Scalar, Symbols, TensorArg, evaluate
from tools.cli import UsageError

Arrays = dict[str, NDArray]
Builder = Callable[[Symbols, np.random.Generator], Arrays]

PATTERN = 1 << 20  # random elements, repeated as often as a tensor needs

# Tensors that a launch reads or writes only a small part of: copies of the inputs share them, each using other parts.
SHARED = {"embedding": ("table",), "rope_kv_write": ("k_cache", "v_cache", "cos_sin")}


def shape_of(arg: TensorArg, symbols: Symbols) -> tuple[int, ...]:
    """The sizes of a tensor."""
    return tuple(evaluate(axis, symbols) for axis in arg.axes)


def arrays_for(op: Op, symbols: Symbols) -> Arrays:
    """The carrier array of every In and InOut tensor."""
    indices = indices_for(op, symbols)
    return {
        arg.name: indices[arg.name] if arg.name in indices else _random(arg.dtype, shape_of(arg, symbols))
        for arg in op.tensors
        if arg.role != "out"
    }


def indices_for(op: Op, symbols: Symbols, copy: int = 0) -> Arrays:
    """Of these the ones that a kernel follows; other ones for each `copy` of the inputs."""
    indices = _BUILDERS.get(op.entry, _nothing)(symbols, np.random.default_rng(copy))
    return {arg.name: _as(arg, indices[arg.name]) for arg in op.tensors if arg.name in indices}


def require_consistent(op: Op, symbols: Symbols) -> None:
    """Raise UsageError where sizes do not go together."""
    _BUILDERS.get(op.entry, _nothing)(symbols, np.random.default_rng(0))


def scalars_for(op: Op, symbols: Symbols) -> dict[str, float | int]:
    """Every Scalar and Extra argument."""
    usual = {"eps": 1e-5, "std": 0.02, "seed": 0, "subsequence": 0, "scale": symbols.get("D", 1) ** -0.5}
    scalars = {arg.name: usual[arg.name] for arg in op.args if isinstance(arg, Scalar)}
    return {**scalars, **{extra.symbol: symbols[extra.symbol] for extra in op.extras}}


def _as(arg: TensorArg, values: NDArray) -> NDArray:
    return np.ascontiguousarray(values).astype(arg.dtype.carrier)


def _random(dtype: DType, shape: tuple[int, ...]) -> NDArray:
    return np.resize(_pattern(dtype)[: prod(shape)], shape)


@cache
def _pattern(dtype: DType) -> NDArray:
    """Normal variates of a float type; of an integer type small numbers, which no kernel follows."""
    rng = np.random.default_rng(0)
    if dtype in FLOATS:
        return encode(rng.standard_normal(PATTERN, dtype=np.float32), dtype)
    return rng.integers(0, 1 << 20, PATTERN).astype(dtype.carrier)


def _nothing(s: Symbols, rng: np.random.Generator) -> Arrays:
    return {}


def _copy_pages(s: Symbols, rng: np.random.Generator) -> Arrays:
    """Whole pages, each to another one."""
    if s["P"] < 2 * s["N"]:
        raise UsageError(f"--shape: {s['N']} copies need P={2 * s['N']} pages, not {s['P']}")
    order = rng.permutation(s["P"])
    return {"sources": order[: s["N"]], "targets": order[s["N"] : 2 * s["N"]], "tokens": np.full(s["N"], s["B"])}


def _feed_tokens(s: Symbols, rng: np.random.Generator) -> Arrays:
    """One token of each sequence comes from the step before, at the start of a batch."""
    token_ids = rng.integers(0, 1 << 15, s["T"])
    fed = min(s["T"], s["C"])
    token_ids[:fed] = -1 - np.arange(fed)
    return {"token_ids": token_ids, "chosen": rng.integers(0, 1 << 15, s["C"])}


def _embedding(s: Symbols, rng: np.random.Generator) -> Arrays:
    return {"token_ids": rng.integers(0, s["V"], s["T"])}


def _rope_kv_write(s: Symbols, rng: np.random.Generator) -> Arrays:
    """Slots of distinct tokens, and positions within the table."""
    slots = s["P"] * s["B"]
    if slots < s["T"]:
        raise UsageError(f"--shape: {s['T']} tokens need more slots than P={s['P']} pages of B={s['B']} have")
    positions = rng.integers(0, s["R"], s["T"])
    return {"positions": positions, "slot_mapping": rng.permutation(slots)[: s["T"]]}


def _pages(s: Symbols, rng: np.random.Generator) -> Arrays:
    """Every sequence with KV / S tokens in pages of its own, spread over the pool."""
    length = s["KV"] // s["S"]
    pages = -(-length // s["B"])
    if s["NH"] % s["NKV"]:
        raise UsageError(f"--shape: NH={s['NH']} query heads are no multiple of NKV={s['NKV']} key heads")
    if pages > s["M"] or s["S"] * pages > s["P"] or length < 1:
        has = f"a table of M={s['M']} pages of {s['B']}, and P={s['P']} pages in all"
        raise UsageError(f"--shape: {s['S']} sequences of {length} tokens do not fit into {has}")
    tables = np.zeros((s["S"], s["M"]), np.int32)
    tables[:, :pages] = rng.permutation(s["P"])[: s["S"] * pages].reshape(s["S"], pages)
    return {"block_tables": tables, "seq_lens": np.full(s["S"], length)}


def _prefill_attention(s: Symbols, rng: np.random.Generator) -> Arrays:
    """T queries, shared out evenly: the last ones of each sequence."""
    starts = np.arange(s["S"] + 1) * s["T"] // s["S"]
    longest = int(np.diff(starts).max())
    if longest > s["MAXQ"] or longest > s["KV"] // s["S"]:
        told = f"MAXQ={s['MAXQ']} queries and KV/S={s['KV'] // s['S']} tokens"
        raise UsageError(f"--shape: a sequence has {longest} of T={s['T']} queries, but at most {told}")
    return {**_pages(s, rng), "query_starts": starts}


def _decode_attention(s: Symbols, rng: np.random.Generator) -> Arrays:
    length = s["KV"] // s["S"]
    if length > s["C"] * SPLIT_TOKENS:
        raise UsageError(f"--shape: C={s['C']} splits of {SPLIT_TOKENS} tokens do not cover {length} tokens")
    return _pages(s, rng)


def _combine_splits(s: Symbols, rng: np.random.Generator) -> Arrays:
    return {"seq_lens": np.full(s["S"], s["C"] * SPLIT_TOKENS)}


def _edit_logits(s: Symbols, rng: np.random.Generator) -> Arrays:
    """E edits, shared out evenly; each sequence's tokens are distinct, and nothing is banned."""
    starts = np.arange(s["S"] + 1) * s["E"] // s["S"]
    if np.diff(starts).max() > s["V"]:
        raise UsageError(f"--shape: E={s['E']} edits are more than {s['S']} sequences have distinct tokens")
    tokens = np.concatenate([rng.permutation(s["V"])[:count] for count in np.diff(starts)])
    return {"starts": starts, "tokens": tokens, "divisors": np.full(s["E"], 1.1)}


def _allow_logits(s: Symbols, rng: np.random.Generator) -> Arrays:
    if 32 * s["W"] < s["V"]:
        raise UsageError(f"--shape: W={s['W']} words of 32 bits are fewer than V={s['V']} tokens")
    masks = rng.integers(0, 1 << 32, (s["K"], s["W"]), dtype=np.uint32)
    return {"rows": np.arange(s["S"]) % s["K"], "masks": masks}


def _truncate_logits(s: Symbols, rng: np.random.Generator) -> Arrays:
    usual = {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.02}
    return {name: np.full(s["S"], value) for name, value in usual.items()}


def _gumbel_sample(s: Symbols, rng: np.random.Generator) -> Arrays:
    seeds = rng.integers(0, 1 << 62, s["S"])
    return {"temperature": np.full(s["S"], 0.8), "seeds": seeds, "positions": np.arange(s["S"])}


def _logprobs(s: Symbols, rng: np.random.Generator) -> Arrays:
    return {"token_ids": rng.integers(0, s["V"], s["S"])}


_BUILDERS: Mapping[str, Builder] = {
    "copy_pages": _copy_pages,
    "feed_tokens": _feed_tokens,
    "embedding": _embedding,
    "rope_kv_write": _rope_kv_write,
    "prefill_attention": _prefill_attention,
    "decode_attention": _decode_attention,
    "combine_splits": _combine_splits,
    "edit_logits": _edit_logits,
    "allow_logits": _allow_logits,
    "truncate_logits": _truncate_logits,
    "gumbel_sample": _gumbel_sample,
    "logprobs": _logprobs,
}
