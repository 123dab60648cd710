"""Static batching: who runs when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.kv_cache import KVCache
from engine.request import Request, SamplingParams
from engine.scheduler import Scheduler


class SilentDecoder:
    """Stands in for the tokenizer's decoder: one letter a token."""

    def push(self, ids):
        return "x" * len(ids)

    def finish(self):
        return ""


def request(index, prompt_tokens, max_tokens=4):
    return Request(index, None, [1] * prompt_tokens, SamplingParams(max_tokens=max_tokens), SilentDecoder())


def make(num_pages=64, max_num_seqs=4, max_batched_tokens=16):
    return Scheduler(KVCache(num_pages, page_size=4), max_num_seqs, max_batched_tokens)


def run_step(scheduler):
    """One step as the engine makes it; returns (batch, indices of the requests that finished)."""
    batch = scheduler.schedule()
    finished = []
    for item, count in zip(batch.requests, batch.num_tokens, strict=True):
        item.num_computed += count
        if not item.prefilling:
            item.append(7, frozenset(), max_model_len=1000)
        if item.output.finished:
            scheduler.finish(item)
            finished.append(item.index)
    return batch, finished


def test_a_prompt_longer_than_the_budget_is_prefilled_in_chunks():
    scheduler = make(max_batched_tokens=16)
    scheduler.add(request(0, prompt_tokens=40))
    chunks = [run_step(scheduler)[0].num_tokens for _ in range(3)]
    assert chunks == [[16], [16], [8]]


def test_prompts_share_a_step_while_the_budget_lasts():
    scheduler = make(max_batched_tokens=16)
    for index, length in enumerate((6, 6, 6)):
        scheduler.add(request(index, length))
    assert run_step(scheduler)[0].num_tokens == [6, 6, 4]
    assert run_step(scheduler)[0].num_tokens == [2]
    batch, _ = run_step(scheduler)
    assert not batch.is_prefill and batch.num_tokens == [1, 1, 1]


def test_the_next_batch_starts_when_the_last_of_this_one_is_done():
    scheduler = make(max_num_seqs=2)
    for index in range(3):
        scheduler.add(request(index, prompt_tokens=2, max_tokens=1 + index))
    seen = []
    while scheduler.has_work:
        seen.append([item.index for item in run_step(scheduler)[0].requests])
    assert seen == [[0, 1], [1], [2], [2], [2]]


def test_a_request_too_large_for_the_whole_pool_is_refused():
    scheduler = make(num_pages=2)
    scheduler.add(request(0, prompt_tokens=20))
    with pytest.raises(ModelError, match="KV pages"):
        scheduler.schedule()


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 6)), min_size=1, max_size=12))
def test_every_request_ends_with_its_tokens_and_every_page_comes_back(sizes):
    scheduler = make(num_pages=12, max_num_seqs=3, max_batched_tokens=8)
    requests = [request(i, prompt, tokens) for i, (prompt, tokens) in enumerate(sizes)]
    for item in requests:
        scheduler.add(item)
    done = []
    while scheduler.has_work:
        batch, finished = run_step(scheduler)
        assert sum(batch.num_tokens) <= max(8, len(batch.requests))
        done += finished
    assert sorted(done) == list(range(len(sizes)))
    assert [len(item.completion.token_ids) for item in requests] == [tokens for _, tokens in sizes]
    assert scheduler._cache.available == 12
