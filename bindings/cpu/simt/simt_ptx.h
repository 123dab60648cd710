// Twins of the inline PTX in cuda_src/include/ptx.cuh: same names, same signatures, same fragments.
#pragma once

#include "simt_runtime.h"

// A CPU pointer has 64 bits and does not fit; the twins below take the pointer itself, so nothing should need
// this.
inline uint32_t smem_address(const void* pointer) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pointer));
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* smem_row, simt::Place place = simt::Place::here()) {
  simt_ldmatrix(r, smem_row, 4, false, place);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* smem_row,
                              simt::Place place = simt::Place::here()) {
  simt_ldmatrix(r, smem_row, 4, true, place);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* smem_row, simt::Place place = simt::Place::here()) {
  simt_ldmatrix(r, smem_row, 2, false, place);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* smem_row,
                              simt::Place place = simt::Place::here()) {
  simt_ldmatrix(r, smem_row, 2, true, place);
}

inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              const float (&c)[4], simt::Place place = simt::Place::here()) {
  simt_mma_m16n8k16_bf16(d, a, b, c, place);
}

// The bytes arrive only when they are waited for, and until then the target is NaN: a missing wait shows.
inline void cp_async_16(void* smem, const void* gmem, simt::Place place = simt::Place::here()) {
  simt_copy_async(smem, gmem, true, place);
}
inline void cp_async_16_zfill(void* smem, const void* gmem, bool valid,
                              simt::Place place = simt::Place::here()) {
  simt_copy_async(smem, gmem, valid, place);
}
inline void cp_async_commit() { simt_copy_async_commit(); }
template <int N>
inline void cp_async_wait() {
  simt_copy_async_wait(N);
}

// Kernels run one after another here: whatever came before has finished.
inline void grid_dependency_wait() {}
inline void grid_dependency_launch() {}
