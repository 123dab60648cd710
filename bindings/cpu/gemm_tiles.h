// Tiles of dot products: kRows lines of op(A) against kColumns lines of op(B), sixteen partial sums for each output.

#pragma once

#include "gemm_elements.h"

// The partial sums of a tile must stay in registers: AVX-512 has room for 24 such vectors beside the operands, the
// other instruction sets for four.
#ifdef __AVX512F__
constexpr int kTileRows = 6, kTileColumns = 4;
#else
constexpr int kTileRows = 2, kTileColumns = 2;
#endif

// Rows are used once each in a direct tile, so only latency asks for several at a time.
constexpr int direct_rows(int columns) { return columns * 4 <= kTileRows * kTileColumns ? 4 : 2; }

// How far ahead of its use a row of A is fetched. The hardware's own prefetchers restart at every row and reached 60 %
// of the memory bandwidth; with this, 85 %. A prefetch beyond the end of the memory is no fault.
constexpr int kPrefetchBytes = 4096;
constexpr int kCacheLineBytes = 64;

inline long steps_of(long k) { return (k + kLanes - 1) / kLanes; }

// Lines widened to float32, zeros after their end, interleaved by vectors so that a tile reads one stream.
template <int kLines>
struct Panel {
  const Lanes* data;
  Lanes at(long step, int line) const { return data[step * kLines + line]; }
};

template <typename T>
inline void prefetch(const T* line, long step) {
  constexpr int bytes = kLanes * sizeof(T);
  const char* ahead = reinterpret_cast<const char*>(line) + step * bytes + kPrefetchBytes;
  if (step * bytes % kCacheLineBytes < bytes) __builtin_prefetch(ahead);
}

// Lines read where they lie in memory: consecutive along K, `stride` elements apart.
template <typename T>
struct Rows {
  const T* data;
  long stride;

  Rows from(long line) const { return {data + line * stride, stride}; }
  const T* address(long step, int line) const { return data + line * stride + step * kLanes; }
};

// Lanes of x and y folded to 8 each, of four vectors to 4 each: the same tree for each of them as if it were alone.
inline Lanes fold_pair(Lanes x, Lanes y) {
  return __builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
         __builtin_shufflevector(x, y, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

inline Lanes fold_quad(Lanes xy, Lanes zw) {
  return __builtin_shufflevector(xy, zw, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
         __builtin_shufflevector(xy, zw, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}

// The sums of four vectors, in lanes 0, 4, 8 and 12.
inline Lanes fold_four(Lanes x, Lanes y, Lanes z, Lanes w) {
  Lanes quad = fold_quad(fold_pair(x, y), fold_pair(z, w));
  quad += __builtin_shufflevector(quad, quad, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  return quad + __builtin_shufflevector(quad, quad, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
}

// The partial sums of one tile; `fold` leaves sums[c * kRows + r].
template <int kRows, int kColumns>
struct Partials {
  static constexpr int kCount = kRows * kColumns;
  Lanes lanes[kCount] = {};

  void add(const Lanes (&rows)[kRows], const Panel<kColumns>& right, long step) {
    for (int c = 0; c < kColumns; ++c) {
      const Lanes column = right.at(step, c);
      for (int r = 0; r < kRows; ++r) lanes[c * kRows + r] += rows[r] * column;
    }
  }

  Lanes at(int i) const { return i < kCount ? lanes[i] : Lanes{}; }

  void fold(float* sums) const {
    for (int i = 0; i < kCount; i += 4) {
      const Lanes four = fold_four(at(i), at(i + 1), at(i + 2), at(i + 3));
      for (int j = 0; j < 4 && i + j < kCount; ++j) sums[i + j] = four[4 * j];
    }
  }
};

template <int kRows, int kColumns>
void panel_tile(const Panel<kRows>& left, const Panel<kColumns>& right, long k, float* sums) {
  Partials<kRows, kColumns> partials;
  for (long step = 0; step < steps_of(k); ++step) {
    Lanes rows[kRows];
    for (int r = 0; r < kRows; ++r) rows[r] = left.at(step, r);
    partials.add(rows, right, step);
  }
  partials.fold(sums);
}

template <int kRows, int kColumns, typename T>
void direct_tile(const Rows<T>& left, const Panel<kColumns>& right, long k, float* sums) {
  Partials<kRows, kColumns> partials;
  const long whole = k / kLanes;
  Lanes rows[kRows];
  for (long step = 0; step < whole; ++step) {
    for (int r = 0; r < kRows; ++r) {
      prefetch(left.address(0, r), step);
      rows[r] = load_lanes(left.address(step, r));
    }
    partials.add(rows, right, step);
  }
  if (const int rest = int(k % kLanes)) {
    for (int r = 0; r < kRows; ++r) rows[r] = load_some(left.address(whole, r), rest);
    partials.add(rows, right, whole);
  }
  partials.fold(sums);
}
