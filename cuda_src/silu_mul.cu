// SiLU * mul: the gated activation of the MLP, between the merged gate/up product and the down product.
//
// Formula:   out[t][i] = silu(gate[t][i]) * up[t][i],  silu(x) = x / (1 + exp(-x))
// Pointers:  out      bf16 [T, I]     written
//            gate_up  bf16 [T, 2*I]   each row: I gates, then I ups
//            T tokens, I width of the MLP (a multiple of 8); rows are contiguous.
// Threads:   grid (ceil(I / (8 * BLOCK_THREADS)), T): block (c, t) takes the c-th run of columns of row t,
//            each thread 8 columns.
// Bytes:     reads 4*T*I, writes 2*T*I.
// Source:    Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202 (there called SwiGLU).
// Test:      python -m pytest tests/device -k silu_mul
//            python -m tools.microtest silu_mul
#include "common.cuh"
#include "ptx.cuh"

// exp(-x) overflows to infinity below -88.7, where the quotient is -0; the true value there is above -1e-36.
__device__ inline float silu(float x) { return x / (1.0f + __expf(-x)); }

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    silu_mul(bf16* __restrict__ out, const bf16* __restrict__ gate_up, int width) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int64_t token = blockIdx.y;
  const int column = (blockIdx.x * BLOCK_THREADS + threadIdx.x) * 8;
  if (column >= width) return;
  const bf16* row = gate_up + token * 2 * width;
  const Packed<bf16> gate = load16(row + column);
  const Packed<bf16> up = load16(row + width + column);
  Packed<bf16> result;
  for (int j = 0; j < 8; ++j) {
    result[j] = __float2bfloat16(silu(__bfloat162float(gate[j])) * __bfloat162float(up[j]));
  }
  store16(out + token * width + column, result);
}
