"""Every operation of the forward pass: one entry a kernel, in the order in which a token meets them.

Symbols: T tokens of this step (all sequences in a row), S sequences, H hidden size, NH query heads, NKV key/value
heads, D head_dim, I MLP width, V vocabulary, P pages of the KV cache, B tokens a page, M block-table width, R positions
of the rope table, C splits of a sequence, N elements. Matrix products are not here: they go to cuBLAS
(bindings/cublas.py).

`bytes` counts what must cross device memory once (each input read once, each output written once), `flops` the
multiplications and additions that the formula asks for: together they give an operation's floor.
"""

from typing import Any

from bindings.dtypes import BF16, F32, I32, U32, U64
from engine.spec import Extra, In, InOut, Launch, Op, Out, Scalar, Size, evaluate

# Tokens of one split of a sequence in decode attention. A constant, so that the order of the sums (and with it every
# bit of the result) depends on the sequence alone, never on what else is in the batch.
SPLIT_TOKENS = 256

# Queries of one block of prefill attention: 4 warps of 16 rows, the row count of an mma tile.
PREFILL_QUERY_TILE = 64

# Tiles of attention, halved where the block would not fit (head_dim 128 on Turing, whose blocks may have 64 KB).
# Prefill: 4 tiles of keys or values. Decode: 2, and what the threads share beside them, 4 * (D + 322) at most for each
# query head of the group: its query, scores and weights, and sums.
_PREFILL_KEY_TILE = "64 if 4 * 2 * 64 * (D + 8) <= SMEM else 32"
_DECODE_TILE = "128 if 2 * 2 * 128 * (D + 8) + NH // NKV * 4 * (D + 322) <= SMEM else 64"


# Threads of a row's block in the norms: one 16-byte vector each, in whole warps, as long as a block can be that large.
_NORM_THREADS = "32 * -(-H // 256) if H <= 8192 else 1024"
_NORM_CONSTANTS = {"BLOCK_THREADS": _NORM_THREADS, "VECTORS_PER_THREAD": "1 if H <= 8192 else -(-H // 8192)"}


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _tile_bytes(tokens: int, head_dim: int) -> int:
    """Shared memory of a tile of keys or values: bf16 rows, each padded by 16 bytes against bank conflicts."""
    return 2 * tokens * (head_dim + 8)


def _prefill_launch(s: Any) -> Launch:
    tile = evaluate(_PREFILL_KEY_TILE, vars(s))
    return Launch((s.NH, s.S, _ceil_div(s.MAXQ, PREFILL_QUERY_TILE)), 128, 4 * _tile_bytes(tile, s.D))


def _decode_launch(s: Any) -> Launch:
    tile = evaluate(_DECODE_TILE, vars(s))
    return Launch((s.C, s.NKV, s.S), tile, 2 * _tile_bytes(tile, s.D))


COPY_PAGES = Op(
    "copy_pages",
    source="copy_pages.cu",
    entry="copy_pages",
    summary="copy-on-write: a sequence gets its own copy of KV pages that it shares",
    args=(
        InOut("kv_pages", BF16, "K P NKV B D"),
        In("sources", I32, "N"),
        In("targets", I32, "N"),
        In("tokens", I32, "N"),
        Size("num_pages", "P"),
    ),
    constants={"HEAD_DIM": "D", "PAGE_SIZE": "B", "PAGE_ELEMENTS": "NKV*B*D", "BLOCK_THREADS": 128},
    launch=lambda s: Launch((s.N, s.K), 128),
    bytes=lambda s: 4 * s.K * s.N * s.NKV * s.B * s.D + 12 * s.N,
    flops=lambda s: 0,
)

FEED_TOKENS = Op(
    "feed_tokens",
    source="feed_tokens.cu",
    entry="feed_tokens",
    summary="put the tokens that the step before chose into this step's input",
    args=(
        InOut("token_ids", I32, "T"),
        In("chosen", I32, "C"),
        Size("tokens", "T"),
    ),
    constants={"BLOCK_THREADS": 256},
    launch=lambda s: Launch((_ceil_div(s.T, 256),), 256),
    bytes=lambda s: 12 * s.T,
    flops=lambda s: 0,
)

EMBEDDING = Op(
    "embedding",
    source="embedding.cu",
    entry="embedding",
    summary="look up one row of the embedding table per token",
    args=(
        Out("out", BF16, "T H"),
        In("token_ids", I32, "T"),
        In("table", BF16, "V H"),
        Size("hidden", "H"),
    ),
    constants={"BLOCK_THREADS": 128},
    launch=lambda s: Launch((s.T,), 128),
    bytes=lambda s: s.T * (2 * s.H * 2 + 4),
    flops=lambda s: 0,
)

RMSNORM = Op(
    "rmsnorm",
    source="rmsnorm.cu",
    entry="rmsnorm",
    summary="scale each row to unit root mean square, then by the weight",
    args=(
        Out("out", BF16, "T H"),
        In("x", BF16, "T H"),
        In("weight", BF16, "H"),
        Scalar("eps", F32),
        Size("hidden", "H"),
    ),
    constants=_NORM_CONSTANTS,
    launch=lambda s: Launch((s.T,), evaluate(_NORM_THREADS, vars(s))),
    bytes=lambda s: 2 * s.H * (2 * s.T + 1),
    flops=lambda s: 4 * s.T * s.H,
)

ADD_RMSNORM = Op(
    "add_rmsnorm",
    source="rmsnorm.cu",
    entry="add_rmsnorm",
    summary="add a sublayer's output to the residual stream and normalise the sum",
    args=(
        Out("out", BF16, "T H"),
        InOut("residual", BF16, "T H"),
        In("x", BF16, "T H"),
        In("weight", BF16, "H"),
        Scalar("eps", F32),
        Size("hidden", "H"),
    ),
    constants=_NORM_CONSTANTS,
    launch=lambda s: Launch((s.T,), evaluate(_NORM_THREADS, vars(s))),
    bytes=lambda s: 2 * s.H * (4 * s.T + 1),
    flops=lambda s: 5 * s.T * s.H,
)

ROPE_KV_WRITE = Op(
    "rope_kv_write",
    source="rope_kv_write.cu",
    entry="rope_kv_write",
    summary="rotate queries and keys by their positions, and write keys and values into their pages",
    args=(
        InOut("qkv", BF16, "T NH+2*NKV D"),
        InOut("k_cache", BF16, "P NKV B D"),
        InOut("v_cache", BF16, "P NKV B D"),
        In("positions", I32, "T"),
        In("slot_mapping", I32, "T"),
        In("cos_sin", F32, "R D"),
        Extra("NH"),
        Size("num_heads", "NH"),
        Size("num_kv_heads", "NKV"),
    ),
    constants={"HEAD_DIM": "D", "PAGE_SIZE": "B", "BLOCK_THREADS": 128},
    launch=lambda s: Launch((s.T,), 128),
    bytes=lambda s: s.T * (2 * s.D * 2 * (s.NH + 2 * s.NKV) + 4 * s.D + 8),
    flops=lambda s: 3 * s.T * s.D * (s.NH + s.NKV),
)

PREFILL_ATTENTION = Op(
    "prefill_attention",
    source="prefill_attention.cu",
    entry="prefill_attention",
    summary="causal attention of many new tokens over their sequence's pages (online softmax, tensor cores)",
    args=(
        Out("out", BF16, "T NH D"),
        In("qkv", BF16, "T NH+2*NKV D"),
        In("k_cache", BF16, "P NKV B D"),
        In("v_cache", BF16, "P NKV B D"),
        In("block_tables", I32, "S M"),
        In("seq_lens", I32, "S"),
        In("query_starts", I32, "S+1"),
        Scalar("scale", F32),
        Size("num_heads", "NH"),
        Size("num_kv_heads", "NKV"),
        Size("table_width", "M"),
        Extra("MAXQ"),
        Extra("KV", default="T"),  # key positions read in all: more than T where sequences have earlier context
    ),
    constants={"HEAD_DIM": "D", "PAGE_SIZE": "B", "KEY_TILE": _PREFILL_KEY_TILE},
    launch=_prefill_launch,
    bytes=lambda s: 2 * s.D * (2 * s.T * s.NH + 2 * s.KV * s.NKV),
    flops=lambda s: 4 * s.D * s.NH * s.T * (s.KV - s.T + (s.T + s.S) // 2) // s.S,
)

DECODE_ATTENTION = Op(
    "decode_attention",
    source="decode_attention.cu",
    entry="decode_attention",
    summary="attention of one new token per sequence over one split of its pages",
    args=(
        Out("partial_out", F32, "S NH C D"),
        Out("partial_lse", F32, "S NH C"),
        In("qkv", BF16, "S NH+2*NKV D"),
        In("k_cache", BF16, "P NKV B D"),
        In("v_cache", BF16, "P NKV B D"),
        In("block_tables", I32, "S M"),
        In("seq_lens", I32, "S"),
        Scalar("scale", F32),
        Size("num_heads", "NH"),
        Size("num_kv_heads", "NKV"),
        Size("table_width", "M"),
        Size("num_splits", "C"),
        Extra("KV", default="S*M*B"),  # key positions read in all; the tables' capacity where nobody says
    ),
    constants={
        "HEAD_DIM": "D",
        "GQA_GROUP": "NH//NKV",
        "PAGE_SIZE": "B",
        "SPLIT_TOKENS": SPLIT_TOKENS,
        "TILE_TOKENS": _DECODE_TILE,
    },
    launch=_decode_launch,
    bytes=lambda s: 2 * s.D * (s.S * s.NH + 2 * s.KV * s.NKV) + 4 * s.S * s.NH * s.C * (s.D + 1),
    flops=lambda s: 4 * s.D * s.NH * s.KV,
)

COMBINE_SPLITS = Op(
    "combine_splits",
    source="decode_attention.cu",
    entry="combine_splits",
    summary="merge the splits of each sequence by their log-sum-exps",
    args=(
        Out("out", BF16, "S NH D"),
        In("partial_out", F32, "S NH C D"),
        In("partial_lse", F32, "S NH C"),
        In("seq_lens", I32, "S"),
        Size("num_heads", "NH"),
        Size("num_splits", "C"),
        Extra("NKV"),
        Extra("B"),
    ),
    constants=DECODE_ATTENTION.constants,
    launch=lambda s: Launch((s.NH, s.S), s.D // 2),
    bytes=lambda s: s.S * s.NH * (4 * s.C * (s.D + 1) + 2 * s.D),
    flops=lambda s: 2 * s.S * s.NH * s.C * s.D,
)

SILU_MUL = Op(
    "silu_mul",
    source="silu_mul.cu",
    entry="silu_mul",
    summary="the gated MLP's activation: silu(gate) * up",
    args=(
        Out("out", BF16, "T I"),
        In("gate_up", BF16, "T 2*I"),
        Size("width", "I"),
    ),
    constants={"BLOCK_THREADS": 256},
    launch=lambda s: Launch((_ceil_div(s.I // 8, 256), s.T), 256),
    bytes=lambda s: 2 * 3 * s.T * s.I,
    flops=lambda s: 5 * s.T * s.I,
)

ARGMAX = Op(
    "argmax",
    source="argmax.cu",
    entry="argmax",
    summary="greedy sampling: the token with the largest logit",
    args=(
        Out("token_ids", I32, "S"),
        In("logits", F32, "S V"),
        Size("vocab", "V"),
    ),
    constants={"BLOCK_THREADS": 1024},
    launch=lambda s: Launch((s.S,), 1024),
    bytes=lambda s: 4 * s.S * (s.V + 1),
    flops=lambda s: s.S * s.V,
)

GUMBEL_SAMPLE = Op(
    "gumbel_sample",
    source="gumbel_sample.cu",
    entry="gumbel_sample",
    summary="temperature sampling: the largest of logit / temperature + Gumbel noise",
    args=(
        Out("token_ids", I32, "S"),
        In("logits", F32, "S V"),
        In("temperature", F32, "S"),
        In("seeds", U64, "S"),
        In("positions", I32, "S"),
        Size("vocab", "V"),
    ),
    constants={"BLOCK_THREADS": 1024},
    launch=lambda s: Launch((s.S,), 1024),
    bytes=lambda s: 4 * s.S * (s.V + 1) + 16 * s.S,
    flops=lambda s: 4 * s.S * s.V,
)

TRUNCATE_LOGITS = Op(
    "truncate_logits",
    source="truncate_logits.cu",
    entry="truncate_logits",
    summary="top-k, top-p and min-p: every token below the threshold becomes impossible",
    args=(
        InOut("logits", F32, "S V"),
        In("temperature", F32, "S"),
        In("top_k", I32, "S"),
        In("top_p", F32, "S"),
        In("min_p", F32, "S"),
        Size("vocab", "V"),
    ),
    constants={"BLOCK_THREADS": 1024},
    launch=lambda s: Launch((s.S,), 1024),
    bytes=lambda s: 8 * s.S * s.V + 16 * s.S,
    flops=lambda s: 4 * s.S * s.V,
)

EDIT_LOGITS = Op(
    "edit_logits",
    source="edit_logits.cu",
    entry="edit_logits",
    summary="penalties, bias and bans: single logits changed from a sparse list",
    args=(
        InOut("logits", F32, "S V"),
        In("starts", I32, "S+1"),
        In("tokens", I32, "E"),
        In("biases", F32, "E"),
        In("divisors", F32, "E"),
        In("penalties", F32, "E"),
        Size("vocab", "V"),
    ),
    constants={"BLOCK_THREADS": 256},
    launch=lambda s: Launch((s.S,), 256),
    bytes=lambda s: 24 * s.E + 4 * s.S,
    flops=lambda s: 3 * s.E,
)

ALLOW_LOGITS = Op(
    "allow_logits",
    source="allow_logits.cu",
    entry="allow_logits",
    summary="only the tokens of a mask stay possible",
    args=(
        InOut("logits", F32, "S V"),
        In("rows", I32, "S"),
        In("masks", U32, "K W"),
        Size("vocab", "V"),
        Size("words", "W"),
    ),
    constants={"BLOCK_THREADS": 256},
    launch=lambda s: Launch((s.S, _ceil_div(s.V, 256)), 256),
    bytes=lambda s: s.S * (s.V // 8 + 4 + 4 * s.V),
    flops=lambda s: 0,
)

LOGPROBS = Op(
    "logprobs",
    source="logprobs.cu",
    entry="logprobs",
    summary="the log-probability and rank of the chosen token, and the most probable ones",
    args=(
        Out("chosen", F32, "S"),
        Out("ranks", I32, "S"),
        Out("top_ids", I32, "S N"),
        Out("top_logprobs", F32, "S N"),
        In("logits", F32, "S V"),
        In("token_ids", I32, "S"),
        Size("vocab", "V"),
        Size("num_top", "N"),
    ),
    constants={"BLOCK_THREADS": 1024},
    launch=lambda s: Launch((s.S,), 1024),
    bytes=lambda s: 4 * s.S * (s.V + 1) + 8 * s.S * (s.N + 1),
    flops=lambda s: 3 * s.S * s.V,
)

# Not of the forward pass: weights for a benchmark, where only the sizes matter.
RANDOM_NORMAL = Op(
    "random_normal",
    source="random_normal.cu",
    entry="random_normal",
    summary="random weights: normal variates from a seed",
    args=(
        Out("out", BF16, "N"),
        Scalar("std", F32),
        Scalar("seed", U64),
        Scalar("subsequence", U32),
        Size("count", "N"),
    ),
    constants={"BLOCK_THREADS": 256},
    launch=lambda s: Launch((min(_ceil_div(s.N, 8 * 256), 1024),), 256),
    bytes=lambda s: 2 * s.N,
    flops=lambda s: 8 * s.N,
)

ALL: dict[str, Op] = {
    op.name: op
    for op in (
        COPY_PAGES,
        FEED_TOKENS,
        EMBEDDING,
        RMSNORM,
        ADD_RMSNORM,
        ROPE_KV_WRITE,
        PREFILL_ATTENTION,
        DECODE_ATTENTION,
        COMBINE_SPLITS,
        SILU_MUL,
        ARGMAX,
        EDIT_LOGITS,
        ALLOW_LOGITS,
        TRUNCATE_LOGITS,
        GUMBEL_SAMPLE,
        LOGPROBS,
        RANDOM_NORMAL,
    )
}
