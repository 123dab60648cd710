// Kernels that test the CPU twins of ptx.cuh, one instruction each.
#include "ptx.cuh"

// in: 4 matrices of 8x8 words of 16 bits, row by row; out[lane][4]
template <int kCount, bool kTransposed>
__device__ void load_matrices(uint32_t* out, const uint16_t* in) {
  __shared__ __align__(16) uint16_t tile[32][8];
  const int lane = threadIdx.x;
  for (int i = 0; i < 8; ++i) tile[lane][i] = in[lane * 8 + i];
  __syncwarp();
  const void* row = tile[lane % (8 * kCount)];
  uint32_t fragments[kCount];
  if constexpr (kCount == 4 && !kTransposed) ldmatrix_x4(fragments, row);
  if constexpr (kCount == 4 && kTransposed) ldmatrix_x4_trans(fragments, row);
  if constexpr (kCount == 2 && !kTransposed) ldmatrix_x2(fragments, row);
  if constexpr (kCount == 2 && kTransposed) ldmatrix_x2_trans(fragments, row);
  for (int j = 0; j < kCount; ++j) out[lane * 4 + j] = fragments[j];
}

extern "C" __global__ void ldmatrix_4(uint32_t* out, const uint16_t* in) { load_matrices<4, false>(out, in); }
extern "C" __global__ void ldmatrix_4_trans(uint32_t* out, const uint16_t* in) {
  load_matrices<4, true>(out, in);
}
extern "C" __global__ void ldmatrix_2(uint32_t* out, const uint16_t* in) { load_matrices<2, false>(out, in); }
extern "C" __global__ void ldmatrix_2_trans(uint32_t* out, const uint16_t* in) {
  load_matrices<2, true>(out, in);
}

// a[lane][4], b[lane][2], c[lane][4] -> d[lane][4], `repeats` times
extern "C" __global__ void mma(float* d, const uint32_t* a, const uint32_t* b, const float* c, int repeats) {
  const int lane = threadIdx.x % 32;
  uint32_t fragment_a[4], fragment_b[2];
  float accumulator[4];
  for (int i = 0; i < 4; ++i) fragment_a[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) fragment_b[i] = b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) accumulator[i] = c[lane * 4 + i];
  for (int i = 0; i < repeats; ++i) mma_m16n8k16_bf16(accumulator, fragment_a, fragment_b, accumulator);
  for (int i = 0; i < 4; ++i) d[threadIdx.x * 4 + i] = accumulator[i];
}

extern "C" __global__ void ldmatrix_misaligned(uint32_t* out) {
  __shared__ __align__(16) uint16_t tile[32][8];
  uint32_t fragments[4];
  ldmatrix_x4(fragments, &tile[threadIdx.x][1]);
  out[threadIdx.x] = fragments[0];
}

extern "C" __global__ void mma_by_half_a_warp(float* out) {
  uint32_t a[4] = {}, b[2] = {};
  float c[4] = {}, d[4];
  if (threadIdx.x >= 16) return;
  mma_m16n8k16_bf16(d, a, b, c);
  out[threadIdx.x] = d[0];
}

// Each thread copies 4 floats; `wait` says whether for all groups, for all but the last, or not at all.
extern "C" __global__ void copy_async(float* out, const float* in, int wait, int valid_threads) {
  __shared__ __align__(16) float tile[2][32][4];
  const int lane = threadIdx.x;
  cp_async_16(tile[0][lane], in + lane * 4);
  cp_async_commit();
  cp_async_16_zfill(tile[1][lane], in + lane * 4, lane < valid_threads);
  cp_async_commit();
  if (wait == 0) cp_async_wait<0>();
  if (wait == 1) cp_async_wait<1>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) {
    out[lane * 4 + i] = tile[0][31 - lane][i];
    out[128 + lane * 4 + i] = tile[1][31 - lane][i];
  }
}

extern "C" __global__ void copy_async_from(float* out, const float* in) {
  __shared__ __align__(16) float tile[4];
  cp_async_16(tile, in);
  cp_async_commit();
  cp_async_wait<0>();
  out[0] = tile[0];
}

extern "C" __global__ void dependency(int* out) {
  grid_dependency_wait();
  out[0] = smem_address(out) != 0;
  grid_dependency_launch();
}
