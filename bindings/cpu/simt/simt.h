// The CPU device's execution model: included before every kernel, it gives a C++ compiler what CUDA has built
// in.
//
// Each thread of a block is a fiber (see ../runtime). NVIDIA's own headers bring the types: in "host" mode
// they offer bf16, fp16 and vector types with conversions and storage; what they keep for device code is
// below and in the other simt_*.h.
#pragma once

#define CUTAWAY_CPU 1

#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>
#include <vector_types.h>

#include "simt_runtime.h"
#include "simt_language.h"
#include "simt_sync.h"
#include "simt_warp.h"
#include "simt_atomics.h"
#include "simt_memory.h"
#include "simt_bits.h"
#include "simt_math.h"
#include "simt_half.h"
#include "simt_export.h"
#include "simt_checked.h"
#include "simt_inspect.h"
