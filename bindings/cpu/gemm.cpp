// Matrix products for the CPU device: C = alpha * op(A) op(B) + beta * C in BLAS's column-major terms.
//
// Inputs are bf16, f16 or f32, sums are float32, and each output is rounded once. What a language model asks for is
// A transposed and B as stored, where both operands run along K in memory. A tile of outputs is then a set of dot
// products and needs no transposition: 16 partial sums (one vector) per output walk along K and are folded at the end.
//
//   few columns (decode)    A is used once: its bf16 rows are widened to float32 in registers, memory bandwidth decides.
//   many columns (prefill)  kTileRows rows of A at a time are widened into a panel that stays in the first-level cache,
//                           a block of B's columns into panels that stay in the second. A as float32 never exists.
//   other transpositions    the panels are gathered element by element; the arithmetic is the same.
//
// In every path an output's additions happen in one order, which depends on K alone: lane l adds the products l, l+16,
// l+32, ..., and the lanes fold as a tree. So an output does not depend on how many columns are computed with it (a
// request alone or in a batch), nor on the path, nor on the number of threads.
// The blocking follows Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008).

#include <algorithm>
#include <type_traits>
#include <vector>

#include "gemm_pool.h"
#include "gemm_tiles.h"

// One call, as bindings/cpu/gemm.py lays it out. Types are cudaDataType, sizes and strides count elements.
struct GemmCall {
  int32_t input_type, output_type, transpose_a, transpose_b;
  int64_t m, n, k, lda, ldb, ldc, stride_a, stride_b, stride_c, batch;
  float alpha, beta;
  const void *a, *b;
  void* c;
};

namespace {

enum CudaType { kF32 = 0, kF16 = 2, kBf16 = 14 };

// At most this many columns are multiplied directly: beyond, widening rows of A once for all columns wins.
constexpr int kFewColumns = 8;

// Direct tiles are 1, 2, 4 or 8 columns wide.
long direct_width(long columns) {
  long width = 1;
  while (width < columns && width < kDirectColumns) width *= 2;
  return width;
}

// A block of B's columns as float32 takes about half of a 2 MiB second-level cache.
constexpr long kBlockBytes = 1 << 20;

// The piece of A that a thread takes at a time: small enough to share a 1 MiB matrix evenly, large enough that taking
// it costs nothing.
constexpr long kChunkElements = 1 << 15;

// A matrix as lines along K: element (line, p) lies at data[line * line_step + p * k_step].
template <typename T>
struct Lines {
  const T* data;
  long count, line_step, k_step;
};

template <typename T>
void fill_line_contiguous(const T* from, long k, Lanes* to, long panel_step) {
  const long whole = k / kLanes;
  for (long step = 0; step < whole; ++step) {
    prefetch(from, step);
    to[step * panel_step] = load_lanes(from + step * kLanes);
  }
  if (const int rest = int(k % kLanes)) to[whole * panel_step] = load_some(from + whole * kLanes, rest);
}

template <typename T>
void fill_line_strided(const T* from, long k_step, long k, Lanes* to, long panel_step) {
  for (long step = 0; step < steps_of(k); ++step) {
    float some[kLanes] = {};
    const int count = int(std::min<long>(kLanes, k - step * kLanes));
    for (int i = 0; i < count; ++i) some[i] = to_float(from[(step * kLanes + i) * k_step]);
    to[step * panel_step] = load_lanes(some);
  }
}

// Fills a panel with the `lines` lines from `first` on, zeros after the end of K.
template <typename T>
void fill_panel(const Lines<T>& source, long first, long lines, long k, Lanes* panel) {
  for (long line = 0; line < lines; ++line) {
    // A line too many repeats the last: nobody uses its sums.
    const long index = std::min(first + line, source.count - 1);
    const T* from = source.data + index * source.line_step;
    if (source.k_step == 1) {
      fill_line_contiguous(from, k, panel + line, lines);
    } else {
      fill_line_strided(from, source.k_step, k, panel + line, lines);
    }
  }
}

// What one thread works in: float32 panels of both sides, which block of B the right ones hold, and unrounded outputs.
struct Scratch {
  std::vector<Lanes> left, right;
  std::vector<float> sums;
  long job = -1, block = -1;
};

template <typename T>
class Product {
 public:
  explicit Product(const GemmCall& call)
      : call_(call),
        job_(next_job()),
        direct_(kHasDirect && call.n <= kFewColumns && call.transpose_a),
        panel_columns_(direct_ ? direct_width(call.n) : kTileColumns),
        block_columns_(direct_ ? kFewColumns : columns_of_a_block(call.k)),
        chunk_rows_(rows_of_a_chunk(call.k)),
        blocks_((call.n + block_columns_ - 1) / block_columns_),
        chunks_((call.m + chunk_rows_ - 1) / chunk_rows_) {}

  // Items are the chunks of A's rows for each block of B's columns for each product of the batch.
  long items() const { return call_.batch * blocks_ * chunks_; }

  void compute(long item, Scratch& scratch) const {
    const long chunk = item % chunks_, block = item / chunks_ % blocks_, index = item / chunks_ / blocks_;
    const long row = chunk * chunk_rows_, rows = std::min(chunk_rows_, call_.m - row);
    const long column = block * block_columns_, columns = std::min(block_columns_, call_.n - column);
    fill_block(item / chunks_, index, column, columns, scratch);
    scratch.sums.resize(chunk_rows_ * (columns + panel_columns_));
    if (direct_) {
      if constexpr (kHasDirect) direct_tiles(index, row, rows, columns, scratch);
    } else {
      panel_tiles(index, row, rows, columns, scratch);
    }
    for (long c = 0; c < columns; ++c) {
      finish(index, row, rows, column + c, scratch.sums.data() + c * chunk_rows_);
    }
  }

 private:
  // Weights are bf16. For other types the panels will do, and there is a third less to compile.
  static constexpr bool kHasDirect = std::is_same_v<T, Bf16>;

  static long next_job() {
    static std::atomic<long> jobs{0};
    return jobs++;
  }

  static long columns_of_a_block(long k) {
    const long columns = kBlockBytes / long(sizeof(float)) / std::max(k, 1L);
    return std::max(columns / kTileColumns, 4L) * kTileColumns;
  }

  static long rows_of_a_chunk(long k) {
    constexpr long kRows = 12;  // whole tiles of every kind
    return std::max(kChunkElements / std::max(k, 1L) / kRows, 1L) * kRows;
  }

  Lines<T> rows_of_a(long index) const {
    const T* data = static_cast<const T*>(call_.a) + index * call_.stride_a;
    return call_.transpose_a ? Lines<T>{data, call_.m, call_.lda, 1} : Lines<T>{data, call_.m, 1, call_.lda};
  }

  Lines<T> columns_of_b(long index) const {
    const T* data = static_cast<const T*>(call_.b) + index * call_.stride_b;
    return call_.transpose_b ? Lines<T>{data, call_.n, 1, call_.ldb} : Lines<T>{data, call_.n, call_.ldb, 1};
  }

  long panel_size(long lines) const { return steps_of(call_.k) * lines; }

  // Neighbouring items of a thread mostly share their block of B.
  void fill_block(long block, long index, long first, long columns, Scratch& scratch) const {
    if (scratch.job == job_ && scratch.block == block) return;
    scratch.job = job_;
    scratch.block = block;
    const long panels = (columns + panel_columns_ - 1) / panel_columns_, size = panel_size(panel_columns_);
    scratch.right.resize(panels * size);
    for (long panel = 0; panel < panels; ++panel) {
      fill_panel(columns_of_b(index), first + panel * panel_columns_, panel_columns_, call_.k,
                 scratch.right.data() + panel * size);
    }
  }

  void panel_tiles(long index, long first_row, long rows, long columns, Scratch& scratch) const {
    float tile[kTileRows * kTileColumns];
    scratch.left.resize(panel_size(kTileRows));
    for (long row = 0; row < rows; row += kTileRows) {
      fill_panel(rows_of_a(index), first_row + row, kTileRows, call_.k, scratch.left.data());
      const Lanes* right = scratch.right.data();
      for (long column = 0; column < columns; column += kTileColumns, right += panel_size(kTileColumns)) {
        panel_tile<kTileRows, kTileColumns>({scratch.left.data()}, {right}, call_.k, tile);
        place<kTileRows, kTileColumns>(tile, row, column, scratch);
      }
    }
  }

  // The width of a panel is a constant of each tile: this finds the one of this call.
  void direct_tiles(long index, long first_row, long rows, long columns, Scratch& scratch) const {
    const Rows<T> left{rows_of_a(index).data + first_row * call_.lda, call_.lda};
    switch (panel_columns_) {
      case 1:
        return direct_tiles<1>(left, rows, columns, scratch);
      case 2:
        return direct_tiles<2>(left, rows, columns, scratch);
      case 4:
        return direct_tiles<4>(left, rows, columns, scratch);
      default:
        return direct_tiles<kDirectColumns>(left, rows, columns, scratch);
    }
  }

  template <int kColumns>
  void direct_tiles(const Rows<T>& left, long rows, long columns, Scratch& scratch) const {
    constexpr int kRows = direct_rows(kColumns);
    long row = 0;
    for (; row + kRows <= rows; row += kRows) direct_rows_at<kRows, kColumns>(left, row, columns, scratch);
    for (; row < rows; ++row) direct_rows_at<1, kColumns>(left, row, columns, scratch);
  }

  template <int kRows, int kColumns>
  void direct_rows_at(const Rows<T>& left, long row, long columns, Scratch& scratch) const {
    float tile[kRows * kColumns];
    const Lanes* right = scratch.right.data();
    for (long column = 0; column < columns; column += kColumns, right += panel_size(kColumns)) {
      direct_tile<kRows, kColumns>(left.from(row), {right}, call_.k, tile);
      place<kRows, kColumns>(tile, row, column, scratch);
    }
  }

  // The buffer of sums is rounded up to whole tiles, so that none has to be cut here.
  template <int kRows, int kColumns>
  void place(const float* tile, long row, long column, Scratch& scratch) const {
    for (int c = 0; c < kColumns; ++c) {
      std::memcpy(&scratch.sums[(column + c) * chunk_rows_ + row], tile + c * kRows, kRows * sizeof(float));
    }
  }

  void finish(long index, long row, long rows, long column, const float* sums) const {
    const long at = index * call_.stride_c + column * call_.ldc + row;
    if (call_.output_type == kF32) {
      round_to(static_cast<float*>(call_.c) + at, rows, sums);
    } else {
      round_to(static_cast<T*>(call_.c) + at, rows, sums);
    }
  }

  // With beta 0 the old value is not read: it may be a NaN.
  template <typename Out>
  void round_to(Out* out, long rows, const float* sums) const {
    const float alpha = call_.alpha, beta = call_.beta;
    if (beta == 0) {
      for (long i = 0; i < rows; ++i) store(out + i, alpha * sums[i]);
    } else {
      for (long i = 0; i < rows; ++i) store(out + i, alpha * sums[i] + beta * to_float(out[i]));
    }
  }

  const GemmCall& call_;
  const long job_;
  const bool direct_;
  const long panel_columns_, block_columns_, chunk_rows_, blocks_, chunks_;
};

Pool* pool = nullptr;

template <typename T>
void run(const GemmCall& call) {
  const Product<T> product(call);
  pool->run(product.items(), [&product](long item) {
    thread_local Scratch scratch;
    product.compute(item, scratch);
  });
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// Starts the threads; called once, before the first product. They live until the process ends, and so does the pool:
// destroying it while they wait would hang the exit.
void cutaway_gemm_start(int threads) { pool = new Pool(threads); }

void cutaway_gemm(const GemmCall* call) {
  switch (call->input_type) {
    case kBf16:
      return run<Bf16>(*call);
    case kF16:
      return run<F16>(*call);
    default:
      return run<float>(*call);
  }
}

}  // extern "C"
#pragma GCC visibility pop
