// RMSNorm: divides each row by its root mean square and scales its columns; add_rmsnorm first adds two rows.
//
// Formula:   rmsnorm:      out[t][h] = x[t][h] / sqrt(mean_h(x[t][h]^2) + eps) * weight[h]
//            add_rmsnorm:  residual[t][h] = bf16(residual[t][h] + x[t][h]);  out = rmsnorm(residual)
// Pointers:  out       bf16 [T, H]   written
//            residual  bf16 [T, H]   add_rmsnorm only: read and written
//            x         bf16 [T, H]
//            weight    bf16 [H]      written by no kernel (it is read before grid_dependency_wait)
//            T tokens, H hidden size, a multiple of 8; rows are contiguous.
// Threads:   block t owns row t. Thread i holds vectors i, i + BLOCK_THREADS, ... (8 columns each) in
//            registers from the sum of squares to the scaling, so that the row is read once.
//            VECTORS_PER_THREAD, at least H / (8 * BLOCK_THREADS), is how many it can hold: given exactly, no
//            register is kept idle.
// Bytes:     rmsnorm reads 2*T*H + 2*H and writes 2*T*H; add_rmsnorm reads and writes 2*T*H more.
// Source:    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.
// Test:      python -m pytest tests/device -k rmsnorm
//            python -m tools.microtest rmsnorm
//            python -m tools.microtest add_rmsnorm
#include "common.cuh"
#include "ptx.cuh"
#include "reduce.cuh"

// The columns of one row that belong to this thread.
struct RowPart {
  Packed<bf16> vectors[VECTORS_PER_THREAD];
};

// Calls visit(i, first column) for each vector i that this thread holds. Unrolled, so that RowPart stays in
// registers.
template <typename Visit>
__device__ inline void for_each_vector(int hidden, Visit visit) {
#pragma unroll
  for (int i = 0; i < VECTORS_PER_THREAD; ++i) {
    const int column = (threadIdx.x + i * BLOCK_THREADS) * 8;
    if (column < hidden) visit(i, column);
  }
}

// Stops the kernel where the registers cannot hold the row, rather than leave its end out.
__device__ inline RowPart load_row(const bf16* row, int hidden) {
  if (hidden > 8 * BLOCK_THREADS * VECTORS_PER_THREAD) __trap();
  RowPart part;
  for_each_vector(hidden, [&](int i, int column) { part.vectors[i] = load16(row + column); });
  return part;
}

__device__ inline void store_row(bf16* row, const RowPart& part, int hidden) {
  for_each_vector(hidden, [&](int i, int column) { store16(row + column, part.vectors[i]); });
}

// 1 / sqrt(mean of squares + eps) of the whole row; every thread gets it.
__device__ inline float inverse_rms(const RowPart& part, float eps, int hidden) {
  __shared__ float scratch[kMaxWarps];
  float squares = 0.0f;
  for_each_vector(hidden, [&](int i, int) {
    for (int j = 0; j < 8; ++j) {
      const float value = __bfloat162float(part.vectors[i][j]);
      squares = fmaf(value, value, squares);
    }
  });
  return rsqrtf(block_sum(squares, scratch) / static_cast<float>(hidden) + eps);
}

__device__ inline RowPart scale_row(const RowPart& part, const RowPart& weight, float factor, int hidden) {
  RowPart scaled;
  for_each_vector(hidden, [&](int i, int) {
    for (int j = 0; j < 8; ++j) {
      const float value = __bfloat162float(part.vectors[i][j]) * factor;
      scaled.vectors[i][j] = __float2bfloat16(value * __bfloat162float(weight.vectors[i][j]));
    }
  });
  return scaled;
}

// The sum is rounded to bf16 here, as it is in memory: the norm is of the residual that the next layer will
// read.
__device__ inline RowPart add_rows(const RowPart& a, const RowPart& b, int hidden) {
  RowPart sum;
  for_each_vector(hidden, [&](int i, int) {
    for (int j = 0; j < 8; ++j) {
      sum.vectors[i][j] =
          __float2bfloat16(__bfloat162float(a.vectors[i][j]) + __bfloat162float(b.vectors[i][j]));
    }
  });
  return sum;
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, 1)
    rmsnorm(bf16* __restrict__ out, const bf16* __restrict__ x, const bf16* __restrict__ weight, float eps,
            int hidden) {
  grid_dependency_launch();
  const RowPart scale = load_row(weight, hidden);
  grid_dependency_wait();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * hidden;
  const RowPart part = load_row(x + row, hidden);
  store_row(out + row, scale_row(part, scale, inverse_rms(part, eps, hidden), hidden), hidden);
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, 1)
    add_rmsnorm(bf16* __restrict__ out, bf16* __restrict__ residual, const bf16* __restrict__ x,
                const bf16* __restrict__ weight, float eps, int hidden) {
  grid_dependency_launch();
  const RowPart scale = load_row(weight, hidden);
  grid_dependency_wait();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * hidden;
  const RowPart part = add_rows(load_row(residual + row, hidden), load_row(x + row, hidden), hidden);
  store_row(residual + row, part, hidden);
  store_row(out + row, scale_row(part, scale, inverse_rms(part, eps, hidden), hidden), hidden);
}
