// Decode attention: one new query a sequence over all its tokens, split over the tokens so that a few long
//                   sequences fill the device too. decode_attention makes one partial result a split,
//                   combine_splits merges them.
//
// Formula:   s[j] = scale * q . k[j] for the tokens j of a split;  partial_lse = log(sum_j exp(s[j]));
//            partial_out = sum_j exp(s[j] - partial_lse) * v[j];
//            out = sum_c exp(partial_lse[c]) * partial_out[c] / sum_c exp(partial_lse[c]) over the splits c
// Pointers:  out           bf16 [S, NH, D]           written by combine_splits; zeros for an empty sequence
//            partial_out   f32  [S, NH, C, D]        written where the split begins before seq_len
//            partial_lse   f32  [S, NH, C]           likewise
//            qkv           bf16 [S, NH + 2*NKV, D]   the first NH heads are read
//            k_cache       bf16 [P, NKV, B, D]       pages; this step's token is among them
//            v_cache       bf16 [P, NKV, B, D]
//            block_tables  i32  [S, M]               pages of each sequence, in order
//            seq_lens      i32  [S]                  tokens of each sequence in the cache
//            C splits of SPLIT_TOKENS tokens. Head h reads kv head h / G, with G = GQA_GROUP = NH / NKV.
// Threads:   block (split, kv head, sequence) owns one split for all G query heads that share the kv head:
//            each key and value leaves device memory once, into shared memory. For each tile of TILE_TOKENS
//              scores   thread t multiplies key t by each of the G queries;
//              maximum  thread h < G scans the scores of head h: no slower than a tree, the row is short;
//              weights  thread t turns its scores into weights exp(s - m);
//              sums     thread (slice, piece) has 8 dimensions of every kSlices-th token, for all G heads.
//            The maximum and the sums are those of online softmax, see prefill_attention.cu. Dynamic shared
//            memory: two tiles of TILE_TOKENS * (D + 8) bf16, one of keys, one of values. The next keys are
//            on their way from the moment the scores are made, the next values from the moment the sums are.
//            combine_splits: block (head, sequence), D/2 threads with two dimensions each.
// Bytes:     reads 4*NKV*D for each token of each sequence; writes, then reads, 4*NH*(D + 1) for each split.
//            At G <= 8 plain FMAs keep up with the memory (4*D FLOPs for each head and token): no tensor
//            cores.
// Source:    Dao, Haziza, Massa and Sizov, "Flash-Decoding for long-context inference", 2023. Here a split is
//            a fixed number of tokens and not a share of the sequence, so that a sequence's result does not
//            depend on what else is in the batch.
// Test:      python -m pytest tests/device -k "decode_attention or combine_splits"
//            python -m tools.microtest decode_attention
//            python -m tools.microtest combine_splits
#include "common.cuh"
#include "paged_kv.cuh"
#include "ptx.cuh"

constexpr int kTileTokens = TILE_TOKENS;
constexpr int kThreads = kTileTokens;  // a thread a token
constexpr int kTileSize = kTileTokens * kTileStride;
constexpr int kPieces = HEAD_DIM / 8;        // 16-byte pieces of a row
constexpr int kSlices = kThreads / kPieces;  // threads that share a piece; each has its own tokens

// Blocks that a multiprocessor should hold at once, which decides how many registers a thread may have: the
// more blocks, the more bytes are on their way. Larger groups need the registers for their sums.
constexpr int kResidentBlocks = GQA_GROUP <= 4 ? 5 : 2;

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

static_assert(SPLIT_TOKENS % kTileTokens == 0, "a split is a whole number of tiles");
static_assert(kSlices * GQA_GROUP * HEAD_DIM * sizeof(float) <= 2 * kTileSize * sizeof(bf16),
              "in the end the slices' sums take the place of the tiles");

// What the threads of a block share beside the tiles. Scores are in units of log2: scale * log2(e) * q . k.
struct Shared {
  alignas(16) float query[GQA_GROUP][HEAD_DIM];  // times scale * log2(e)
  alignas(16) float scores[GQA_GROUP][kTileTokens];
  float weights[GQA_GROUP][kTileTokens];  // 2^(score - max)
  float max[GQA_GROUP];                   // over the tiles so far
  float rescale[GQA_GROUP];               // 2^(old maximum - new one)
  float slice_sums[kSlices][GQA_GROUP];
};

// A thread's share of the output: 8 dimensions, summed over its tokens.
struct Output {
  float weights[GQA_GROUP];    // sum of weight
  float values[GQA_GROUP][8];  // sum of weight * value
};

__device__ inline void load_query(Shared& shared, const bf16* query, float scale_log2) {
  for (int i = threadIdx.x; i < GQA_GROUP * HEAD_DIM; i += kThreads) {
    shared.query[i / HEAD_DIM][i % HEAD_DIM] = __bfloat162float(query[i]) * scale_log2;
  }
  if (threadIdx.x < GQA_GROUP) shared.max[threadIdx.x] = -kInfinity;
}

// Dot products of one key with every query of the group. All lanes want the same piece of a query: shared
// memory hands it to all of them at once. Four sums a head, which need not wait for each other, keep the
// thread busy enough; unrolling would cost registers.
__device__ inline void score_key(float (&scores)[GQA_GROUP], const Shared& shared, const bf16* key) {
  float sums[GQA_GROUP][4] = {};
#pragma unroll 1
  for (int piece = 0; piece < kPieces; piece++) {
    const Packed<bf16> k = load16(key + piece * 8);
#pragma unroll
    for (int h = 0; h < GQA_GROUP; h++) {
      const Packed<float> low = load16(&shared.query[h][piece * 8]);
      const Packed<float> high = load16(&shared.query[h][piece * 8 + 4]);
#pragma unroll
      for (int i = 0; i < 4; i++) sums[h][i] = fmaf(low[i], __bfloat162float(k[i]), sums[h][i]);
#pragma unroll
      for (int i = 0; i < 4; i++) sums[h][i] = fmaf(high[i], __bfloat162float(k[i + 4]), sums[h][i]);
    }
  }
#pragma unroll
  for (int h = 0; h < GQA_GROUP; h++) scores[h] = (sums[h][0] + sums[h][1]) + (sums[h][2] + sums[h][3]);
}

// Takes the tile's scores of head h into its running maximum.
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
    output.weights[h] *= shared.rescale[h];
    for (int i = 0; i < 8; i++) output.values[h][i] *= shared.rescale[h];
  }
#pragma unroll 2
  for (int token = slice; token < tokens; token += kSlices) {
    const Packed<bf16> v = load16(values + token * kTileStride);
#pragma unroll
    for (int h = 0; h < GQA_GROUP; h++) {
      const float weight = shared.weights[h][token];
      output.weights[h] += weight;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        output.values[h][i] = fmaf(weight, __bfloat162float(v[i]), output.values[h][i]);
      }
    }
  }
}

// The slices' outputs meet in shared memory, as slice_values[kSlices][GQA_GROUP][HEAD_DIM].
__device__ inline void share_output(Shared& shared, float* slice_values, const Output& output, int slice,
                                    int piece) {
#pragma unroll
  for (int h = 0; h < GQA_GROUP; h++) {
    float* values = slice_values + (slice * GQA_GROUP + h) * HEAD_DIM + piece * 8;
    for (int i = 0; i < 8; i++) values[i] = output.values[h][i];
    if (piece == 0) shared.slice_sums[slice][h] = output.weights[h];
  }
}

// Writes the split's normalised output and its log-sum-exp. `first_row`: the row of the group's head 0,
// counted in splits.
__device__ inline void write_split(float* partial_out, float* partial_lse, int64_t first_row, int num_splits,
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
    const int64_t row = first_row + static_cast<int64_t>(h) * num_splits;
    partial_out[row * HEAD_DIM + dim] = value / sum;
    if (dim == 0) partial_lse[row] = (shared.max[h] + log2f(sum)) * kLn2;
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, kResidentBlocks)
    decode_attention(float* __restrict__ partial_out, float* __restrict__ partial_lse,
                     const bf16* __restrict__ qkv, const bf16* __restrict__ k_cache,
                     const bf16* __restrict__ v_cache, const int32_t* __restrict__ block_tables,
                     const int32_t* __restrict__ seq_lens, float scale, int num_heads, int num_kv_heads,
                     int table_width, int num_splits) {
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
    gather_tile<kTileTokens, kThreads, PastEnd::kLeave>(tile, cache, pages, start, split_end);
    cp_async_commit();
  };
  load_tile(k_tile, k_cache, split_start);
  load_tile(v_tile, v_cache, split_start);
  const int64_t first_head = sequence * (num_heads + 2 * num_kv_heads) + kv_head * GQA_GROUP;
  load_query(shared, qkv + first_head * HEAD_DIM, scale * kLog2E);

  const int thread = threadIdx.x;
  const int piece = thread % kPieces;
  const int slice = thread / kPieces;
  const bool sums = slice < kSlices;  // where D/8 does not divide the threads, the last have no slice
  Output output = {};
  for (int start = split_start; start < split_end; start += kTileTokens) {
    const int tokens = min(kTileTokens, split_end - start);
    const int next = start + kTileTokens;

    cp_async_wait<1>();  // all copies but the latest, which is that of the values
    __syncthreads();     // the keys have arrived
    float scores[GQA_GROUP];
    if (thread < tokens) score_key(scores, shared, k_tile + thread * kTileStride);
    for (int h = 0; h < GQA_GROUP; h++) shared.scores[h][thread] = thread < tokens ? scores[h] : -kInfinity;
    __syncthreads();  // the scores are complete, the keys used up
    if (next < split_end) load_tile(k_tile, k_cache, next);
    if (thread < GQA_GROUP) raise_maximum(shared, thread);
    __syncthreads();
    for (int h = 0; h < GQA_GROUP; h++) {
      shared.weights[h][thread] = exp2f(shared.scores[h][thread] - shared.max[h]);
    }
    next < split_end ? cp_async_wait<1>() : cp_async_wait<0>();
    __syncthreads();  // the weights are complete, the values have arrived
    if (sums) add_values(output, shared, v_tile + piece * 8, slice, tokens);
    __syncthreads();  // the values are used up
    if (next < split_end) load_tile(v_tile, v_cache, next);
  }

  float* slice_values = reinterpret_cast<float*>(smem_raw);
  if (sums) share_output(shared, slice_values, output, slice, piece);
  __syncthreads();
  const int64_t first_row = (sequence * num_heads + kv_head * GQA_GROUP) * num_splits + split;
  write_split(partial_out, partial_lse, first_row, num_splits, shared, slice_values);
}

// How many splits a thread reads at once: what it waits for is the way to memory, not the arithmetic.
constexpr int kSplitsInFlight = 8;

extern "C" __global__ void __launch_bounds__(HEAD_DIM / 2)
    combine_splits(bf16* __restrict__ out, const float* __restrict__ partial_out,
                   const float* __restrict__ partial_lse, const int32_t* __restrict__ seq_lens, int num_heads,
                   int num_splits) {
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
  for (int first = 0; first < live; first += kSplitsInFlight) {
    float exponent[kSplitsInFlight];
    float2 value[kSplitsInFlight];
#pragma unroll
    for (int i = 0; i < kSplitsInFlight; i++) {  // past the last split: the last one again, with no weight
      const int64_t c = min(first + i, live - 1);
      exponent[i] = (lse[c] - max) * kLog2E;
      value[i] = *reinterpret_cast<const float2*>(values + c * HEAD_DIM);
    }
#pragma unroll
    for (int i = 0; i < kSplitsInFlight; i++) {
      const float weight = first + i < live ? exp2f(exponent[i]) : 0.0f;
      total += weight;
      sum.x = fmaf(weight, value[i].x, sum.x);
      sum.y = fmaf(weight, value[i].y, sum.y);
    }
  }
  const float inverse = live > 0 ? 1.0f / total : 0.0f;
  const __nv_bfloat162 rounded = __floats2bfloat162_rn(sum.x * inverse, sum.y * inverse);
  *reinterpret_cast<__nv_bfloat162*>(out + row * HEAD_DIM + dim) = rounded;
}
