// Reads the paged KV cache: where a token's key or value lies, and how a tile of them reaches shared memory.
//
// The cache of a layer is bf16[P, NKV, B, D]: page, kv head, offset in the page, dimension. A sequence's
// block table lists its pages in order, so that token t lies in page block_table[t / B] at offset t % B. The
// B rows of one page and head are contiguous (2 KB at B = 16, D = 64), so a gather of a tile is a few plain
// copies.
//
// Idea: virtual memory for the KV cache, from "Efficient Memory Management for Large Language Model Serving
// with PagedAttention" (Kwon et al., 2023). Needs -D HEAD_DIM and -D PAGE_SIZE.
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

// Elements from one row of a tile in shared memory to the next. The 8 of padding make the stride an odd
// number of 16-byte units, so that 8 rows at one column fall into 8 different groups of 4 banks: neither
// ldmatrix nor a thread a row, 16 bytes each, meets a bank conflict. (Without them 8 rows of 64 elements fall
// into one group.)
constexpr int kTileStride = HEAD_DIM + 8;

// What becomes of the rows of a tile behind the end of the tokens.
enum class PastEnd { kLeave, kZero };

// Starts the copy of tokens first_token .. end_token - 1, as far as they fit, into tile[kRows][kTileStride];
// all threads of the block together, each to commit and wait. Zeros are for a caller that multiplies whole
// tiles: past a sequence's end the cache holds anything, and a NaN there would survive being multiplied by a
// probability of zero.
template <int kRows, int kThreads, PastEnd kPastEnd>
__device__ inline void gather_tile(bf16* tile, const bf16* cache, const PagedHead& head, int first_token,
                                   int end_token) {
  constexpr int kPieces = HEAD_DIM / 8;
  static_assert(kRows * kPieces % kThreads == 0, "every thread copies as many pieces");
#pragma unroll 4
  for (int i = 0; i < kRows * kPieces / kThreads; i++) {
    const int piece = i * kThreads + static_cast<int>(threadIdx.x);
    const int token = first_token + piece / kPieces;
    const int column = piece % kPieces * 8;
    // A row past the end looks up the last token's page, not none: loads without a condition can all start at
    // once.
    const bf16* source = cache + head.row(min(token, end_token - 1)) + column;
    bf16* target = tile + piece / kPieces * kTileStride + column;
    if (kPastEnd == PastEnd::kZero) {
      cp_async_16_zfill(target, source, token < end_token);
    } else if (token < end_token) {
      cp_async_16(target, source);
    }
  }
}
