"""Probes of what threads do together: atomics, barriers, warp collectives, and the PTX wrappers of ptx.cuh."""

from __future__ import annotations

from tests.cpu_device.intrinsics.agreement import exact, matrix_product, rounded, rounded_bf16
from tests.cpu_device.intrinsics.probe import Probe
from tests.cpu_device.intrinsics.recipes import (
    Recipe,
    float_pairs,
    fragments,
    half_pairs,
    matrices,
    pairs_within,
    signed,
    small,
    words,
)

U64 = "unsigned long long"
FULL = "0xffffffffu"
_INTEGERS = {"int": signed(words(2, count=128)), "unsigned": words(2, count=128), U64: words(2, 64, count=128)}


def _changed(name: str, kind: str, recipe: Recipe, arguments: str = "y", agrees=exact) -> list[Probe]:
    """What an atomic leaves in a cell that held x, and what it returns."""
    call = f"{name}(&out[i], {arguments})"
    return [
        Probe(f"{name} {kind} new", kind, (kind, kind), f"out[i] = x; {call};", recipe, agrees),
        Probe(f"{name} {kind} old", kind, (kind, kind), f"out[i] = x; out[i] = {call};", recipe, agrees),
    ]


_ATOMICS = [
    *(
        probe
        for name in ("atomicAdd", "atomicMax", "atomicMin", "atomicAnd", "atomicOr", "atomicXor", "atomicExch")
        for kind, recipe in _INTEGERS.items()
        for probe in _changed(name, kind, recipe)
    ),
    *_changed("atomicSub", "int", _INTEGERS["int"]),
    *_changed("atomicSub", "unsigned", _INTEGERS["unsigned"]),
    # On global memory a GPU's atom.add.f32 takes subnormals for 0 (PTX ISA), which the CPU device does not.
    *_changed("atomicAdd", "float", pairs_within((-100, 100), (-100, 100)), agrees=rounded),
    *_changed("atomicExch", "float", float_pairs),
    *_changed("atomicInc", "unsigned", small(5, 2)),
    *_changed("atomicDec", "unsigned", small(5, 2)),
    *_changed("atomicCAS", "int", small(3, 2), "y, 7"),
    *_changed("atomicCAS", U64, small(3, 2), "y, 7"),
    Probe("atomicAdd bf16 pair", "__nv_bfloat162", ("__nv_bfloat162",) * 3, "out[i] = x; atomicAdd(&out[i], y);",
          half_pairs("bf16"), rounded_bf16),
    Probe("atomicAdd of all", "int", ("int",), "atomicAdd(&out[0], x);", signed(words()), exact),
    Probe("atomicMax of all", "unsigned", ("unsigned",), "atomicMax(&out[0], x);", words(), exact),
]  # fmt: skip


def _together(name: str, body: str, kind: str = "unsigned", recipe: Recipe | None = None) -> Probe:
    return Probe(name, kind, (kind,), body, recipe or small(6), exact)


_SHUFFLES = [
    Probe(f"{name} {kind} {by} of {width}", kind, (kind,), f"{name}({FULL}, x, {by}, {width})", recipe, exact)
    for name in ("__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync")
    for kind, recipe in (("int", small(2**31, count=64)), (U64, small(2**63, count=64)))
    for by, width in ((1, 32), (5, 32), (16, 32), (3, 8), (9, 8), (7, 4))
]

_REDUCTIONS = [
    *(
        _together(f"__reduce_{op}_sync", f"__reduce_{op}_sync({FULL}, x | 0xf0u)", recipe=words(count=128))
        for op in ("add", "min", "max", "and", "or", "xor")
    ),
    *(
        _together(f"__reduce_{op}_sync int", f"__reduce_{op}_sync({FULL}, x)", "int", signed(words(count=128)))
        for op in ("add", "min", "max")
    ),
    _together(
        "__reduce_add_sync halves", "if (i % 32 < 16) { out[i] = __reduce_add_sync(0xffffu, x); }"
        " else { out[i] = __reduce_add_sync(0xffff0000u, x); }", recipe=words(count=128),
    ),
]  # fmt: skip

_VOTES = [
    _together("__ballot_sync", f"__ballot_sync({FULL}, x < 2)"),
    _together("__ballot_sync of an even half", "i % 2 ? 0u : __ballot_sync(0x55555555u, x < 2)"),
    _together("__any_sync", f"__any_sync({FULL}, x == 5 && i % 64 < 32)"),
    _together("__all_sync", f"__all_sync({FULL}, x < 5 || i % 64 < 32)"),
    _together("__match_any_sync", f"__match_any_sync({FULL}, x)"),
    _together("__syncthreads_count", "__syncthreads_count(x < 3)"),
    _together("__syncthreads_or", "__syncthreads_or(x == 5 && i < 64)"),
    _together("__syncthreads_and", "__syncthreads_and(x < 6 && i < 64)"),
    _together(
        "__syncthreads",
        "__shared__ unsigned tile[64]; tile[threadIdx.x] = x; __syncthreads(); out[i] = tile[63 - threadIdx.x];",
    ),
    _together(
        "__syncwarp",
        "__shared__ unsigned tile[64]; tile[threadIdx.x] = x; __syncwarp(); out[i] = tile[threadIdx.x ^ 31];",
    ),
]  # fmt: skip

_TILE = """__shared__ __align__(16) uint16_t tile[32][8];
  for (int k = 0; k < 8; ++k) tile[i][k] = a[i * 8 + k];
  __syncwarp();
  uint32_t r[{count}];
  {name}(r, tile[i % (8 * {count})]);
  for (int k = 0; k < {count}; ++k) out[i * {count} + k] = r[k];"""

_MMA = """uint32_t left[4], right[2];
  float sums[4];
  for (int k = 0; k < 4; ++k) left[k] = a[i * 4 + k];
  for (int k = 0; k < 2; ++k) right[k] = b[i * 2 + k];
  for (int k = 0; k < 4; ++k) sums[k] = c[i * 4 + k];
  mma_m16n8k16_bf16(sums, left, right, sums);
  for (int k = 0; k < 4; ++k) out[i * 4 + k] = sums[k];"""

# Each thread copies 16 bytes twice, in two groups; `wait` says for which, and another thread reads them.
_COPY = """__shared__ __align__(16) uint32_t tile[2][32][4];
  cp_async_16(tile[0][i], a + i * 4);
  cp_async_commit();
  cp_async_16_zfill(tile[1][i], a + (31 - i) * 4, i % 3 != 0);
  cp_async_commit();
  cp_async_wait<{left}>();
  __syncthreads();
  for (int k = 0; k < 4; ++k) out[i * 4 + k] = tile[{stage}][i ^ 5][k];
  cp_async_wait<0>();"""

_PTX = [
    *(
        Probe(name, "unsigned", ("uint16_t",), _TILE.format(name=name, count=count), matrices, exact,
              outputs=count, elements=8, threads=32)
        for name, count in (("ldmatrix_x4", 4), ("ldmatrix_x4_trans", 4), ("ldmatrix_x2", 2), ("ldmatrix_x2_trans", 2))
    ),
    Probe("mma_m16n8k16_bf16", "float", ("unsigned", "unsigned", "float"), _MMA, fragments, matrix_product,
          outputs=4, elements=4, threads=32),
    *(
        Probe(name, "unsigned", ("unsigned",), _COPY.format(left=left, stage=stage), small(2**32, count=128), exact,
              outputs=4, elements=4, threads=32)
        for name, left, stage in (("cp_async_16", 1, 0), ("cp_async_16_zfill", 0, 1))
    ),
    _together("grid dependencies", "grid_dependency_wait(); grid_dependency_launch(); out[i] = x;"),
]  # fmt: skip

PROBES = [*_ATOMICS, *_SHUFFLES, *_REDUCTIONS, *_VOTES, *_PTX]
