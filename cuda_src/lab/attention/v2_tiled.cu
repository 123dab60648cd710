// Attention, rung 2 of 4: the threads of a block share tiles of keys and values in shared memory.
//
// Idea:      The queries of a block need the same keys: one copy of a tile serves them all, BLOCK_THREADS
//            times fewer reads of device memory. The softmax takes two sweeps over the keys, one for the
//            maximum and one for the sums; dividing only at the end lets both sums share the second sweep.
// Formula:   s[j] = scale * q . k[j] for j <= position;  m = max_j s[j];
//            out = sum_j exp(s[j] - m) * v[j] / sum_j exp(s[j] - m)
// Pointers:  as in prefill_attention.cu
// Threads:   thread i of block (tile, head, sequence) owns query tile * BLOCK_THREADS + i of the sequence.
//            All threads copy tiles of queries, keys and values: 3 * BLOCK_THREADS * (D + 8) bf16 of dynamic
//            shared memory.
// Bytes:     6*D for each block and each key before its last query: the key twice, the value once.
// Source:    tiling as in NVIDIA's "CUDA C++ Programming Guide", section "Shared Memory".
// Test:      python -m pytest tests/device -k prefill_attention_v2
//            python -m tools.microtest prefill_attention_v2_tiled
#include "tile.cuh"

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
  // Keys of the tile that this thread's query sees; threads without a query only help to copy.
  const auto visible = [&](int start) { return thread < queries ? min(position + 1 - start, kTileRows) : 0; };

  float max = -kInfinity;
  for (int start = 0; start < num_keys; start += kTileRows) {
    __syncthreads();  // the tile before is used up
    load_tile(k_tile, min(num_keys - start, kTileRows),
              [&](int i) { return k_cache + pages.row(start + i); });
    __syncthreads();
    for (int j = 0; j < visible(start); ++j) max = fmaxf(max, scale * dot(q, k_tile + j * kTileStride));
  }

  float sum = 0.0f;
  float weighted[HEAD_DIM] = {};
  for (int start = 0; start < num_keys; start += kTileRows) {
    __syncthreads();
    load_tile(k_tile, min(num_keys - start, kTileRows),
              [&](int i) { return k_cache + pages.row(start + i); });
    load_tile(v_tile, min(num_keys - start, kTileRows),
              [&](int i) { return v_cache + pages.row(start + i); });
    __syncthreads();
    for (int j = 0; j < visible(start); ++j) {
      const float weight = expf(scale * dot(q, k_tile + j * kTileStride) - max);
      sum += weight;
      add_value(weighted, weight, v_tile + j * kTileStride);
    }
  }
  if (thread < queries) write_row(out + ((token + thread) * num_heads + head) * HEAD_DIM, weighted, sum);
}
