// Kernels with one wrong access each, at the line that is marked with the kernel's own name, and beside each its right
// twin, `..._right`. A thread is one of 64 unless said otherwise.
#include "common.cuh"
#include "ptx.cuh"

// ---- Device memory ----------------------------------------------------------------------------------------

extern "C" __global__ void read_past_end(float* out, const float* in, int count) {
  if (threadIdx.x <= count) out[threadIdx.x] = in[threadIdx.x];  // WRONG read_past_end
}
extern "C" __global__ void read_past_end_right(float* out, const float* in, int count) {
  if (threadIdx.x < count) out[threadIdx.x] = in[threadIdx.x];
}

extern "C" __global__ void write_before_start(float* out, int shift) {
  out[static_cast<int>(threadIdx.x) - shift] = 1.0f;  // WRONG write_before_start
}
extern "C" __global__ void write_before_start_right(float* out, int shift) {
  if (threadIdx.x >= shift) out[threadIdx.x - shift] = 1.0f;
}

// `in` was freed, or nobody wrote its second half: what is wrong is the caller's doing.
extern "C" __global__ void copy(float* out, const float* in) {
  const float value = in[threadIdx.x];  // WRONG copy
  out[threadIdx.x] = value;
}

extern "C" __global__ void store_half(float* out) {
  if (threadIdx.x < 32) out[threadIdx.x] = 1.0f;
}

extern "C" __global__ void read_twice_as_wide(float* out, const float* in) {
  const float2 pair = *reinterpret_cast<const float2*>(in + threadIdx.x);  // WRONG read_twice_as_wide
  out[threadIdx.x] = pair.x + pair.y;
}
extern "C" __global__ void read_twice_as_wide_right(float* out, const float* in) {
  const float2 pair = *reinterpret_cast<const float2*>(in + threadIdx.x / 2 * 2);
  out[threadIdx.x] = pair.x + pair.y;
}

extern "C" __global__ void load_crooked(float* out, const float* in) {
  const Packed<float> four = load16(in + threadIdx.x);  // WRONG load_crooked
  out[threadIdx.x] = four[0] + four[3];
}
extern "C" __global__ void load_crooked_right(float* out, const float* in) {
  const Packed<float> four = load16(in + threadIdx.x / 4 * 4);
  out[threadIdx.x] = four[0] + four[3];
}

extern "C" __global__ void copy_block(float* out, const float* in, int floats) {
  if (threadIdx.x == 0) memcpy(out, in, floats * sizeof(float));  // WRONG copy_block
}

extern "C" __global__ void count_in(unsigned* counter) {
  atomicAdd(counter, 1u);  // WRONG count_in
}

// ---- Shared memory: bounds and contents -------------------------------------------------------------------

// Right with shift 0.
extern "C" __global__ void overrun_dynamic(float* out, int shift) {
  extern __shared__ __align__(16) unsigned char smem_raw[];
  float* tile = reinterpret_cast<float*>(smem_raw);
  const int index = static_cast<int>(threadIdx.x) + shift;
  tile[index] = 1.0f;  // WRONG overrun_dynamic
  __syncthreads();
  out[threadIdx.x] = tile[index];
}

extern "C" __global__ void overrun_static(float* out, int shift) {
  __shared__ float before[16];
  __shared__ float row[64];
  __shared__ float behind[16];
  const int index = static_cast<int>(threadIdx.x) + shift;
  if (threadIdx.x < 16) before[threadIdx.x] = behind[threadIdx.x] = 1.0f;
  row[index] = 1.0f;  // WRONG overrun_static
  __syncthreads();
  out[threadIdx.x] = row[index] + before[threadIdx.x / 4] + behind[threadIdx.x / 4];
}

extern "C" __global__ void read_unwritten_shared(float* out) {
  __shared__ float scratch[32];
  if (threadIdx.x < 31) scratch[threadIdx.x] = 1.0f;
  __syncthreads();
  if (threadIdx.x < 32) out[threadIdx.x] = scratch[threadIdx.x];  // WRONG read_unwritten_shared
}
extern "C" __global__ void read_unwritten_shared_right(float* out) {
  __shared__ float scratch[32];
  if (threadIdx.x < 32) scratch[threadIdx.x] = 1.0f;
  __syncthreads();
  if (threadIdx.x < 32) out[threadIdx.x] = scratch[threadIdx.x];
}

extern "C" __global__ void load_matrix_crooked(float* out, int shift) {
  __shared__ __align__(16) float rows[8 * 4 + 4];
  if (threadIdx.x < 36) rows[threadIdx.x] = 1.0f;
  __syncthreads();
  uint32_t fragments[2];
  ldmatrix_x2(fragments, rows + threadIdx.x % 8 * 4 + shift);  // WRONG load_matrix_crooked
  out[threadIdx.x] = __uint_as_float(fragments[0]);
}

// ---- Shared memory: races ---------------------------------------------------------------------------------

extern "C" __global__ void missing_barrier(float* out) {
  __shared__ float tile[64];
  tile[threadIdx.x] = 1.0f;                   // OTHER missing_barrier
  out[threadIdx.x] = tile[threadIdx.x % 32];  // WRONG missing_barrier
}
extern "C" __global__ void missing_barrier_right(float* out) {
  __shared__ float tile[64];
  tile[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x % 32];
}

extern "C" __global__ void missing_reuse_barrier(float* out) {
  __shared__ float tile[64];
  tile[threadIdx.x] = 1.0f;
  __syncthreads();
  const float next = tile[(threadIdx.x + 1) % 64];  // OTHER missing_reuse_barrier
  tile[threadIdx.x] = next;                         // WRONG missing_reuse_barrier
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}
extern "C" __global__ void missing_reuse_barrier_right(float* out) {
  __shared__ float tile[64];
  tile[threadIdx.x] = 1.0f;
  __syncthreads();
  const float next = tile[(threadIdx.x + 1) % 64];
  __syncthreads();
  tile[threadIdx.x] = next;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void missing_syncwarp(float* out) {
  __shared__ float tile[64];
  tile[threadIdx.x] = 1.0f;                      // OTHER missing_syncwarp
  out[threadIdx.x] = tile[threadIdx.x / 2 * 2];  // WRONG missing_syncwarp
}
extern "C" __global__ void missing_syncwarp_right(float* out) {
  __shared__ float tile[64];
  tile[threadIdx.x] = 1.0f;
  __syncwarp();
  out[threadIdx.x] = tile[threadIdx.x / 2 * 2];
}

// A collective orders the lanes that take part in it and no others.
extern "C" __global__ void half_a_warp_meets(float* out) {
  __shared__ float tile[64];
  tile[threadIdx.x] = 1.0f;  // OTHER half_a_warp_meets
  const bool lower = threadIdx.x % 32 < 16;
  const int met = lower ? __shfl_xor_sync(0x0000ffffu, 1, 1) : __shfl_xor_sync(0xffff0000u, 1, 1);
  out[threadIdx.x] = met * tile[threadIdx.x / 32 * 32];  // WRONG half_a_warp_meets
}
extern "C" __global__ void half_a_warp_meets_right(float* out) {
  __shared__ float tile[64];
  tile[threadIdx.x] = 1.0f;
  const bool lower = threadIdx.x % 32 < 16;
  const int met = lower ? __shfl_xor_sync(0x0000ffffu, 1, 1) : __shfl_xor_sync(0xffff0000u, 1, 1);
  out[threadIdx.x] = met * tile[threadIdx.x / 16 * 16];
}

extern "C" __global__ void plain_beside_atomic(unsigned* out) {
  __shared__ unsigned count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, 1u);     // WRONG plain_beside_atomic
  out[threadIdx.x] = count;  // OTHER plain_beside_atomic
}
extern "C" __global__ void plain_beside_atomic_right(unsigned* out) {
  __shared__ unsigned count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, 1u);
  __syncthreads();
  out[threadIdx.x] = count;
}

// ---- Shared memory: cp.async ------------------------------------------------------------------------------

extern "C" __global__ void copy_without_wait(float* out, const float* in) {
  __shared__ __align__(16) float tile[64 * 4];
  cp_async_16(tile + threadIdx.x * 4, in + threadIdx.x * 4);  // OTHER copy_without_wait
  cp_async_commit();
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x * 4];  // WRONG copy_without_wait
}
extern "C" __global__ void copy_without_barrier(float* out, const float* in) {
  __shared__ __align__(16) float tile[64 * 4];
  cp_async_16(tile + threadIdx.x * 4, in + threadIdx.x * 4);  // OTHER copy_without_barrier
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[threadIdx.x / 2 * 8];  // WRONG copy_without_barrier
}
extern "C" __global__ void copy_right(float* out, const float* in) {
  __shared__ __align__(16) float tile[64 * 4];
  cp_async_16(tile + threadIdx.x * 4, in + threadIdx.x * 4);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[threadIdx.x * 4];
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x / 2 * 8];
}

extern "C" __global__ void copy_from(float* out, const float* in, int shift) {
  __shared__ __align__(16) float tile[64 * 4];
  cp_async_16(tile + threadIdx.x * 4, in + threadIdx.x * 4 + shift);  // WRONG copy_from
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[threadIdx.x * 4];
}
