"""The rungs of the attention ladder in cuda_src/lab/attention: variants of one spec, so all take the same arguments."""

from engine import ops
from engine.spec import Launch

_THREADS = 64  # queries of a block, and keys of a tile
_BY_QUERY = {"HEAD_DIM": "D", "PAGE_SIZE": "B", "BLOCK_THREADS": _THREADS}


def _blocks(max_queries: int) -> int:
    return -(-max_queries // _THREADS)


def _tiles(count: int, head_dim: int) -> int:
    """Bytes of `count` tiles of 64 rows in shared memory; a row is padded by 8 elements of 2 bytes."""
    return count * _THREADS * (head_dim + 8) * 2


ATTENTION_LADDER = (
    ops.PREFILL_ATTENTION.variant(
        name="prefill_attention_v1_naive",
        source="lab/attention/v1_naive.cu",
        summary="one thread a query, three passes over keys in device memory",
        constants=_BY_QUERY,
        launch=lambda s: Launch((_blocks(s.MAXQ), s.NH, s.S), _THREADS),
    ),
    ops.PREFILL_ATTENTION.variant(
        name="prefill_attention_v2_tiled",
        source="lab/attention/v2_tiled.cu",
        summary="tiles of keys and values in shared memory, two sweeps",
        constants=_BY_QUERY,
        launch=lambda s: Launch((_blocks(s.MAXQ), s.NH, s.S), _THREADS, _tiles(3, s.D)),
    ),
    ops.PREFILL_ATTENTION.variant(
        name="prefill_attention_v3_online",
        source="lab/attention/v3_online.cu",
        summary="one sweep: online softmax",
        constants=_BY_QUERY,
        launch=lambda s: Launch((_blocks(s.MAXQ), s.NH, s.S), _THREADS, _tiles(3, s.D)),
    ),
    ops.PREFILL_ATTENTION.variant(
        name="prefill_attention_v4_tensor_cores",
        source="lab/attention/v4_tensor_cores.cu",
        summary="tensor cores, weights in registers, copies in the background: the production kernel",
    ),
)
