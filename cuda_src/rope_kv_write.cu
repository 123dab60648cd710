// RoPE + KV write: rotates queries in place, and writes rotated keys and plain values into the paged cache.
//
// Formula:   with c = cos_sin[p][i], s = cos_sin[p][D/2 + i], p = positions[t], for 0 <= i < D/2:
//              y[i] = x[i]*c - x[i + D/2]*s;  y[i + D/2] = x[i + D/2]*c + x[i]*s
// Pointers:  qkv           bf16 [T, NH + 2*NKV, D]   each token's q, k, v heads; q is rotated in place,
//                                                    k and v are left as they are
//            k_cache       bf16 [P, NKV, B, D]       written at page slot / B, row slot % B
//            v_cache       bf16 [P, NKV, B, D]       likewise
//            positions     i32  [T]                  row of cos_sin, 0 .. R-1 (not checked here)
//            slot_mapping  i32  [T]                  page * B + offset; -1 writes nothing to the cache
//            cos_sin       f32  [R, D]               D/2 cosines, then D/2 sines
//            D = HEAD_DIM (a multiple of 16), B = PAGE_SIZE. Half-split pairing (i, i + D/2), as Hugging Face
//            stores Llama's weights; the paper pairs (2i, 2i+1): the same but for the order of the weights'
//            rows.
// Threads:   block t owns token t. A work item is 8 pairs of one head: two 16-byte loads and stores.
// Bytes:     reads 2*T*(NH + 2*NKV)*D + 4*T*D + 8*T, writes as many bytes of qkv as it reads.
// Source:    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
//            arXiv:2104.09864; pages: Kwon et al., "Efficient Memory Management for LLM Serving with
//            PagedAttention", SOSP 2023.
// Test:      python -m pytest tests/device -k rope_kv_write
//            python -m tools.microtest rope_kv_write
#include "common.cuh"
#include "ptx.cuh"

constexpr int kHalf = HEAD_DIM / 2;
constexpr int kItemsPerHead = kHalf / 8;
static_assert(HEAD_DIM % 16 == 0, "half a head must be whole 16-byte vectors");

// Rotates the 8 pairs (low[j], high[j]).
__device__ inline void rotate(Packed<bf16>& low, Packed<bf16>& high, const float* cosines,
                              const float* sines) {
  for (int part = 0; part < 2; ++part) {
    const Packed<float> c = load16(cosines + 4 * part);
    const Packed<float> s = load16(sines + 4 * part);
    for (int j = 0; j < 4; ++j) {
      bf16& a = low[4 * part + j];
      bf16& b = high[4 * part + j];
      const float x = __bfloat162float(a);
      const float y = __bfloat162float(b);
      a = __float2bfloat16(fmaf(x, c[j], -y * s[j]));
      b = __float2bfloat16(fmaf(y, c[j], x * s[j]));
    }
  }
}

// Where this head goes: its own place for a query, the token's row in the cache for a key or a value.
__device__ inline bf16* destination(bf16* own, bf16* k_cache, bf16* v_cache, int head, int num_heads,
                                    int num_kv_heads, int slot) {
  if (head < num_heads) return own;
  if (slot < 0) return nullptr;
  const bool is_key = head < num_heads + num_kv_heads;
  const int kv_head = head - num_heads - (is_key ? 0 : num_kv_heads);
  const int64_t page_head = static_cast<int64_t>(slot / PAGE_SIZE) * num_kv_heads + kv_head;
  return (is_key ? k_cache : v_cache) + (page_head * PAGE_SIZE + slot % PAGE_SIZE) * HEAD_DIM;
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    rope_kv_write(bf16* __restrict__ qkv, bf16* __restrict__ k_cache, bf16* __restrict__ v_cache,
                  const int* __restrict__ positions, const int* __restrict__ slot_mapping,
                  const float* __restrict__ cos_sin, int num_heads, int num_kv_heads) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int64_t token = blockIdx.x;
  const int slot = slot_mapping[token];
  const float* cosines = cos_sin + static_cast<int64_t>(positions[token]) * HEAD_DIM;
  const int total_heads = num_heads + 2 * num_kv_heads;

  for (int item = threadIdx.x; item < total_heads * kItemsPerHead; item += BLOCK_THREADS) {
    const int head = item / kItemsPerHead;
    const int pair = item % kItemsPerHead * 8;
    bf16* source = qkv + (token * total_heads + head) * HEAD_DIM;
    bf16* target = destination(source, k_cache, v_cache, head, num_heads, num_kv_heads, slot);
    if (target == nullptr) continue;
    Packed<bf16> low = load16(source + pair);
    Packed<bf16> high = load16(source + kHalf + pair);
    const bool is_value = head >= num_heads + num_kv_heads;
    if (!is_value) rotate(low, high, cosines + pair, cosines + kHalf + pair);
    store16(target + pair, low);
    store16(target + kHalf + pair, high);
  }
}
