// Copy pages: gives a sequence its own copy of a KV page that it shares, before it writes to it.
//
// Formula:   kv_pages[k][targets[n]][h][b] = kv_pages[k][sources[n]][h][b] for the tokens b < tokens[n]
// Pointers:  kv_pages  bf16 [K, P, NKV, B, D]   pages `targets` are written, pages `sources` read
//            sources   i32  [N]                 may hold a page several times
//            targets   i32  [N]                 all different, and none of them a source
//            tokens    i32  [N]                 how many tokens of the page hold anything yet: 0 .. B
//            K planes (keys and values of each layer), P pages.
// Threads:   block (n, k) copies page n of plane k, 16 bytes a thread and turn.
// Bytes:     reads and writes 2*K*N*NKV*B*D each at most, reads 12*N.
// Source:    Kwon et al., "Efficient memory management for large language model serving with PagedAttention",
//            SOSP 2023 (copy-on-write between the samples of one prompt).
// Test:      python -m pytest tests/device -k copy_pages
//            python -m tools.microtest copy_pages
#include "common.cuh"
#include "ptx.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    copy_pages(bf16* kv_pages, const int* __restrict__ sources, const int* __restrict__ targets,
               const int* __restrict__ tokens, int num_pages) {
  grid_dependency_launch();
  grid_dependency_wait();
  bf16* plane = kv_pages + static_cast<int64_t>(blockIdx.y) * num_pages * PAGE_ELEMENTS;
  const bf16* source = plane + static_cast<int64_t>(sources[blockIdx.x]) * PAGE_ELEMENTS;
  bf16* target = plane + static_cast<int64_t>(targets[blockIdx.x]) * PAGE_ELEMENTS;
  const int filled = tokens[blockIdx.x] * HEAD_DIM;  // elements of each head's part of the page
  for (int i = threadIdx.x * 8; i < PAGE_ELEMENTS; i += BLOCK_THREADS * 8) {
    if (i % (PAGE_SIZE * HEAD_DIM) < filled) store16(target + i, load16(source + i));
  }
}
