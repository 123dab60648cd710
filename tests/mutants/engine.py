"""Faults in the engine's bookkeeping and readers."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = [
    Mutant(
        "scheduler-spends-its-budget-twice",
        "engine/scheduler.py",
        "            budget -= count\n            advanced += 1\n",
        "            advanced += 1\n",
        "what runs already leaves the whole budget to what joins",
        "tests/pure/test_scheduler.py::test_decodes_and_a_chunk_of_a_prompt_share_a_step",
    ),
    Mutant(
        "request-forgets-its-priority",
        "engine/request.py",
        "return self.priority, self.index",
        "return 0, self.index",
        "whoever came first goes first, however important the others",
        "tests/pure/test_scheduler.py::test_the_lower_priority_number_goes_first_then_whoever_came_first",
    ),
    Mutant(
        "cache-slots-from-the-start",
        "engine/kv_cache.py",
        "+ positions % self._page_size",
        "+ (positions - start) % self._page_size",
        "a slot is counted from the step's first token",
        "tests/pure/test_kv_cache.py::test_slots_follow_the_pages_of_the_block_table",
    ),
    Mutant(
        "cache-counts-a-revived-page-as-room",
        "engine/kv_cache.py",
        "> self.pool.num_free - revived:",
        "> self.pool.num_free:",
        "a free page that holds the prefix counts as room for the rest too",
        "tests/pure/test_kv_cache.py::test_pages_to_be_revived_do_not_count_as_room",
    ),
    Mutant(
        "cache-finds-the-last-token",
        "engine/kv_cache.py",
        "range((len(request.token_ids) - 1) // self.page_size)",
        "range(len(request.token_ids) // self.page_size)",
        "a prompt that is in the cache to its end has no token left to run",
        "tests/pure/test_kv_cache.py::test_the_last_token_always_runs[8-4]",
    ),
    Mutant(
        "pool-keeps-the-name-of-a-page-given-out",
        "engine/page_pool.py",
        "        self._forget(page)\n",
        "",
        "a page is found by the name of what it held before",
        "tests/pure/test_page_pool.py::test_a_named_page_is_found_held_or_not_until_it_is_given_out_again",
    ),
    Mutant(
        "runner-ignores-the-seed",
        "engine/runner.py",
        "return self._seed + request.index if request.params.seed is None else request.params.seed",
        "return self._seed + request.index",
        "a request's own seed is not used",
        "tests/device/test_llm.py::test_sampling_repeats_with_its_seed_and_differs_without",
    ),
    Mutant(
        "rope-blends-the-wrong-way",
        "engine/rope.py",
        "return kept * unscaled + (1 - kept) * unscaled / scaling.factor",
        "return (1 - kept) * unscaled + kept * unscaled / scaling.factor",
        "Llama 3.1's scaling slows the fast pairs down",
        "tests/pure/test_rope.py::test_llama3_scaling_by_its_definition",
    ),
    Mutant(
        "safetensors-end-not-checked",
        "engine/safetensors_file.py",
        "        if position > nbytes:\n",
        "        if position < 0:\n",
        "a tensor may lie past the end of its file",
        "tests/pure/test_checkpoint.py::test_inconsistent_header_is_named[change-tensor b ends at byte 32 of 28]",
    ),
    Mutant(
        "safetensors-overlap-accepted",
        "engine/safetensors_file.py",
        "if tensor.begin != position:",
        "if tensor.begin > position:",
        "two tensors may share bytes",
        "tests/pure/test_checkpoint.py::test_inconsistent_header_is_named[change-tensor b at byte 8 overlaps a]",
    ),
    Mutant(
        "detokenizer-gives-half-a-character",
        "engine/detokenize.py",
        "while end > held and BYTE_TOKEN",
        "while end > end and BYTE_TOKEN",
        "a run of byte tokens is not held back until it ends",
        "tests/pure/test_detokenize.py::test_one_id_at_a_time_is_decode[pieces]",
    ),
    Mutant(
        "request-one-token-too-many",
        "engine/answer.py",
        "len(self.completion.token_ids) >= self._params.max_tokens",
        "len(self.completion.token_ids) > self._params.max_tokens",
        ">= became >: one token more than max_tokens",
        "tests/pure/test_answer.py::test_max_tokens_ends_by_length",
    ),
]
