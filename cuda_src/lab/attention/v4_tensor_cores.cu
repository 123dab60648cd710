// Attention, rung 4 of 4: the production kernel itself.
//
// Idea:      Queries by keys and weights by values are matrix products: tensor cores make 16 by 8 outputs
//            over 16 terms in one instruction. A warp owns 16 queries instead of a thread owning one, the
//            weights go from the first product into the second without leaving registers, and the next tile
//            is copied (cp.async) while this one is used. Formula and layout: in the file below.
// Test:      python -m pytest tests/device -k prefill_attention_v4
//            python -m tools.microtest prefill_attention_v4_tensor_cores
#include "../../prefill_attention.cu"
