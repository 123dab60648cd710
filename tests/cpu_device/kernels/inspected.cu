// Statements in every form that instrument.py must leave as they are in effect: test_instrument.py compiles this file
// with and without what tells, and expects the same numbers. Each kernel writes one int of each thread, or more.
#include "common.cuh"
#include "reduce.cuh"

namespace shapes {
struct Pair {
  int first = 1, second;
  float values[2][2] = {};

  __device__ Pair& operator+=(int by) {
    first += by;
    return *this;
  }
  __device__ int sum() const { return first + second; }
};
}  // namespace shapes

using shapes::Pair;

template <typename T, int kCount>
__device__ inline T last_of(const T (&values)[kCount]) {
  return values[kCount - 1];
}

__device__ inline const int* nothing() { return nullptr; }
__device__ inline void store(int* to, int value) { *to = value; }
__device__ inline void store_twice(int* to, int value) { return store(to, value), store(to + 1, value); }
constexpr int doubled(int x) { return 2 * x; }

extern "C" __global__ void branches(int* out, int n) {
  const int i = threadIdx.x;
  int result;
  if (i % 4 == 0)
    result = 1;
  else if (i % 4 == 1)
    result = 2;
  else if (i % 4 == 2) {
    result = 3;
  } else
    for (result = 0; result < n; ++result)
      if (result * result > i) break;
  if constexpr (doubled(2) == 4) result *= doubled(2);
  if (const int rest = i % 3; rest == 2) result += rest;
  switch (i % 5) {
    case 0:
    case 1:
      result += 10;
      break;
    case 2: {
      const int twice = 2 * result;
      result = twice;
      break;
    }
    default:
      result = -result;
  }
  out[i] = result;
}

extern "C" __global__ void loops(int* out, int n) {
  const int i = threadIdx.x;
  int total = 0, steps = 0;
  for (int a = 0, b = n; a < b; ++a, --b) total += a * b;
  do total -= 1, ++steps;
  while (total > 100 && steps < n);
  while (steps--)
    if (steps % 2)
      continue;
    else
      total += steps;
  const int odd[] = {1, 3, 5};
  for (const int value : odd) total += value;
#pragma unroll
  for (int j = 0; j < 3; ++j)
#pragma unroll 2
    for (int k = 0; k < 2; ++k) total += odd[j] << k;
  for (;;) {
    if (total % 7 == 0) break;
    total++;
  }
  out[i] = total + i;
}

extern "C" __global__ void expressions(int* out, int n) {
  const int i = threadIdx.x;
  int x = i, *p = &x, &r = x;
  int many[4] = {1, 2, 3, 4}, zero{};
  x = r = many[i % 4] + zero;
  x += *p > 2 ? n : -n, many[0]++;
  x <<= 1;
  many[x++ % 4] += 2;  // what must not be evaluated again is not told
  *p ^= 5;
  auto add = [&](int a, int) mutable {
    x += a;
    return a < n ? [=] { return a * 2; }() : 0;
  };
  Pair pair = {2, add(i, 0), {{1.0f}}};
  (pair += 3).second += last_of(many);
  pair.values[i & 1][(i >> 1) & 1] = static_cast<float>(pair.sum());
  (&many[0])[i % 4] = nothing() == nullptr ? 1 : 0;
  const bool less = i < n && n > 2;
  int two[2];
  store_twice(two, less ? pair.first : 0);
  static_assert(sizeof(two) == 8, "; { a text ( that [ must not count");
  out[i] = x + pair.sum() + static_cast<int>(pair.values[i & 1][(i >> 1) & 1]) + many[i % 4] + two[1];
}

extern "C" __global__ void together(int* out, int n) {
  __shared__ int row[64];
  extern __shared__ __align__(16) unsigned char smem_raw[];
  int* more = reinterpret_cast<int*>(smem_raw);
  const int i = threadIdx.x;
  row[i] = i * n, more[i] = -i;
  const int any = __syncthreads_or(i == n);
  const uint32_t votes = __ballot_sync(kFullWarp, row[63 - i] & 1);
  int sum = __shfl_down_sync(kFullWarp, row[63 - i], 3, 8) + __shfl_up_sync(kFullWarp, more[i], 1);
  sum += __reduce_add_sync(kFullWarp, i) + __any_sync(kFullWarp, i == 5) +
         __popc(__match_any_sync(kFullWarp, i % 3));
  __syncwarp();
  const float mean =
      warp_reduce(static_cast<float>(sum), 16, [](float a, float b) { return 0.5f * (a + b); });
  atomicAdd(&row[0], 1);
  __syncthreads();
  out[i] = sum + any + static_cast<int>(votes) + static_cast<int>(mean) + row[0];
}
