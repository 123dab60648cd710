// Tiles of dot products: kRows lines of op(A) against kColumns lines of op(B), sixteen partial sums for each output.

#pragma once

#include "gemm_elements.h"

// The partial sums of a tile must stay in registers, beside the lines that are being multiplied: AVX-512 has 32
// registers of 16 lanes, AVX2 16 of 8, NEON 32 of 4.
#ifdef __AVX512F__
constexpr int kTileRows = 6, kTileColumns = 4, kDirectColumns = 8;
#else
constexpr int kTileRows = 3, kTileColumns = 2, kDirectColumns = 4;
#endif

// Rows of a direct tile: as many as fit, up to the four that keep enough reads under way.
constexpr int direct_rows(int columns) {
  const int fit = kTileRows * kTileColumns / columns;
  return fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
}

// How far ahead of its use a row of A is fetched. The hardware's own prefetchers restart at every row and reached 60 %
// of the memory bandwidth; with this, 85 %. A prefetch beyond the end of the memory is no fault.
constexpr int kPrefetchBytes = 4096;
constexpr int kCacheLineBytes = 64;

inline long steps_of(long k) { return (k + kLanes - 1) / kLanes; }

// Lines widened to float32, zeros after their end, interleaved by vectors so that a tile reads one stream.
template <int kLines>
struct Panel {
  const Lanes* data;
  const Lanes& at(long step, int line) const { return data[step * kLines + line]; }
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

// Folding adds lane l + 8 to lane l, then l + 4, l + 2 and l + 1. Four vectors are folded at once, which shares the
// shuffles between them; each goes through the very additions that it would go through alone.
#ifdef __AVX512F__

inline Part fold_to_8(Part x, Part y) {
  return __builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
         __builtin_shufflevector(x, y, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

inline Part fold_to_4(Part xy, Part zw) {
  return __builtin_shufflevector(xy, zw, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
         __builtin_shufflevector(xy, zw, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}

inline void fold_four(const Lanes& x, const Lanes& y, const Lanes& z, const Lanes& w, float* sums) {
  Part four = fold_to_4(fold_to_8(x.parts[0], y.parts[0]), fold_to_8(z.parts[0], w.parts[0]));
  four += __builtin_shufflevector(four, four, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  four += __builtin_shufflevector(four, four, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  for (int i = 0; i < 4; ++i) sums[i] = four[4 * i];
}

#else

typedef float Quarter __attribute__((vector_size(16)));

inline Quarter fold_to_4(const Lanes& lanes) {
  Quarter q[4];
  std::memcpy(q, &lanes, sizeof(q));
  return (q[0] + q[2]) + (q[1] + q[3]);
}

inline Quarter fold_to_2(Quarter x, Quarter y) {
  return __builtin_shufflevector(x, y, 0, 1, 4, 5) + __builtin_shufflevector(x, y, 2, 3, 6, 7);
}

inline void fold_four(const Lanes& x, const Lanes& y, const Lanes& z, const Lanes& w, float* sums) {
  const Quarter xy = fold_to_2(fold_to_4(x), fold_to_4(y)), zw = fold_to_2(fold_to_4(z), fold_to_4(w));
  const Quarter four =
      __builtin_shufflevector(xy, zw, 0, 2, 4, 6) + __builtin_shufflevector(xy, zw, 1, 3, 5, 7);
  std::memcpy(sums, &four, sizeof(four));
}

#endif

// The partial sums of one tile; `fold` leaves sums[c * kRows + r].
template <int kRows, int kColumns>
struct Partials {
  static constexpr int kCount = kRows * kColumns;
  Lanes lanes[kCount] = {};

  void add(const Lanes (&rows)[kRows], const Panel<kColumns>& right, long step) {
    for (int part = 0; part < kParts; ++part) {
      for (int c = 0; c < kColumns; ++c) {
        const Part column = right.at(step, c).parts[part];
        for (int r = 0; r < kRows; ++r) lanes[c * kRows + r].parts[part] += rows[r].parts[part] * column;
      }
    }
  }

  Lanes at(int i) const { return i < kCount ? lanes[i] : Lanes{}; }

  void fold(float* sums) const {
    for (int i = 0; i < kCount; i += 4) {
      float four[4];
      fold_four(at(i), at(i + 1), at(i + 2), at(i + 3), four);
      for (int j = 0; j < 4 && i + j < kCount; ++j) sums[i + j] = four[j];
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
