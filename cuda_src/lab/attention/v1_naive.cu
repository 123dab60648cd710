// Attention, rung 1 of 4: one thread a query, straight from the formula, in three passes over the keys.
//
// Idea:      None yet. A thread makes each score three times: for the maximum, for the sum, for the weighted
//            sum of values. (Keeping them would take a row as long as the sequence, for each thread.) Every
//            thread reads every key and value for itself, and its neighbours' loads lie a row apart.
// Formula:   s[j] = scale * q . k[j] for j <= position;  m = max_j s[j];
//            out = sum_j exp(s[j] - m) * v[j] / sum_j exp(s[j] - m)
// Pointers:  as in prefill_attention.cu
// Threads:   thread i of block (tile, head, sequence) owns query tile * BLOCK_THREADS + i of the sequence.
// Bytes:     8*D for each pair of query and visible key (three times the key, once the value), where 4*D for
//            each key would do; the caches catch most of it.
// Source:    Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762.
// Test:      python -m pytest tests/device -k prefill_attention_v1
//            python -m tools.microtest prefill_attention_v1_naive
#include "common.cuh"
#include "paged_kv.cuh"

__device__ inline float dot(const bf16* a, const bf16* b) {
  float sum = 0.0f;
  for (int i = 0; i < HEAD_DIM; ++i) sum = fmaf(__bfloat162float(a[i]), __bfloat162float(b[i]), sum);
  return sum;
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    prefill_attention(bf16* __restrict__ out, const bf16* __restrict__ qkv, const bf16* __restrict__ k_cache,
                      const bf16* __restrict__ v_cache, const int32_t* __restrict__ block_tables,
                      const int32_t* __restrict__ seq_lens, const int32_t* __restrict__ query_starts,
                      float scale, int num_heads, int num_kv_heads, int table_width) {
  const int head = blockIdx.y;
  const int sequence = blockIdx.z;
  const int query = blockIdx.x * BLOCK_THREADS + threadIdx.x;
  const int query_len = query_starts[sequence + 1] - query_starts[sequence];
  if (query >= query_len) return;

  const int visible = seq_lens[sequence] - query_len + query + 1;  // keys up to its own position
  const int64_t token = query_starts[sequence] + query;
  const bf16* q = qkv + (token * (num_heads + 2 * num_kv_heads) + head) * HEAD_DIM;
  const PagedHead pages = {block_tables + static_cast<int64_t>(sequence) * table_width,
                           head / (num_heads / num_kv_heads), num_kv_heads};
  const auto score = [&](int key) { return scale * dot(q, k_cache + pages.row(key)); };

  float max = -kInfinity;
  for (int key = 0; key < visible; ++key) max = fmaxf(max, score(key));
  float sum = 0.0f;
  for (int key = 0; key < visible; ++key) sum += expf(score(key) - max);

  float weighted[HEAD_DIM] = {};
  for (int key = 0; key < visible; ++key) {
    const float probability = expf(score(key) - max) / sum;
    const bf16* v = v_cache + pages.row(key);
#pragma unroll
    for (int i = 0; i < HEAD_DIM; ++i) weighted[i] = fmaf(probability, __bfloat162float(v[i]), weighted[i]);
  }
  bf16* row = out + (token * num_heads + head) * HEAD_DIM;
#pragma unroll
  for (int i = 0; i < HEAD_DIM; ++i) row[i] = __float2bfloat16(weighted[i]);
}
