// Attention of one new token per sequence over all tokens of that sequence (decode), split over the tokens so
// that a few long sequences fill the whole device. Two kernels: decode_attention makes one partial result a
// split, combine_splits merges them.
//
//   out = sum_j p[j] * v[j],   p = softmax over j < seq_len of  scale * q . k[j]
//
// Shapes (row-major): qkv bf16[S, NH + 2*NKV, D], of which the NH query heads are read; k_cache, v_cache
// bf16[P, NKV, B, D] in pages, this step's token included; block_tables i32[S, M]; seq_lens i32[S];
// partial_out f32[S, NH, C, D]; partial_lse f32[S, NH, C], natural logarithm of a split's sum of
// exponentials; out bf16[S, NH, D]. Query head h reads kv head h / G, with G = GQA_GROUP = NH / NKV. C splits
// of SPLIT_TOKENS tokens; only those that begin before seq_len are written and read.
//
// Who computes what: a block owns one split of one kv head, and all G query heads that share it: each key and
// value leaves device memory once. It takes tiles of 128 tokens through shared memory:
//   scores   thread t has token t: its dot product with each of the G queries;
//   maximum  thread h < G scans the scores of head h. (A tree of shuffles would take no less time: the row is short);
//   softmax  thread t turns its scores into probabilities;
//   P V      thread (slice, piece) has 8 dimensions, and every kSlices-th token, for all G heads.
// The online softmax (see prefill_attention.cu) rescales the output when a tile raises the maximum.
//
// Merging: with w[c] = e^(lse[c]) / sum of e^(lse),  out = sum_c w[c] * partial_out[c].
//
// Grid (C, NKV, S), 128 threads, 2 tiles of 128 * (D + 8) bf16 of dynamic shared memory.
// combine_splits: grid (NH, S), D / 2 threads of two dimensions each, no shared memory.
//
// Bytes: 4 * NKV * D for each token of each sequence, and 8 * NH * D for each split (partial_out, written and
// read). At G <= 8 the arithmetic, 4 * D FLOPs per head and token, hides behind the memory: plain FMAs do, no
// tensor cores.
//
// A split is a fixed number of tokens, not a share of the sequence: a sequence's result does not depend on
// the others in its batch.
//
// Idea: "Flash-Decoding for long-context inference" (Dao, Haziza, Massa, Sizov, 2023).
// Test: python -m pytest tests/device -k "decode_attention or combine_splits".
#include "common.cuh"
#include "paged_kv.cuh"
#include "ptx.cuh"

namespace {

constexpr int kThreads = 128;
constexpr int kTileTokens = kThreads;  // a thread a token
constexpr int kTileSize = kTileTokens * kTileStride;
constexpr int kPieces = HEAD_DIM / 8;        // a row in 16-byte pieces
constexpr int kSlices = kThreads / kPieces;  // each piece has as many threads as there is room for

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

static_assert(SPLIT_TOKENS % kTileTokens == 0, "a split is a whole number of tiles");
static_assert(kSlices * GQA_GROUP * HEAD_DIM * sizeof(float) <= 2 * kTileSize * sizeof(bf16),
              "the slices' sums reuse the tiles' memory");

// What the block's threads share beside the tiles. Scores are in units of log2: scale * log2(e) * q . k.
struct Shared {
  alignas(16) float query[GQA_GROUP][HEAD_DIM];      // times scale * log2(e)
  alignas(16) float scores[GQA_GROUP][kTileTokens];  // then probabilities, relative to `max`
  float max[GQA_GROUP];                              // over the tiles so far
  float rescale[GQA_GROUP];                          // e^(old maximum - new one)
  float slice_sums[kSlices][GQA_GROUP];
};

// A thread's share of the output: 8 dimensions, summed over its tokens.
struct Output {
  float sum[GQA_GROUP];        // of p
  float values[GQA_GROUP][8];  // of p * v
};

__device__ inline void load_query(Shared& shared, const bf16* query, float scale_log2) {
  for (int i = threadIdx.x; i < GQA_GROUP * HEAD_DIM; i += kThreads) {
    shared.query[i / HEAD_DIM][i % HEAD_DIM] = __bfloat162float(query[i]) * scale_log2;
  }
  if (threadIdx.x < GQA_GROUP) shared.max[threadIdx.x] = -kInfinity;
}

// Dot products of one key with every query of the group. The key is read once, 8 dimensions at a time; all
// lanes want the same piece of a query, which shared memory hands to all of them at once.
__device__ inline void score_token(float (&scores)[GQA_GROUP], const Shared& shared, const bf16* key) {
#pragma unroll
  for (int h = 0; h < GQA_GROUP; h++) scores[h] = 0.0f;
#pragma unroll 4
  for (int piece = 0; piece < kPieces; piece++) {
    const Packed<bf16> k = load16(key + piece * 8);
#pragma unroll
    for (int h = 0; h < GQA_GROUP; h++) {
      const Packed<float> low = load16(&shared.query[h][piece * 8]);
      const Packed<float> high = load16(&shared.query[h][piece * 8 + 4]);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        scores[h] = fmaf(low[i], __bfloat162float(k[i]), scores[h]);
        scores[h] = fmaf(high[i], __bfloat162float(k[i + 4]), scores[h]);
      }
    }
  }
}

// Thread h takes the tile's scores of head h into its running maximum. Four maxima at once, to not wait for
// each other.
__device__ inline void raise_maximum(Shared& shared, int h) {
  float tile_max[4] = {-kInfinity, -kInfinity, -kInfinity, -kInfinity};
  for (int token = 0; token < kTileTokens; token += 4) {
    const Packed<float> scores = load16(&shared.scores[h][token]);
#pragma unroll
    for (int i = 0; i < 4; i++) tile_max[i] = fmaxf(tile_max[i], scores[i]);
  }
  const float highest = fmaxf(fmaxf(tile_max[0], tile_max[1]), fmaxf(tile_max[2], tile_max[3]));
  const float new_max = fmaxf(shared.max[h], highest);
  shared.rescale[h] = exp2f(shared.max[h] - new_max);
  shared.max[h] = new_max;
}

// Adds the tokens slice, slice + kSlices, ... of a tile to the thread's output. `values` is column 8 * piece
// of row 0.
__device__ inline void add_values(Output& output, const Shared& shared, const bf16* values, int slice,
                                  int tokens) {
#pragma unroll
  for (int h = 0; h < GQA_GROUP; h++) {
    output.sum[h] *= shared.rescale[h];
    for (int i = 0; i < 8; i++) output.values[h][i] *= shared.rescale[h];
  }
#pragma unroll 4
  for (int token = slice; token < tokens; token += kSlices) {
    const Packed<bf16> v = load16(values + token * kTileStride);
#pragma unroll
    for (int h = 0; h < GQA_GROUP; h++) {
      const float p = shared.scores[h][token];
      output.sum[h] += p;
#pragma unroll
      for (int i = 0; i < 8; i++) output.values[h][i] = fmaf(p, __bfloat162float(v[i]), output.values[h][i]);
    }
  }
}

// The slices' outputs meet in shared memory: slice_values[kSlices][GQA_GROUP][HEAD_DIM] takes the place of
// the tiles.
__device__ inline void share_output(Shared& shared, float* slice_values, const Output& output, int slice,
                                    int piece) {
#pragma unroll
  for (int h = 0; h < GQA_GROUP; h++) {
    float* values = slice_values + (slice * GQA_GROUP + h) * HEAD_DIM + piece * 8;
    store16(values, Packed<float>{output.values[h][0], output.values[h][1], output.values[h][2],
                                  output.values[h][3]});
    store16(values + 4, Packed<float>{output.values[h][4], output.values[h][5], output.values[h][6],
                                      output.values[h][7]});
    if (piece == 0) shared.slice_sums[slice][h] = output.sum[h];
  }
}

// Writes the split's normalised output and its log-sum-exp. `split_row` is the row of head 0 of the group,
// counted in splits.
__device__ inline void write_split(float* partial_out, float* partial_lse, int64_t split_row, int num_splits,
                                   const Shared& shared, const float* slice_values) {
  for (int i = threadIdx.x; i < GQA_GROUP * HEAD_DIM; i += kThreads) {
    const int h = i / HEAD_DIM;
    const int dim = i % HEAD_DIM;
    float value = 0.0f;
    float sum = 0.0f;
    for (int slice = 0; slice < kSlices; slice++) {
      value += slice_values[slice * GQA_GROUP * HEAD_DIM + i];
      sum += shared.slice_sums[slice][h];
    }
    const int64_t row = split_row + static_cast<int64_t>(h) * num_splits;
    partial_out[row * HEAD_DIM + dim] = value / sum;
    if (dim == 0) partial_lse[row] = (shared.max[h] + log2f(sum)) * kLn2;
  }
}

}  // namespace

extern "C" __global__ __launch_bounds__(kThreads) void decode_attention(
    float* __restrict__ partial_out, float* __restrict__ partial_lse, const bf16* __restrict__ qkv,
    const bf16* __restrict__ k_cache, const bf16* __restrict__ v_cache,
    const int32_t* __restrict__ block_tables, const int32_t* __restrict__ seq_lens, float scale,
    int num_heads, int num_kv_heads, int table_width, int num_splits) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int split = blockIdx.x;
  const int kv_head = blockIdx.y;
  const int64_t sequence = blockIdx.z;
  const int split_start = split * SPLIT_TOKENS;
  const int split_end = min(split_start + SPLIT_TOKENS, seq_lens[sequence]);
  if (split_start >= split_end) return;

  extern __shared__ __align__(16) unsigned char smem_raw[];
  bf16* k_tile = reinterpret_cast<bf16*>(smem_raw);
  bf16* v_tile = k_tile + kTileSize;
  __shared__ Shared shared;

  const PagedHead pages = {block_tables + sequence * table_width, kv_head, num_kv_heads};
  const auto load_tile = [&](bf16* tile, const bf16* cache, int start) {
    gather_tile<kTileTokens, kThreads>(tile, cache, pages, start, split_end);
    cp_async_commit();
  };
  load_tile(k_tile, k_cache, split_start);
  load_tile(v_tile, v_cache, split_start);
  const int64_t first_head = sequence * (num_heads + 2 * num_kv_heads) + kv_head * GQA_GROUP;
  load_query(shared, qkv + first_head * HEAD_DIM, scale * kLog2E);

  const int thread = threadIdx.x;
  const int piece = thread % kPieces;
  const int slice = thread / kPieces;  // where D / 8 does not divide 128, the last threads have none
  Output output = {};
  for (int start = split_start; start < split_end; start += kTileTokens) {
    const int tokens = min(kTileTokens, split_end - start);
    const bool more = start + kTileTokens < split_end;

    cp_async_wait<1>();  // all but the latest load, which is V's
    __syncthreads();     // keys have arrived
    float scores[GQA_GROUP];
    score_token(scores, shared, k_tile + thread * kTileStride);
    for (int h = 0; h < GQA_GROUP; h++) shared.scores[h][thread] = thread < tokens ? scores[h] : -kInfinity;
    __syncthreads();  // scores are complete, and the keys used up
    if (more) load_tile(k_tile, k_cache, start + kTileTokens);
    if (thread < GQA_GROUP) raise_maximum(shared, thread);
    __syncthreads();  // the maxima are known
    for (int h = 0; h < GQA_GROUP; h++)
      shared.scores[h][thread] = exp2f(shared.scores[h][thread] - shared.max[h]);
    more ? cp_async_wait<1>() : cp_async_wait<0>();
    __syncthreads();  // probabilities are complete, values have arrived
    if (slice < kSlices) add_values(output, shared, v_tile + piece * 8, slice, tokens);
    __syncthreads();  // values and probabilities are used up
    if (more) load_tile(v_tile, v_cache, start + kTileTokens);
  }

  float* slice_values = reinterpret_cast<float*>(smem_raw);
  if (slice < kSlices) share_output(shared, slice_values, output, slice, piece);
  __syncthreads();
  const int64_t split_row = (sequence * num_heads + kv_head * GQA_GROUP) * num_splits + split;
  write_split(partial_out, partial_lse, split_row, num_splits, shared, slice_values);
}

extern "C" __global__ __launch_bounds__(HEAD_DIM / 2) void combine_splits(
    bf16* __restrict__ out, const float* __restrict__ partial_out, const float* __restrict__ partial_lse,
    const int32_t* __restrict__ seq_lens, int num_heads, int num_splits) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int64_t row = static_cast<int64_t>(blockIdx.y) * num_heads + blockIdx.x;
  const int live = ceil_div(seq_lens[blockIdx.y], SPLIT_TOKENS);
  const int dim = threadIdx.x * 2;
  const float* lse = partial_lse + row * num_splits;
  const float* values = partial_out + row * num_splits * HEAD_DIM + dim;

  float max = -kInfinity;
  for (int c = 0; c < live; c++) max = fmaxf(max, lse[c]);
  float total = 0.0f;
  float2 sum = {0.0f, 0.0f};
#pragma unroll 4
  for (int c = 0; c < live; c++) {
    const float weight = exp2f((lse[c] - max) * kLog2E);
    const float2 value = *reinterpret_cast<const float2*>(values + static_cast<int64_t>(c) * HEAD_DIM);
    total += weight;
    sum.x = fmaf(weight, value.x, sum.x);
    sum.y = fmaf(weight, value.y, sum.y);
  }
  const float inverse = live > 0 ? 1.0f / total : 0.0f;
  const __nv_bfloat162 rounded = __floats2bfloat162_rn(sum.x * inverse, sum.y * inverse);
  *reinterpret_cast<__nv_bfloat162*>(out + row * HEAD_DIM + dim) = rounded;
}
