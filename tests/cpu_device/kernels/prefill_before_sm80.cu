// Production's prefill attention with what GPUs before sm_80 run in place of mma and cp.async.
#include "ptx.cuh"
#include "ptx_before_sm80.cuh"
#define mma_m16n8k16_bf16 mma_m16n8k16_bf16_by_shuffles
#define cp_async_16 cp_async_16_by_registers
#define cp_async_16_zfill cp_async_16_zfill_by_registers
#include "../../../cuda_src/prefill_attention.cu"
