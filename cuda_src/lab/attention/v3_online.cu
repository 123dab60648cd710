// Attention, rung 3 of 4: one sweep over the keys, by online softmax.
//
// Idea:      Sums relative to the maximum *so far* need no sweep of their own for the maximum: when a score
//            exceeds it, what was summed is scaled down by exp(old - new), which is what it would have been
//            relative to the new one. Each score is made once, each key read once. This is FlashAttention in
//            plain arithmetic.
// Formula:   m' = max(m, s[j]);  l' = l * exp(m - m') + exp(s[j] - m');
//            o' = o * exp(m - m') + exp(s[j] - m') * v[j];  out = o / l after the last key
// Pointers:  as in prefill_attention.cu
// Threads:   as in v2_tiled.cu
// Bytes:     4*D for each block and each key before its last query: key and value once.
// Source:    Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", 2022,
//            arXiv:2205.14135.
// Test:      python -m pytest tests/device -k prefill_attention_v3
//            python -m tools.microtest prefill_attention_v3_online
#include "tile.cuh"

// What a query knows after some of its keys.
struct RunningAttention {
  float max = -kInfinity;
  float sum = 0.0f;               // of weights relative to `max`
  float weighted[HEAD_DIM] = {};  // sum of weight * value

  __device__ void push(float score, const bf16* value) {
    if (score > max) {
      rescale(expf(max - score));
      max = score;
    }
    const float weight = expf(score - max);
    sum += weight;
    add_value(weighted, weight, value);
  }

  __device__ void rescale(float factor) {
    sum *= factor;
#pragma unroll
    for (int i = 0; i < HEAD_DIM; ++i) weighted[i] *= factor;
  }
};

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    prefill_attention(bf16* __restrict__ out, const bf16* __restrict__ qkv, const bf16* __restrict__ k_cache,
                      const bf16* __restrict__ v_cache, const int32_t* __restrict__ block_tables,
                      const int32_t* __restrict__ seq_lens, const int32_t* __restrict__ query_starts,
                      float scale, int num_heads, int num_kv_heads, int table_width) {
  const int head = blockIdx.y;
  const int sequence = blockIdx.z;
  const int first = blockIdx.x * BLOCK_THREADS;
  const int query_len = query_starts[sequence + 1] - query_starts[sequence];
  const int queries = min(query_len - first, BLOCK_THREADS);
  if (queries <= 0) return;

  extern __shared__ __align__(16) unsigned char smem_raw[];
  bf16* q_tile = reinterpret_cast<bf16*>(smem_raw);
  bf16* k_tile = q_tile + kTileSize;
  bf16* v_tile = k_tile + kTileSize;
  const int64_t token = query_starts[sequence] + first;
  const int row_heads = num_heads + 2 * num_kv_heads;
  load_tile(q_tile, queries, [&](int i) { return qkv + ((token + i) * row_heads + head) * HEAD_DIM; });

  const PagedHead pages = {block_tables + static_cast<int64_t>(sequence) * table_width,
                           head / (num_heads / num_kv_heads), num_kv_heads};
  const int thread = threadIdx.x;
  const int position = seq_lens[sequence] - query_len + first + thread;
  const int num_keys = seq_lens[sequence] - query_len + first + queries;
  const bf16* q = q_tile + thread * kTileStride;

  RunningAttention running;
  for (int start = 0; start < num_keys; start += kTileRows) {
    __syncthreads();  // the tiles before are used up
    load_tile(k_tile, min(num_keys - start, kTileRows),
              [&](int i) { return k_cache + pages.row(start + i); });
    load_tile(v_tile, min(num_keys - start, kTileRows),
              [&](int i) { return v_cache + pages.row(start + i); });
    __syncthreads();
    const int visible = thread < queries ? min(position + 1 - start, kTileRows) : 0;
    for (int j = 0; j < visible; ++j) {
      running.push(scale * dot(q, k_tile + j * kTileStride), v_tile + j * kTileStride);
    }
  }
  bf16* row = out + ((token + thread) * num_heads + head) * HEAD_DIM;
  if (thread < queries) write_row(row, running.weighted, running.sum);
}
