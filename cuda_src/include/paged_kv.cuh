// Reads the paged KV cache: where a token's key or value lies, and how a tile of them reaches shared memory.
//
// The cache of a layer is bf16[P, NKV, B, D]: page, kv head, offset in the page, dimension. A sequence's block table lists its
// pages in order, so that token t lies in page block_table[t / B] at offset t % B. The B rows of one page and head are
// contiguous (2 KB at B = 16, D = 64), so a gather of a tile is a few plain copies.
//
// Idea: virtual memory for the KV cache, from "Efficient Memory Management for Large Language Model Serving with
// PagedAttention" (Kwon et al., 2023). Needs -D HEAD_DIM and -D PAGE_SIZE.
#pragma once

#include "common.cuh"
#include "ptx.cuh"

static_assert(HEAD_DIM % 16 == 0, "rows are copied in pieces of 16 bytes and multiplied in steps of 16");

// One sequence's view of one head of the cache.
struct PagedHead {
  const int32_t* block_table;
  int kv_head;
  int num_kv_heads;

  // Index of the row of `token` in k_cache or v_cache. 64 bits: a cache of 80 GB has 2^35 elements.
  __device__ int64_t row(int token) const {
    const int64_t page = block_table[token / PAGE_SIZE];
    return ((page * num_kv_heads + kv_head) * PAGE_SIZE + token % PAGE_SIZE) * HEAD_DIM;
  }
};

// Elements from one row of a tile in shared memory to the next. The 8 of padding make the stride an odd number of
// 16-byte units, so that 8 rows at one column fall into 8 different groups of 4 banks: neither ldmatrix nor a thread a
// row, 16 bytes each, meets a bank conflict. (Without them 8 rows of 64 elements fall into one group.)
constexpr int kTileStride = HEAD_DIM + 8;

// Starts the copy of `kRows` tokens from `first_token` on into tile[kRows][kTileStride]; the caller commits and waits.
// Tokens from `end_token` on become zeros, and neither the cache nor the table is read for them: past a sequence's end both
// hold anything, and a NaN there would survive being multiplied by a probability of zero.
template <int kRows, int kThreads>
__device__ inline void gather_tile(bf16* tile, const bf16* cache, const PagedHead& head, int first_token,
                                   int end_token) {
  constexpr int kPieces = HEAD_DIM / 8;
#pragma unroll 4
  for (int i = 0; i < kRows * kPieces / kThreads; i++) {
    const int piece = i * kThreads + threadIdx.x;
    const int token = first_token + piece / kPieces;
    const int column = piece % kPieces * 8;
    const bool valid = token < end_token;
    const bf16* source = valid ? cache + head.row(token) + column : cache;
    cp_async_16_zfill(tile + piece / kPieces * kTileStride + column, source, valid);
  }
  static_assert(kRows * kPieces % kThreads == 0, "the loop deals out whole rounds of pieces");
}
