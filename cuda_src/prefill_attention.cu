// Prefill attention: every new token over all tokens of its sequence up to its own position (a prompt, or a
//                    chunk of one).
//
// Formula:   s[i][j] = scale * q[i] . k[j] for j <= position(i);  out[i] = sum_j exp(s[i][j] - lse[i]) * v[j]
//            with lse[i] = log(sum_j exp(s[i][j])) and scale > 0
// Pointers:  out           bf16 [T, NH, D]           written
//            qkv           bf16 [T, NH + 2*NKV, D]   the first NH heads are read
//            k_cache       bf16 [P, NKV, B, D]       pages; this step's tokens are among them
//            v_cache       bf16 [P, NKV, B, D]
//            block_tables  i32  [S, M]               pages of each sequence, in order
//            seq_lens      i32  [S]                  tokens of each sequence in the cache
//            query_starts  i32  [S + 1]              first row of each sequence, and T
//            Query i of a sequence has position seq_len - query_len + i; head h reads kv head h / (NH / NKV).
//            A query of an empty sequence (seq_len 0: what a batch is padded with) gives zeros.
// Threads:   a block owns 64 queries of one head of one sequence, each of its 4 warps 16 of them, and walks
//            the keys in tiles of KEY_TILE. Both products run on tensor cores. What a warp knows of its
//            queries stays in registers: the queries, the output, and the maximum and the sum of the *online
//            softmax*, which needs one pass over the keys only:
//              m' = max(m, max_j s[j]);   l' = l * exp(m - m') + sum_j exp(s[j] - m');
//              o' = o * exp(m - m') + sum_j exp(s[j] - m') * v[j];   out = o / l after the last tile
//            The weights exp(s[j] - m') stay there too: the first mma leaves them spread over the lanes just
//            as the second wants its left operand. Exponentials are to base 2, which is what the hardware
//            has; log2(e) is part of the scale. Dynamic shared memory: 4 tiles of KEY_TILE * (D + 8) bf16,
//            keys and values in use and under way.
// Bytes:     2*D*(2*T*NH + 2*L*NKV), with L tokens in all sequences, if the L2 cache catches what the blocks
//            of a sequence read again. 4*D FLOPs for each head, query and visible key: they decide from some
//            hundred tokens on.
// Source:    Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning", 2023,
//            arXiv:2307.08691; Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018,
//            arXiv:1805.02867. Step by step: lab/attention/.
// Test:      python -m pytest tests/device -k prefill_attention
//            python -m tools.microtest prefill_attention
#include "common.cuh"
#include "paged_kv.cuh"
#include "ptx.cuh"
#include "reduce.cuh"

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpSize;
constexpr int kWarpQueries = 16;  // the rows of one mma
constexpr int kQueryTile = kWarps * kWarpQueries;
constexpr int kKeyTile = KEY_TILE;
constexpr int kTileSize = kKeyTile * kTileStride;

constexpr int kDimSteps = HEAD_DIM / 16;  // an mma sums over 16 ...
constexpr int kKeySteps = kKeyTile / 16;
constexpr int kDimGroups = HEAD_DIM / 8;  // ... and makes 8 columns
constexpr int kKeyGroups = kKeyTile / 8;

constexpr float kLog2E = 1.4426950408889634f;

// The queries of a warp and what it knows of their softmax so far. In mma's layout a lane holds two rows of
// the 16, lane / 4 and lane / 4 + 8: `[2]` below is over those, and out[g][2 * r], out[g][2 * r + 1] are two
// columns of row r.
struct QueryRows {
  uint32_t query[kDimSteps][4];  // left operands of the first product
  float out[kDimGroups][4];      // sum of weight * value, relative to `max`
  float max[2];                  // of scale * log2(e) * q . k
  float sum[2];                  // of the weights, over the columns that this lane holds
};

__device__ inline uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

// Reads up to 16 rows of queries straight into mma's left-operand layout; rows from `num_rows` on become
// zeros.
__device__ inline void load_queries(QueryRows& rows, const bf16* first, int64_t stride, int num_rows) {
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int step = 0; step < kDimSteps; step++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = lane / 4 + i % 2 * 8;
      const int column = step * 16 + i / 2 * 8 + lane % 4 * 2;
      const bf16* pair = first + row * stride + column;
      rows.query[step][i] = row < num_rows ? *reinterpret_cast<const uint32_t*>(pair) : 0;
    }
  }
}

__device__ inline void start_softmax(QueryRows& rows) {
  for (int r = 0; r < 2; r++) {
    rows.max[r] = -kInfinity;
    rows.sum[r] = 0.0f;
  }
#pragma unroll
  for (int group = 0; group < kDimGroups; group++) {
    for (int i = 0; i < 4; i++) rows.out[group][i] = 0.0f;
  }
}

// scores[16 queries][KEY_TILE keys] = Q K^T. K lies in shared memory as rows of keys, which is the transpose
// of what mma calls B: plain ldmatrix gives the right fragments. One x4 load fetches 16 keys by 16 columns:
// matrices 0 and 1 are the halves of the dimensions for keys 0..7, matrices 2 and 3 for keys 8..15.
__device__ inline void multiply_keys(float (&scores)[kKeyGroups][4], const QueryRows& rows,
                                     const bf16* k_tile) {
  const int lane = threadIdx.x % kWarpSize;
  const bf16* lane_row = k_tile + (lane / 16 * 8 + lane % 8) * kTileStride + lane / 8 % 2 * 8;
#pragma unroll
  for (int keys = 0; keys < kKeySteps; keys++) {
    float (&left)[4] = scores[2 * keys];
    float (&right)[4] = scores[2 * keys + 1];
    for (int i = 0; i < 4; i++) left[i] = right[i] = 0.0f;
#pragma unroll
    for (int step = 0; step < kDimSteps; step++) {
      uint32_t k[4];
      ldmatrix_x4(k, lane_row + keys * 16 * kTileStride + step * 16);
      mma_m16n8k16_bf16(left, rows.query[step], {k[0], k[1]}, left);
      mma_m16n8k16_bf16(right, rows.query[step], {k[2], k[3]}, right);
    }
  }
}

// A query sees no key behind itself. `position` is that of the warp's first query, relative to the tile's
// first key.
__device__ inline void mask_future(float (&scores)[kKeyGroups][4], int position) {
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int group = 0; group < kKeyGroups; group++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int key = group * 8 + lane % 4 * 2 + i % 2;
      const int query = position + lane / 4 + i / 2 * 8;
      if (key > query) scores[group][i] = -kInfinity;
    }
  }
}

// Scores become weights relative to the new maximum; what was summed under the old one is scaled down.
// The first tile holds key 0, which every query sees: from there on `max` is finite, and a tile that a query
// sees nothing of changes nothing. The four lanes of a row agree on the maximum; their sums meet only at the
// end.
__device__ inline void online_softmax(float (&scores)[kKeyGroups][4], QueryRows& rows, float scale_log2) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float tile_max = -kInfinity;
#pragma unroll
    for (int group = 0; group < kKeyGroups; group++) {
      tile_max = fmaxf(tile_max, fmaxf(scores[group][2 * r], scores[group][2 * r + 1]));
    }
    const float new_max = fmaxf(rows.max[r], warp_reduce(tile_max, 4, Max()) * scale_log2);
    const float rescale = exp2f(rows.max[r] - new_max);
    rows.max[r] = new_max;
    rows.sum[r] *= rescale;
#pragma unroll
    for (int group = 0; group < kKeyGroups; group++) {
      for (int i = 2 * r; i < 2 * r + 2; i++) {
        scores[group][i] = exp2f(fmaf(scores[group][i], scale_log2, -new_max));
        rows.sum[r] += scores[group][i];
      }
    }
#pragma unroll
    for (int group = 0; group < kDimGroups; group++) {
      for (int i = 2 * r; i < 2 * r + 2; i++) rows.out[group][i] *= rescale;
    }
  }
}

// out += W V. The lane's weights of 16 keys, rounded to bf16, are its left operand as they are. V lies
// as rows of keys too, but here the sum runs over keys: ldmatrix transposes. Matrices 0 and 1 are the halves
// of 16 keys for dimensions 0..7, matrices 2 and 3 for dimensions 8..15.
__device__ inline void multiply_values(QueryRows& rows, const float (&weights)[kKeyGroups][4],
                                       const bf16* v_tile) {
  const int lane = threadIdx.x % kWarpSize;
  const bf16* lane_row = v_tile + (lane / 8 % 2 * 8 + lane % 8) * kTileStride + lane / 16 * 8;
#pragma unroll
  for (int keys = 0; keys < kKeySteps; keys++) {
    const float (&left)[4] = weights[2 * keys];
    const float (&right)[4] = weights[2 * keys + 1];
    const uint32_t p[4] = {pack_bf16(left[0], left[1]), pack_bf16(left[2], left[3]),
                           pack_bf16(right[0], right[1]), pack_bf16(right[2], right[3])};
#pragma unroll
    for (int step = 0; step < kDimSteps; step++) {
      uint32_t v[4];
      ldmatrix_x4_trans(v, lane_row + keys * 16 * kTileStride + step * 16);
      mma_m16n8k16_bf16(rows.out[2 * step], p, {v[0], v[1]}, rows.out[2 * step]);
      mma_m16n8k16_bf16(rows.out[2 * step + 1], p, {v[2], v[3]}, rows.out[2 * step + 1]);
    }
  }
}

// Divides by the sums and writes the first `num_rows` rows.
__device__ inline void write_output(bf16* first, int64_t stride, int num_rows, const QueryRows& rows) {
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float sum = warp_reduce(rows.sum[r], 4, Sum());
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
    const int row = lane / 4 + r * 8;
    if (row >= num_rows) continue;
#pragma unroll
    for (int group = 0; group < kDimGroups; group++) {
      bf16* pair = first + row * stride + group * 8 + lane % 4 * 2;
      *reinterpret_cast<uint32_t*>(pair) =
          pack_bf16(rows.out[group][2 * r] * inverse, rows.out[group][2 * r + 1] * inverse);
    }
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, 2)
    prefill_attention(bf16* __restrict__ out, const bf16* __restrict__ qkv, const bf16* __restrict__ k_cache,
                      const bf16* __restrict__ v_cache, const int32_t* __restrict__ block_tables,
                      const int32_t* __restrict__ seq_lens, const int32_t* __restrict__ query_starts,
                      float scale, int num_heads, int num_kv_heads, int table_width) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int head = blockIdx.x;
  const int sequence = blockIdx.y;
  const int query_start = query_starts[sequence];
  const int query_len = query_starts[sequence + 1] - query_start;
  // Blocks start in the order of their number, x fastest. The tile is z and counted from the end: all heads' and
  // sequences' last tiles, which see the most keys, go first, and what runs when multiprocessors run dry is short.
  const int tile_start = (ceil_div(query_len, kQueryTile) - 1 - static_cast<int>(blockIdx.z)) * kQueryTile;
  if (tile_start < 0) return;

  const int context = seq_lens[sequence] - query_len;  // tokens of earlier steps
  const int num_keys = context + min(tile_start + kQueryTile, query_len);
  const PagedHead pages = {block_tables + static_cast<int64_t>(sequence) * table_width,
                           head / (num_heads / num_kv_heads), num_kv_heads};

  const int warp_start = tile_start + static_cast<int>(threadIdx.x) / kWarpSize * kWarpQueries;
  const int warp_queries = min(max(query_len - warp_start, 0), kWarpQueries);
  const int warp_position = context + warp_start;
  const int64_t query_stride = static_cast<int64_t>(num_heads + 2 * num_kv_heads) * HEAD_DIM;
  const int64_t first_row = query_start + warp_start;
  QueryRows rows;
  load_queries(rows, qkv + first_row * query_stride + head * HEAD_DIM, query_stride, warp_queries);
  start_softmax(rows);

  extern __shared__ __align__(16) unsigned char smem_raw[];
  bf16* tiles = reinterpret_cast<bf16*>(smem_raw);  // [2 stages][K, V][kKeyTile][kTileStride]
  const auto load_stage = [&](int key_start) {
    bf16* stage = tiles + key_start / kKeyTile % 2 * 2 * kTileSize;
    gather_tile<kKeyTile, kThreads, PastEnd::kZero>(stage, k_cache, pages, key_start, num_keys);
    gather_tile<kKeyTile, kThreads, PastEnd::kZero>(stage + kTileSize, v_cache, pages, key_start, num_keys);
    cp_async_commit();
  };

  if (num_keys > 0) load_stage(0);
  for (int key_start = 0; key_start < num_keys; key_start += kKeyTile) {
    cp_async_wait<0>();
    __syncthreads();  // this stage has arrived, and all warps are done with the other: refill that one
    if (key_start + kKeyTile < num_keys) load_stage(key_start + kKeyTile);

    const bool sees_none = warp_queries == 0 || key_start >= warp_position + warp_queries;
    if (sees_none) continue;
    const bf16* k_tile = tiles + key_start / kKeyTile % 2 * 2 * kTileSize;
    float scores[kKeyGroups][4];
    multiply_keys(scores, rows, k_tile);
    if (key_start + kKeyTile - 1 > warp_position) mask_future(scores, warp_position - key_start);
    online_softmax(scores, rows, scale * kLog2E);
    multiply_values(rows, scores, k_tile + kTileSize);
  }
  if (warp_queries > 0) {
    const int64_t out_stride = static_cast<int64_t>(num_heads) * HEAD_DIM;
    write_output(out + first_row * out_stride + head * HEAD_DIM, out_stride, warp_queries, rows);
  }
}
