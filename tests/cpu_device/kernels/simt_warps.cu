// Kernels that test warp collectives.
#include "common.cuh"

template <typename T>
__device__ void all_shuffles(T* out, const T* in, int argument, int width) {
  const int lane = threadIdx.x;
  const T value = in[lane];
  out[lane] = __shfl_sync(kFullWarp, value, argument, width);
  out[32 + lane] = __shfl_up_sync(kFullWarp, value, argument, width);
  out[64 + lane] = __shfl_down_sync(kFullWarp, value, argument, width);
  out[96 + lane] = __shfl_xor_sync(kFullWarp, value, argument, width);
}

extern "C" __global__ void shuffle_int(int* out, const int* in, int argument, int width) {
  all_shuffles(out, in, argument, width);
}
extern "C" __global__ void shuffle_float(float* out, const float* in, int argument, int width) {
  all_shuffles(out, in, argument, width);
}
extern "C" __global__ void shuffle_double(double* out, const double* in, int argument, int width) {
  all_shuffles(out, in, argument, width);
}
extern "C" __global__ void shuffle_u64(uint64_t* out, const uint64_t* in, int argument, int width) {
  all_shuffles(out, in, argument, width);
}
extern "C" __global__ void shuffle_bf162(__nv_bfloat162* out, const __nv_bfloat162* in, int argument,
                                         int width) {
  all_shuffles(out, in, argument, width);
}

extern "C" __global__ void votes(uint32_t* out, const int* in) {
  const int lane = threadIdx.x;
  const int value = in[lane];
  uint32_t* mine = out + lane * 8;
  mine[0] = __ballot_sync(kFullWarp, value & 1);
  mine[1] = __any_sync(kFullWarp, value > 90);
  mine[2] = __all_sync(kFullWarp, value >= 0);
  mine[3] = __match_any_sync(kFullWarp, value % 3);
  mine[4] = __reduce_add_sync(kFullWarp, value);
  mine[5] = __reduce_min_sync(kFullWarp, value - 50);
  mine[6] = __reduce_max_sync(kFullWarp, static_cast<unsigned>(value));
  mine[7] = __reduce_xor_sync(kFullWarp, static_cast<unsigned>(value));
}

// Both halves of the warp sum by themselves, each with its own mask, on different paths.
extern "C" __global__ void halves(int* out) {
  const int lane = threadIdx.x;
  int value = lane;
  if (lane < 16) {
    for (int bit = 8; bit > 0; bit /= 2) value += __shfl_xor_sync(0x0000ffffu, value, bit);
  } else {
    for (int bit = 8; bit > 0; bit /= 2) value += __shfl_xor_sync(0xffff0000u, value, bit);
    __syncwarp(0xffff0000u);
  }
  __syncwarp();
  out[lane] = value;
}

// Lanes from `first_gone` on return; the rest go on with the full mask.
extern "C" __global__ void after_early_return(int* out, int first_gone) {
  const int lane = threadIdx.x;
  if (lane >= first_gone) return;
  out[lane] = __shfl_sync(kFullWarp, lane * 10, first_gone - 1);
  out[32 + lane] = __activemask();
  __syncwarp();
}

// The same collective on two paths with one mask: __syncwarp may be met from several places.
extern "C" __global__ void syncwarp_on_two_paths(int* out) {
  __shared__ int tile[32];
  const int lane = threadIdx.x;
  tile[lane] = lane;
  if (lane % 2) {
    __syncwarp();
  } else {
    __syncwarp();
  }
  out[lane] = tile[31 - lane];
}

extern "C" __global__ void absent_source(int* out) {
  const int lane = threadIdx.x;
  if (lane < 16) out[lane] = __shfl_sync(0x0000ffffu, lane, 20);
}

extern "C" __global__ void caller_not_in_mask(int* out) { out[threadIdx.x] = __ballot_sync(0x0000ffffu, 1); }

// Lanes 0..15 wait for the whole warp, the others have gone another way and wait for it there.
extern "C" __global__ void never_meet(int* out) {
  const int lane = threadIdx.x;
  if (lane < 16) {
    out[lane] = __shfl_sync(kFullWarp, lane, 0);
  } else {
    out[lane] = __ballot_sync(kFullWarp, 1);
  }
}
