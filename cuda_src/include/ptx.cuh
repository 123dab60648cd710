// Inline PTX: one function per instruction, and no asm anywhere else.
//
// Each names its entry in NVIDIA's "Parallel Thread Execution ISA" manual. The CPU device has a twin of each,
// with the same signature, in simt_ptx.h.
#pragma once

#include "common.cuh"

#ifdef CUTAWAY_CPU
#include "simt_ptx.h"
#else
#include "ptx_before_sm80.cuh"

// The 32-bit address inside the shared window that the instructions below take.
// PTX ISA: "Data Movement and Conversion Instructions: cvta".
__device__ inline uint32_t smem_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- ldmatrix: a warp loads 8x8 matrices of 16-bit elements from shared memory into mma fragments ---------
// PTX ISA: "Warp-level matrix load instruction: ldmatrix". Lane 8*j + i gives the address of row i (16 bytes,
// aligned) of matrix j; for x2 the addresses of lanes 16..31 are not used. Register j of lane l then holds
// elements 2*(l%4) and 2*(l%4)+1 of row l/4 of matrix j; with _trans, of its transpose. All 32 lanes must
// call.

__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* smem_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_address(smem_row))
               : "memory");
}

__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* smem_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_address(smem_row))
               : "memory");
}

__device__ inline void ldmatrix_x2(uint32_t (&r)[2], const void* smem_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(smem_address(smem_row))
               : "memory");
}

__device__ inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* smem_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(smem_address(smem_row))
               : "memory");
}

// d[16x8] = a[16x16] * b[16x8] + c[16x8] on tensor cores: bf16 operands, float32 accumulation. PTX ISA:
// "Matrix Fragments for mma.m16n8k16 with floating point type". With row = lane/4, pair = 2*(lane%4):
//   a[0] = A[row][pair..], a[1] = A[row+8][pair..], a[2] = A[row][pair+8..], a[3] = A[row+8][pair+8..]
//   b[0] = B[pair..][row], b[1] = B[pair+8..][row]     (the lower half of each register is the lower index)
//   d[0], d[1] = D[row][pair], D[row][pair+1];  d[2], d[3] = D[row+8][pair], D[row+8][pair+1];  c likewise
// All 32 lanes must call.
__device__ inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                         const float (&c)[4]) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]));
#else
  mma_m16n8k16_bf16_by_shuffles(d, a, b, c);
#endif
}

// ---- cp.async: device memory to shared memory, past the registers, while the thread goes on ---------------
// PTX ISA: "Data Movement and Conversion Instructions: cp.async" (sm_80 and newer; before, a copy is done at
// once). Both addresses are multiples of 16; .cg caches in L2 only. The bytes are there for the calling
// thread after cp_async_wait, for others after a barrier behind it.

__device__ inline void cp_async_16(void* smem, const void* gmem) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(smem_address(smem)), "l"(gmem) : "memory");
#else
  cp_async_16_by_registers(smem, gmem);
#endif
}

// Writes 16 zero bytes, and does not read `gmem`, where `valid` is false.
__device__ inline void cp_async_16_zfill(void* smem, const void* gmem, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_address(smem)), "l"(gmem),
               "r"(valid ? 16 : 0)
               : "memory");
#else
  cp_async_16_zfill_by_registers(smem, gmem, valid);
#endif
}

// Closes the group of all copies that this thread has begun since its last commit.
// PTX ISA: "Data Movement and Conversion Instructions: cp.async.commit_group".
__device__ inline void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the N latest groups are still under way.
// PTX ISA: "Data Movement and Conversion Instructions: cp.async.wait_group / cp.async.wait_all".
template <int N>
__device__ inline void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// ---- griddepcontrol: programmatic dependent launch --------------------------------------------------------
// PTX ISA: "Parallel Synchronization and Communication Instructions: griddepcontrol" (sm_90 and newer;
// nothing before). Both do nothing in a kernel launched without the attribute.

// Returns when the kernels that this one depends on have finished and their writes can be seen: before it,
// read and write nothing that an earlier kernel of the stream may touch.
__device__ inline void grid_dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the kernel behind this one start once all blocks have called it or exited. The next one still waits,
// in its own grid_dependency_wait, for this kernel to finish.
__device__ inline void grid_dependency_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif  // CUTAWAY_CPU
