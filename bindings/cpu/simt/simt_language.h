// CUDA's keywords and built-in variables.
#pragma once

// NVIDIA's headers, which understand __CUDA_ARCH__ as "emit device code", are all behind us. From here on it
// is set, so that `#if __CUDA_ARCH__ >= 800` in a kernel keeps its code instead of dropping it silently.
#define __CUDA_ARCH__ 800

#undef __shared__
#undef __constant__
#undef __launch_bounds__
#undef __noinline__

// One copy for each OS thread, which runs one block at a time; the runtime poisons it before every block.
// nvrtc.py rewrites `extern __shared__ T name[];` to SIMT_DYNAMIC_SHARED(T, name).
#define __shared__ static thread_local
#define __constant__ static
#define __launch_bounds__(...)  // read by nvrtc.py
#define __noinline__ __attribute__((noinline))

#ifndef __clang__
#define __builtin_assume(condition) ((condition) ? void() : __builtin_unreachable())
#endif

// The lambda makes this ill-formed outside a function, where its value would be taken before any block runs.
#define SIMT_DYNAMIC_SHARED(type, name) \
  type* const name = [&] { return reinterpret_cast<type*>(simt::dynamic_shared()); }()

namespace simt {

// These do not change while a thread runs, so the compiler may call each once per function (`const`) and keep
// the result, where a plain load would be repeated after every store. What they read is not the kernel's memory.
#define SIMT_BUILT_IN [[gnu::const, gnu::noinline, gnu::no_sanitize_thread]] inline
SIMT_BUILT_IN unsigned thread_x() { return simt_thread->index.x; }
SIMT_BUILT_IN unsigned thread_y() { return simt_thread->index.y; }
SIMT_BUILT_IN unsigned thread_z() { return simt_thread->index.z; }
SIMT_BUILT_IN unsigned block_x() { return simt_thread->block->index.x; }
SIMT_BUILT_IN unsigned block_y() { return simt_thread->block->index.y; }
SIMT_BUILT_IN unsigned block_z() { return simt_thread->block->index.z; }
SIMT_BUILT_IN unsigned block_dim_x() { return simt_thread->block->dim.x; }
SIMT_BUILT_IN unsigned block_dim_y() { return simt_thread->block->dim.y; }
SIMT_BUILT_IN unsigned block_dim_z() { return simt_thread->block->dim.z; }
SIMT_BUILT_IN unsigned grid_dim_x() { return simt_thread->block->grid.x; }
SIMT_BUILT_IN unsigned grid_dim_y() { return simt_thread->block->grid.y; }
SIMT_BUILT_IN unsigned grid_dim_z() { return simt_thread->block->grid.z; }
SIMT_BUILT_IN unsigned char* dynamic_shared() { return simt_thread->block->dynamic_shared; }

}  // namespace simt

#define threadIdx (uint3{simt::thread_x(), simt::thread_y(), simt::thread_z()})
#define blockIdx (uint3{simt::block_x(), simt::block_y(), simt::block_z()})
#define blockDim (dim3{simt::block_dim_x(), simt::block_dim_y(), simt::block_dim_z()})
#define gridDim (dim3{simt::grid_dim_x(), simt::grid_dim_y(), simt::grid_dim_z()})

constexpr int warpSize = 32;
