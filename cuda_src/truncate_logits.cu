// Truncates each sequence's distribution before a token is drawn: top-k, top-p (nucleus) and min-p, in place.
//
// Formula:   x = logits[s] / temperature[s]; a token is kept if its logit is at least a threshold, the largest of
//              min-p: max(x) + ln(min_p[s]), so that p >= min_p * max(p)
//              top-k: the top_k[s]-th largest logit
//              top-p: the largest threshold at which the kept tokens have top_p[s] of the mass of those that
//                     min-p and top-k leave
//            all others become -infinity. Tokens equal to the threshold are all kept. min_p 0, top_k 0 and top_p
//            1 switch a part off. A row with temperature 0 is greedy and stays as it is. NaN is dropped.
// Pointers:  logits       f32 [S, V]   read and written; rows are contiguous, V any length
//            temperature  f32 [S]      top_k i32 [S]      top_p f32 [S]      min_p f32 [S]
// Threads:   block s owns row s.
// Idea:      no sort. A float's bits can be read as an integer of the same order, and the integer's digits
//            found from the top down, 11 bits at a time (radix select): a histogram of the digit over the keys
//            that agree so far, then the highest bin above which there is not enough yet. For top-k a bin
//            counts tokens, for top-p it adds up their mass. Three passes each over a row, which lies in L2.
//            Mass is summed in integers of 2^-40: any order of the additions gives the same bits. A bin has three
//            limbs of 14 bits, each summed in a word of 32: shared memory adds these by itself, but 64 bits only by
//            a loop of compare-and-swap, in which the many threads that meet in a few bins would wait for each other.
// Bytes:     reads 4*S*V + 16*S, writes 4*S*V.
// Source:    top-k: Fan et al. 2018, arXiv:1805.04833; top-p: Holtzman et al. 2019, arXiv:1904.09751; min-p:
//            Nguyen et al. 2024, arXiv:2407.01082; radix select: Alabi et al. 2012.
// Test:      python -m pytest tests/device -k truncate_logits
//            python -m tools.microtest truncate_logits
#include "common.cuh"
#include "ptx.cuh"
#include "reduce.cuh"

constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr int kBinsPerThread = kBins / BLOCK_THREADS;
static_assert(kBins % BLOCK_THREADS == 0, "every thread owns as many bins");

constexpr int kLimbs = 3;
constexpr int kLimbBits = 14;  // so that 2^18 tokens, more than any vocabulary has, do not overflow a word

// What a row is searched with: the histogram, and what its owner found, for all threads to read.
struct Search {
  uint32_t histogram[kLimbs][kBins];
  uint64_t warp_totals[kMaxWarps];
  uint64_t above;  // weight in the bins above the one that was found
  int bin;
};

__device__ inline void add_weight(Search& search, int bin, uint64_t weight) {
#pragma unroll
  for (int limb = 0; limb < kLimbs; ++limb) {
    const uint32_t part = static_cast<uint32_t>(weight >> (limb * kLimbBits)) & ((1u << kLimbBits) - 1);
    if (part > 0) atomicAdd(&search.histogram[limb][bin], part);  // most tokens have little mass: one limb
  }
}

__device__ inline uint64_t weight_of(const Search& search, int bin) {
  uint64_t weight = 0;
  for (int limb = kLimbs - 1; limb >= 0; --limb) weight = (weight << kLimbBits) + search.histogram[limb][bin];
  return weight;
}

// The bits of a float as an integer of the same order. Below every number: NaN, and -infinity, a masked token.
__device__ inline uint32_t order_key(float value) {
  if (!(value > -kInfinity)) return 0;
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 becomes +0
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

struct CountTokens {
  __device__ uint64_t operator()(float) const { return 1; }
};

struct AddMass {
  float max_logit;
  float inverse_temperature;

  // The largest is 1 by definition: infinity - infinity would be NaN.
  __device__ uint64_t operator()(float logit) const {
    if (logit == max_logit) return uint64_t{1} << 40;
    return static_cast<uint64_t>(expf((logit - max_logit) * inverse_temperature) * 0x1p40f);
  }
};

// For each thread the sum of `value` over the threads before it; the sum over all of them in `total`.
__device__ inline uint64_t exclusive_scan(uint64_t value, uint64_t* warp_totals, uint64_t* total) {
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  uint64_t sum = value;
  for (int step = 1; step < kWarpSize; step *= 2) {
    const uint64_t below = __shfl_up_sync(kFullWarp, sum, step);
    if (lane >= step) sum += below;
  }
  if (lane == kWarpSize - 1) warp_totals[warp] = sum;
  __syncthreads();
  uint64_t before = sum - value;
  *total = 0;
  for (int w = 0; w < BLOCK_THREADS / kWarpSize; ++w) {
    if (w < warp) before += warp_totals[w];
    *total += warp_totals[w];
  }
  return before;
}

// Adds the weight of every token whose key lies at or above `floor` and agrees with `prefix` above the digit.
template <typename Weight>
__device__ inline void fill_histogram(Search& search, const float* row, int vocab, uint32_t floor,
                                      uint32_t prefix, int shift, int bits, Weight weight) {
  for (int i = threadIdx.x; i < kLimbs * kBins; i += BLOCK_THREADS) (&search.histogram[0][0])[i] = 0;
  __syncthreads();
  const uint64_t high = static_cast<uint64_t>(prefix) >> (shift + bits);
  for (int v = threadIdx.x; v < vocab; v += BLOCK_THREADS) {
    const uint32_t key = order_key(row[v]);
    if (key >= floor && static_cast<uint64_t>(key) >> (shift + bits) == high) {
      add_weight(search, key >> shift & ((1u << bits) - 1), weight(row[v]));
    }
  }
  __syncthreads();
}

// Finds the highest bin at which the weight from the top, `above` included, reaches `target`. A target of 0
// stands for `fraction` of all the weight. Returns the target, or 0 if there is less weight than that.
__device__ inline uint64_t find_bin(Search& search, uint64_t above, uint64_t target, float fraction) {
  const int first = kBins - 1 - kBinsPerThread * static_cast<int>(threadIdx.x);  // thread 0 has the top bins
  uint64_t own = 0;
  for (int i = 0; i < kBinsPerThread; ++i) own += weight_of(search, first - i);
  uint64_t total;
  uint64_t reached = above + exclusive_scan(own, search.warp_totals, &total);
  if (target == 0)
    target = max(static_cast<uint64_t>(1), static_cast<uint64_t>(fraction * static_cast<float>(total)));
  if (target > above + total) return 0;
  for (int i = 0; i < kBinsPerThread; ++i) {
    const uint64_t with_bin = reached + weight_of(search, first - i);
    if (reached < target && with_bin >= target) {
      search.bin = first - i;
      search.above = reached;
    }
    reached = with_bin;
  }
  __syncthreads();
  return target;
}

// The largest key t >= floor at which the tokens with keys >= t weigh `target` (0: `fraction` of those with
// keys >= floor); `floor` itself if all of them weigh less.
template <typename Weight>
__device__ inline uint32_t select_key(Search& search, const float* row, int vocab, uint32_t floor,
                                      uint64_t target, float fraction, Weight weight) {
  uint32_t prefix = 0;
  uint64_t above = 0;
  for (int top = 32; top > 0;) {
    const int bits = min(kDigitBits, top);
    const int shift = top - bits;
    fill_histogram(search, row, vocab, floor, prefix, shift, bits, weight);
    target = find_bin(search, above, target, fraction);
    if (target == 0) return floor;
    prefix |= static_cast<uint32_t>(search.bin) << shift;
    above = search.above;
    top = shift;
  }
  return prefix;
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, 1)
    truncate_logits(float* __restrict__ logits, const float* __restrict__ temperature,
                    const int* __restrict__ top_k, const float* __restrict__ top_p,
                    const float* __restrict__ min_p, int vocab) {
  grid_dependency_launch();
  grid_dependency_wait();
  __shared__ Search search;
  __shared__ float scratch[kMaxWarps];
  const int64_t sequence = blockIdx.x;
  const int k = top_k[sequence];
  const float p = top_p[sequence];
  const float least = min_p[sequence];
  const float heat = temperature[sequence];
  if (heat == 0.0f || (k == 0 && p == 1.0f && least == 0.0f)) return;

  float* row = logits + sequence * vocab;
  float best = -kInfinity;
  for (int v = threadIdx.x; v < vocab; v += BLOCK_THREADS) best = fmaxf(best, row[v]);
  best = block_max(best, scratch);

  uint32_t floor = 1;  // every number above -infinity
  if (least > 0.0f) floor = max(floor, order_key(fmaf(logf(least), heat, best)));
  if (k > 0) floor = select_key(search, row, vocab, floor, k, 0.0f, CountTokens());
  if (p < 1.0f) floor = select_key(search, row, vocab, floor, 0, p, AddMass{best, 1.0f / heat});
  for (int v = threadIdx.x; v < vocab; v += BLOCK_THREADS) {
    if (order_key(row[v]) < floor) row[v] = -kInfinity;
  }
}
