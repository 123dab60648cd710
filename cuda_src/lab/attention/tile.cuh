// What rungs 2 and 3 share: tiles of rows in shared memory, and a thread's work with one row of them.
#pragma once

#include "common.cuh"
#include "paged_kv.cuh"

constexpr int kTileRows = BLOCK_THREADS;  // a thread a query, and as many keys in a tile
constexpr int kTileSize = kTileRows * kTileStride;

// Copies rows 0 .. num_rows - 1 into tile[kTileRows][kTileStride], all threads together, 16 bytes at a time:
// neighbouring threads take neighbouring pieces. `row_at(i)` is the address of row i in device memory.
template <typename RowAt>
__device__ inline void load_tile(bf16* tile, int num_rows, RowAt row_at) {
  constexpr int kPieces = HEAD_DIM / 8;
  for (int i = threadIdx.x; i < num_rows * kPieces; i += BLOCK_THREADS) {
    store16(tile + i / kPieces * kTileStride + i % kPieces * 8,
            load16(row_at(i / kPieces) + i % kPieces * 8));
  }
}

__device__ inline float dot(const bf16* a, const bf16* b) {
  float sum = 0.0f;
#pragma unroll 4
  for (int piece = 0; piece < HEAD_DIM; piece += 8) {
    const Packed<bf16> x = load16(a + piece);
    const Packed<bf16> y = load16(b + piece);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(__bfloat162float(x[i]), __bfloat162float(y[i]), sum);
  }
  return sum;
}

__device__ inline void add_value(float (&weighted)[HEAD_DIM], float weight, const bf16* value) {
#pragma unroll
  for (int piece = 0; piece < HEAD_DIM; piece += 8) {
    const Packed<bf16> v = load16(value + piece);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      weighted[piece + i] = fmaf(weight, __bfloat162float(v[i]), weighted[piece + i]);
    }
  }
}

__device__ inline void write_row(bf16* row, const float (&weighted)[HEAD_DIM], float sum) {
#pragma unroll
  for (int piece = 0; piece < HEAD_DIM; piece += 8) {
    Packed<bf16> packed;
    for (int i = 0; i < 8; ++i) packed[i] = __float2bfloat16(weighted[piece + i] / sum);
    store16(row + piece, packed);
  }
}
