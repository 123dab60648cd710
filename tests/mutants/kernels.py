"""Faults in the kernels of cuda_src and in their headers."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_TESTS = "tests/device/test_kernels.py"


def right(case: str) -> str:
    """The test that compares a case with its reference, between guard zones."""
    return f"{_TESTS}::test_matches_the_reference_and_stays_inside[{case}]"


def ordered(case: str) -> str:
    """The test that runs a case under every schedule: what finds a missing barrier."""
    return f"{_TESTS}::test_order_of_threads_changes_no_bit[{case}]"


_EMBEDDING = [
    Mutant(
        "embedding-short-row",
        "cuda_src/embedding.cu",
        "i < hidden; i += BLOCK_THREADS * 8",
        "i < hidden - 8; i += BLOCK_THREADS * 8",
        "the last 16 bytes of a row are not copied",
        right("embedding-T3-H576-V50"),
    ),
    Mutant(
        "embedding-by-row",
        "cuda_src/embedding.cu",
        "static_cast<int64_t>(token_ids[token]) * hidden",
        "token * hidden",
        "the row is that of the token's place, not of its id",
        right("embedding-T3-H576-V50"),
    ),
]

_RMSNORM = [
    Mutant(
        "rmsnorm-no-eps",
        "cuda_src/rmsnorm.cu",
        "/ static_cast<float>(hidden) + eps)",
        "/ static_cast<float>(hidden))",
        "eps is ignored",
        right("rmsnorm-scale1e-22"),
    ),
    Mutant(
        "rmsnorm-one-vector-too-many",
        "cuda_src/rmsnorm.cu",
        "if (column < hidden) visit(i, column);",
        "if (column <= hidden) visit(i, column);",
        "< became <=: a thread goes past the end of the row",
        right("rmsnorm-T1-H8"),
    ),
    Mutant(
        "rmsnorm-truncates",
        "cuda_src/rmsnorm.cu",
        "scaled.vectors[i][j] = __float2bfloat16(",
        "scaled.vectors[i][j] = __float2bfloat16_rz(",
        "the result is truncated in place of rounded to nearest",
        right("rmsnorm-T3-H576"),
    ),
    Mutant(
        "add-rmsnorm-keeps-the-old-residual",
        "cuda_src/rmsnorm.cu",
        "  store_row(residual + row, part, hidden);\n",
        "",
        "the sum is not written back",
        right("add_rmsnorm-T3-H576"),
    ),
    Mutant(
        "add-rmsnorm-truncates-the-sum",
        "cuda_src/rmsnorm.cu",
        "__float2bfloat16(__bfloat162float(a.vectors[i][j]) +",
        "__float2bfloat16_rz(__bfloat162float(a.vectors[i][j]) +",
        "the residual is truncated in place of rounded to nearest",
        right("add_rmsnorm-T3-H576"),
    ),
]

_ROPE = [
    Mutant(
        "rope-turns-backwards",
        "cuda_src/rope_kv_write.cu",
        "-y * s[j]",
        "y * s[j]",
        "the sign of the sine",
        right("rope_kv_write-T3-NH4-NKV4-D80"),
    ),
    Mutant(
        "rope-writes-padding",
        "cuda_src/rope_kv_write.cu",
        "  if (slot < 0) return nullptr;\n",
        "",
        "a token without a slot is written before the cache",
        right("rope_kv_write-T19-NH8-NKV1-D96"),
    ),
    Mutant(
        "rope-turns-a-value",
        "cuda_src/rope_kv_write.cu",
        "const bool is_value = head >= num_heads + num_kv_heads;",
        "const bool is_value = head > num_heads + num_kv_heads;",
        "the first value head is rotated",
        right("rope_kv_write-T3-NH4-NKV4-D80"),
    ),
    Mutant(
        "rope-page-stride",
        "cuda_src/rope_kv_write.cu",
        "(page_head * PAGE_SIZE + slot % PAGE_SIZE)",
        "(page_head * num_kv_heads + slot % PAGE_SIZE)",
        "the stride of a page's head",
        right("rope_kv_write-T3-NH4-NKV4-D80"),
    ),
]

_PREFILL = [
    Mutant(
        "prefill-blind-to-itself",
        "cuda_src/prefill_attention.cu",
        "if (key > query) scores",
        "if (key >= query) scores",
        "a query does not see its own key",
        right("prefill_attention-Q3-after5"),
    ),
    Mutant(
        "prefill-mask-forgets-an-edge",
        "cuda_src/prefill_attention.cu",
        "if (key_start + kKeyTile - 1 > warp_position)",
        "if (key_start + kKeyTile - 2 > warp_position)",
        "no mask where only the first query may not see the tile's last key",
        right("prefill_attention-running-mean-Q65-after62"),
    ),
    Mutant(
        "prefill-no-barrier",
        "cuda_src/prefill_attention.cu",
        "    __syncthreads();  // this stage has arrived",
        "    // this stage has arrived",
        "a warp reads keys that other warps are still copying",
        ordered("prefill_attention-Q3-after0"),
    ),
    Mutant(
        "prefill-waits-for-the-wrong-copy",
        "cuda_src/prefill_attention.cu",
        "cp_async_wait<0>();",
        "cp_async_wait<1>();",
        "the newest stage is not waited for",
        right("prefill_attention-Q3-after0"),
    ),
    Mutant(
        "prefill-sum-not-rescaled",
        "cuda_src/prefill_attention.cu",
        "    rows.sum[r] *= rescale;\n",
        "",
        "the sum stays relative to an older maximum",
        right("prefill_attention-Q65-after5"),
    ),
    Mutant(
        "prefill-wrong-kv-head",
        "cuda_src/prefill_attention.cu",
        "head / (num_heads / num_kv_heads)",
        "head % num_kv_heads",
        "query heads are dealt out to kv heads in turn",
        right("prefill_attention-mixed-D64-NH4-NKV2"),
    ),
    Mutant(
        "prefill-maximum-of-the-neighbours-too",
        "cuda_src/prefill_attention.cu",
        "warp_reduce(tile_max, 4, Max())",
        "warp_reduce(tile_max, kWarpSize, Max())",
        "right within its bound, but a query's rounding depends on the queries beside it",
        "tests/device/test_kernel_invariance.py::test_a_query_attends_alike_in_any_chunk_and_batch[(64, 4, 2)]",
    ),
    Mutant(
        "prefill-of-an-empty-sequence-divides-by-nothing",
        "cuda_src/prefill_attention.cu",
        "sum > 0.0f ? 1.0f / sum : 0.0f",
        "1.0f / sum",
        "a sequence without keys, which fills up a batch, gives NaN",
        f"{_TESTS}::test_a_query_of_an_empty_sequence_attends_to_nothing_and_gives_zeros[64]",
    ),
]

_DECODE = [
    Mutant(
        "decode-no-reuse-barrier",
        "cuda_src/decode_attention.cu",
        "    __syncthreads();  // the values are used up\n",
        "",
        "the next values arrive while the last are read (of heads of 64, each thread overwrites its own alone)",
        ordered("decode_attention-mixed-D80-NH5-NKV1"),
    ),
    Mutant(
        "decode-no-barrier-after-scores",
        "cuda_src/decode_attention.cu",
        "    __syncthreads();  // the scores are complete, the keys used up\n",
        "",
        "the maximum is taken over scores that are not there yet",
        ordered("decode_attention-L17"),
    ),
    Mutant(
        "decode-sums-past-the-end",
        "cuda_src/decode_attention.cu",
        "v_tile + piece * 8, slice, tokens);",
        "v_tile + piece * 8, slice, kTileTokens);",
        "rows past the sequence's end are read",
        right("decode_attention-L17"),
    ),
    Mutant(
        "decode-weights-not-rescaled",
        "cuda_src/decode_attention.cu",
        "    output.weights[h] *= shared.rescale[h];\n",
        "",
        "the sum of weights stays relative to an older maximum",
        right("decode_attention-L255"),
    ),
    Mutant(
        "decode-writes-an-empty-split",
        "cuda_src/decode_attention.cu",
        "if (split_start >= split_end) return;",
        "if (split_start > split_end) return;",
        "a split that begins where the sequence ends is written",
        right("decode_attention-equal-weights"),
    ),
]

_COMBINE = [
    Mutant(
        "combine-counts-the-last-split-again",
        "cuda_src/decode_attention.cu",
        "first + i < live ? exp2f(exponent[i]) : 0.0f",
        "exp2f(exponent[i])",
        "what stands in past the last split gets a weight",
        right("combine_splits-mixed-D64-NH9"),
    ),
    Mutant(
        "combine-divides-by-nothing",
        "cuda_src/decode_attention.cu",
        "live > 0 ? 1.0f / total : 0.0f",
        "1.0f / total",
        "an empty sequence gives NaN",
        right("combine_splits-mixed-D64-NH9"),
    ),
    Mutant(
        "combine-without-a-maximum",
        "cuda_src/decode_attention.cu",
        "(lse[c] - max) * kLog2E",
        "lse[c] * kLog2E",
        "exponentials underflow",
        right("combine_splits-far-below-zero"),
    ),
]

_SILU = [
    Mutant(
        "silu-wrong-row",
        "cuda_src/silu_mul.cu",
        "gate_up + token * 2 * width",
        "gate_up + token * width",
        "the stride of a row of gate and up",
        right("silu_mul-T3-I1536"),
    ),
    Mutant(
        "silu-one-column-too-many",
        "cuda_src/silu_mul.cu",
        "if (column >= width) return;",
        "if (column > width) return;",
        ">= became >: a thread writes past the end",
        right("silu_mul-T1-I8"),
    ),
    Mutant(
        "silu-truncates",
        "cuda_src/silu_mul.cu",
        "result[j] = __float2bfloat16(",
        "result[j] = __float2bfloat16_rz(",
        "the result is truncated in place of rounded to nearest",
        right("silu_mul-T3-I1536"),
    ),
]

_FEED_TOKENS = [
    Mutant(
        "feed-tokens-off-by-one",
        "cuda_src/feed_tokens.cu",
        "chosen[-1 - given]",
        "chosen[-given]",
        "row r is taken for row r + 1",
        right("feed_tokens-T3-C8"),
    ),
    Mutant(
        "feed-tokens-feeds-token-zero",
        "cuda_src/feed_tokens.cu",
        "if (token >= tokens) return;",
        "if (token >= tokens - 1) return;",
        "the last token of a step is not fed",
        right("feed_tokens-T256-C300"),
    ),
]

_COPY_PAGES = [
    Mutant(
        "copy-pages-first-plane-only",
        "cuda_src/copy_pages.cu",
        "static_cast<int64_t>(blockIdx.y) * num_pages",
        "static_cast<int64_t>(blockIdx.y) * 0",
        "only the keys of layer 0 are copied",
        right("copy_pages-K4-P7-H3-B4-D24-N3"),
    ),
    Mutant(
        "copy-pages-the-wrong-way",
        "cuda_src/copy_pages.cu",
        "store16(target + i, load16(source + i));",
        "store16(const_cast<bf16*>(source) + i, load16(target + i));",
        "the shared page is overwritten in place of copied",
        right("copy_pages-K4-P7-H3-B4-D24-N3"),
    ),
]

_ARGMAX = [
    Mutant(
        "argmax-last-of-equals",
        "cuda_src/include/argmax.cuh",
        "if (scores[j] >= best)",
        "if (scores[j] > best)",
        "of equal scores of a thread the last wins",
        right("argmax-ties"),
    ),
    Mutant(
        "argmax-minus-zero",
        "cuda_src/include/argmax.cuh",
        "__float_as_uint(score + 0.0f)",
        "__float_as_uint(score)",
        "-0 is less than 0",
        right("argmax-ties"),
    ),
    Mutant(
        "argmax-negative-order",
        "cuda_src/include/argmax.cuh",
        "bits >> 31 ? ~bits : bits | 0x80000000u",
        "bits | 0x80000000u",
        "negative scores compare by magnitude",
        right("argmax-special-V31"),
    ),
    Mutant(
        "argmax-wrong-row",
        "cuda_src/argmax.cu",
        "logits + sequence * vocab",
        "logits + sequence * (vocab - 1)",
        "the stride of a row of logits",
        right("argmax-S3-V7"),
    ),
]

_SAMPLE = [
    Mutant(
        "sample-one-noise-for-four",
        "cuda_src/gumbel_sample.cu",
        "gumbel(random.words[j])",
        "gumbel(random.words[0])",
        "four neighbours share their noise",
        right("gumbel_sample-S19-V31"),
    ),
    Mutant(
        "sample-multiplies-by-temperature",
        "cuda_src/gumbel_sample.cu",
        "1.0f / temperature[sequence]",
        "temperature[sequence]",
        "logits are multiplied by the temperature",
        right("gumbel_sample-S19-V31"),
    ),
    Mutant(
        "sample-one-position-for-all",
        "cuda_src/gumbel_sample.cu",
        "static_cast<uint32_t>(positions[sequence])",
        "static_cast<uint32_t>(positions[0])",
        "every sequence draws at the first one's position",
        right("gumbel_sample-S19-V31"),
    ),
    Mutant(
        "philox-nine-rounds",
        "cuda_src/include/philox.cuh",
        "round < 10",
        "round < 9",
        "another generator",
        right("gumbel_sample-S19-V31"),
    ),
]

_RANDOM = [
    Mutant(
        "random-normal-all-subsequences-alike",
        "cuda_src/random_normal.cu",
        "{{counter, 0, subsequence, 0}}",
        "{{counter, 0, 0, 0}}",
        "every tensor of a model gets the same values",
        right("random_normal-N2048-std0.02-seed7"),
    ),
    Mutant(
        "random-normal-past-the-end",
        "cuda_src/random_normal.cu",
        "if (start + kValues <= count) {",
        "if (start < count) {",
        "the last group is stored whole, past the end of the tensor",
        right("random_normal-N13-std0.5-seed1"),
    ),
    Mutant(
        "random-normal-one-turn",
        "cuda_src/random_normal.cu",
        "group += step)",
        "group += count)",
        "what lies beyond the first turn of the grid is never written",
        right("random_normal_one_block-N50007-std1.0-seed3"),
    ),
]

_TRUNCATE = [
    Mutant(
        "truncate-drops-the-threshold",
        "cuda_src/truncate_logits.cu",
        "if (order_key(row[v]) < floor) row[v]",
        "if (order_key(row[v]) <= floor) row[v]",
        "< became <=: the last token that should stay goes too",
        right("truncate_logits-V33"),
    ),
    Mutant(
        "truncate-negative-order",
        "cuda_src/truncate_logits.cu",
        "bits >> 31 ? ~bits : bits | 0x80000000u",
        "bits | 0x80000000u",
        "negative logits compare by magnitude",
        right("truncate_logits-V33"),
    ),
    Mutant(
        "truncate-no-barrier",
        "cuda_src/truncate_logits.cu",
        "    reached = with_bin;\n  }\n  __syncthreads();\n",
        "    reached = with_bin;\n  }\n",
        "a thread reads the digit before its finder has written it",
        ordered("truncate_logits-V1024"),
    ),
    Mutant(
        "truncate-mass-of-all",
        "cuda_src/truncate_logits.cu",
        "    if (key >= floor && static_cast",
        "    if (static_cast",
        "top-p counts the mass of tokens that top-k and min-p have dropped",
        right("truncate_logits-V49152"),
    ),
]

_EDIT = [
    Mutant(
        "edit-divides-what-is-negative",
        "cuda_src/edit_logits.cu",
        "(x > 0.0f ? x / divisors[e] : x * divisors[e])",
        "(x / divisors[e])",
        "the penalty of a repeated token makes a negative logit larger",
        right("edit_logits-S3-V50"),
    ),
    Mutant(
        "edit-takes-the-next-ones-too",
        "cuda_src/edit_logits.cu",
        "e < starts[sequence + 1];",
        "e <= starts[sequence + 1];",
        "< became <=: a sequence takes the first edit of the next one",
        right("edit_logits-S3-V50"),
    ),
]

_ALLOW = [
    Mutant(
        "allow-wrong-mask",
        "cuda_src/allow_logits.cu",
        "masks[mask * words + token / 32]",
        "masks[mask * (words - 1) + token / 32]",
        "the stride of a mask",
        right("allow_logits-S4-V1000"),
    ),
    Mutant(
        "allow-past-the-row",
        "cuda_src/allow_logits.cu",
        "if (mask < 0 || token >= vocab)",
        "if (mask < 0)",
        "the threads past the end of a row write to the next one",
        right("allow_logits-S3-V50257"),
    ),
]

_LOGPROBS = [
    Mutant(
        "logprobs-no-rescale",
        "cuda_src/logprobs.cu",
        "block_sum(own.sum * scale, sums)",
        "block_sum(own.sum, sums)",
        "a thread's sum stays relative to its own maximum",
        right("logprobs-S5-V1000-N20"),
    ),
    Mutant(
        "logprobs-the-best-again",
        "cuda_src/logprobs.cu",
        "if (key < below && key > best)",
        "if (key <= below && key > best)",
        "< became <=: each of the top N is the first",
        right("logprobs-S5-V1000-N20"),
    ),
    Mutant(
        "logprobs-rank-of-equals",
        "cuda_src/logprobs.cu",
        "count += row[v] > value;",
        "count += row[v] >= value;",
        "a token counts itself among the more probable ones",
        right("logprobs-ties"),
    ),
]

_HEADERS = [
    Mutant(
        "reduce-no-barrier",
        "cuda_src/include/reduce.cuh",
        "  __syncthreads();\n",
        "",
        "a warp reads the sums of warps that have not written them",
        ordered("rmsnorm-T3-H4096"),
    ),
    Mutant(
        "reduce-skips-lanes",
        "cuda_src/include/reduce.cuh",
        "for (int bit = width / 2; bit > 0; bit /= 2)",
        "for (int bit = width / 2; bit > 1; bit /= 2)",
        "neighbouring lanes never meet in the shuffles",
        right("rmsnorm-T1-H2048"),
    ),
    Mutant(
        "reduce-reads-what-no-warp-wrote",
        "cuda_src/include/reduce.cuh",
        "source < num_warps ? scratch[source] : identity",
        "scratch[source]",
        "with three warps a fourth sum is taken from unwritten memory",
        right("rmsnorm_three_warps-T3-H576"),
    ),
    Mutant(
        "pages-one-kv-head",
        "cuda_src/include/paged_kv.cuh",
        "((page * num_kv_heads + kv_head) * PAGE_SIZE",
        "(page * num_kv_heads * PAGE_SIZE",
        "every head reads the first kv head",
        right("decode_attention-mixed-D64-NH4-NKV2"),
    ),
    Mutant(
        "pages-wrong-column",
        "cuda_src/include/paged_kv.cuh",
        "bf16* target = tile + piece / kPieces * kTileStride + column;",
        "bf16* target = tile + piece / kPieces * HEAD_DIM + column;",
        "the tile is written with another stride than it is read with",
        right("prefill_attention-Q3-after5"),
    ),
]

MUTANTS = [
    *_EMBEDDING,
    *_RMSNORM,
    *_ROPE,
    *_PREFILL,
    *_DECODE,
    *_COMBINE,
    *_SILU,
    *_FEED_TOKENS,
    *_COPY_PAGES,
    *_ARGMAX,
    *_SAMPLE,
    *_RANDOM,
    *_TRUNCATE,
    *_EDIT,
    *_ALLOW,
    *_LOGPROBS,
    *_HEADERS,
]
