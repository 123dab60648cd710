"""Continuous batching: who runs when, who is preempted, and that nobody is forgotten."""

from __future__ import annotations

from collections import Counter

import pytest

from engine.answer import Answer
from engine.errors import ModelError
from engine.kv_cache import KVCache
from engine.outputs import CompletionOutput, Metrics, RequestOutput
from engine.request import Request
from engine.sampling_params import SamplingParams
from engine.scheduler import Scheduler

PAGE = 4


class SilentDecoder:
    """Stands in for the tokenizer's decoder: one letter a token."""

    def push(self, ids):
        return "x" * len(ids)

    def finish(self):
        return ""


def request(index, prompt, max_tokens=4, priority=0):
    ids = [1000 * index + i for i in range(prompt)] if isinstance(prompt, int) else prompt
    params = SamplingParams(max_tokens=max_tokens)
    return Request(index, ids, params, answer(index, ids, params), priority)


def answer(index, prompt_ids, params, stop_ids=frozenset()):
    output = RequestOutput(str(index), None, prompt_ids, [CompletionOutput()], False, Metrics(len(prompt_ids)))
    return Answer(index, output, params, SilentDecoder(), stop_ids)


def append(item, token):
    """Give a request its next token; whether it has ended."""
    item.token_ids.append(token)
    return item.answer.append(token).finished


def make(num_pages=64, max_num_seqs=4, max_batched_tokens=16, batching="continuous"):
    cache = KVCache(num_pages, PAGE, max_num_seqs, max_pages_per_seq=32)
    return Scheduler(cache, max_num_seqs, max_batched_tokens, batching)


def run_step(scheduler):
    """One step as the engine makes it when it does not look ahead; returns (batch, the requests that finished)."""
    batch = scheduler.schedule()
    finished = [piece.request for piece in batch.pieces if piece.samples and append(piece.request, 7)]
    for item in finished:
        scheduler.finish(item)
    return batch, finished


def sizes(batch):
    """Tokens of each request of a batch, by its number."""
    return {piece.request.index: piece.stop - piece.start for piece in batch.pieces}


def test_a_prompt_longer_than_the_budget_runs_in_chunks():
    scheduler = make()
    scheduler.add(request(0, 40))
    assert [sizes(run_step(scheduler)[0]) for _ in range(4)] == [{0: 16}, {0: 16}, {0: 8}, {0: 1}]


def test_decodes_and_a_chunk_of_a_prompt_share_a_step():
    scheduler = make()
    scheduler.add(request(0, 6, max_tokens=9))
    run_step(scheduler)
    scheduler.add(request(1, 30))
    batch, _ = run_step(scheduler)
    assert sizes(batch) == {0: 1, 1: 15}, "whoever decodes goes first, the prompt takes what is left of the budget"
    assert [len(batch.decodes), len(batch.prefills)] == [1, 1]


def test_a_request_joins_and_leaves_while_others_run():
    scheduler = make(max_num_seqs=2)
    for index in range(3):
        scheduler.add(request(index, 2, max_tokens=1 + 2 * index))
    seen = []
    while scheduler.has_work:
        seen.append(sorted(sizes(run_step(scheduler)[0])))
    assert seen == [[0, 1], [1, 2], [1, 2], [2], [2], [2]]


def test_a_static_batch_waits_for_its_last_request():
    scheduler = make(max_num_seqs=2, batching="static")
    for index in range(3):
        scheduler.add(request(index, 2, max_tokens=1 + index))
    seen = []
    while scheduler.has_work:
        seen.append(sorted(sizes(run_step(scheduler)[0])))
    assert seen == [[0, 1], [1], [2], [2], [2]]


def test_a_static_batch_is_full_though_its_prompts_take_several_steps():
    scheduler = make(max_num_seqs=3, max_batched_tokens=16, batching="static")
    for index in range(4):
        scheduler.add(request(index, 12, max_tokens=3))
    steps = []
    while scheduler.has_work:
        steps.append(sizes(run_step(scheduler)[0]))
    assert steps[:3] == [{0: 12, 1: 4}, {0: 1, 1: 8, 2: 7}, {0: 1, 1: 1, 2: 5}]
    together = steps[: next(i for i, step in enumerate(steps) if 3 in step)]
    assert set().union(*together) == {0, 1, 2}, "the fourth waits for the last of the three"


def test_the_lower_priority_number_goes_first_then_whoever_came_first():
    scheduler = make(max_num_seqs=1)
    for index, priority in enumerate((5, 1, 5, 1)):
        scheduler.add(request(index, 2, max_tokens=1, priority=priority))
    assert [run_step(scheduler)[1][0].index for _ in range(4)] == [1, 3, 0, 2]


def test_a_long_prompt_of_high_rank_leaves_a_token_to_each_who_decodes():
    scheduler = make(max_num_seqs=3)
    for index in range(2):
        scheduler.add(request(index, 2, max_tokens=9, priority=1))
    run_step(scheduler)
    scheduler.add(request(2, 40, max_tokens=2, priority=0))
    steps = [sizes(run_step(scheduler)[0]) for _ in range(4)]
    assert steps == [{0: 1, 1: 1, 2: 14}, {0: 1, 1: 1, 2: 14}, {0: 1, 1: 1, 2: 12}, {0: 1, 1: 1, 2: 1}]


def test_a_prompt_for_which_nothing_is_left_waits_for_the_next_step():
    """The first prompt takes all but the token of who comes last, and the second gets no empty piece."""
    scheduler = make(max_num_seqs=3, max_batched_tokens=8, batching="static")
    for index, prompt, priority in ((0, 1, 1), (1, 20, 0), (2, 20, 0)):
        scheduler.add(request(index, prompt, priority=priority))
    assert [sizes(run_step(scheduler)[0]) for _ in range(3)] == [{1: 8}, {0: 1, 1: 7}, {0: 1, 1: 5, 2: 2}]


def test_when_pages_run_out_the_last_in_line_starts_anew():
    scheduler = make(num_pages=4, max_num_seqs=2)
    first, second = request(0, 6, max_tokens=8), request(1, 6, max_tokens=8)
    scheduler.add(first)
    scheduler.add(second)
    order = []
    while scheduler.has_work:
        order += [item.index for item in run_step(scheduler)[1]]
    assert order == [0, 1] and scheduler.num_preemptions >= 1
    assert [len(item.answer.completion.token_ids) for item in (first, second)] == [8, 8]
    assert scheduler.cache.available == 4


def test_pages_are_taken_from_the_least_important_not_from_the_latest():
    scheduler = make(num_pages=4, max_num_seqs=2)
    ordinary, important = request(0, 6, max_tokens=8), request(1, 6, max_tokens=8, priority=-1)
    scheduler.add(ordinary)
    run_step(scheduler)
    scheduler.add(important)
    order = []
    while scheduler.has_work:
        order += [item.index for item in run_step(scheduler)[1]]
    assert order == [1, 0], "the pages ran out, and the ordinary one, though it came first, gave way"


def test_a_request_too_large_for_the_whole_pool_is_refused_with_the_figure_that_would_do():
    scheduler = make(num_pages=2)
    with pytest.raises(ModelError, match="24 tokens need 6 KV pages of 4 tokens, the pool has 2"):
        scheduler.add(request(0, 20))
    assert not scheduler.has_work


def test_an_aborted_request_is_gone_wherever_it_was():
    scheduler = make(max_num_seqs=1)
    items = [request(index, 6) for index in range(3)]
    for item in items:
        scheduler.add(item)
    run_step(scheduler)
    scheduler.finish(items[0])  # it runs
    scheduler.finish(items[1])  # it waits
    seen = set()
    while scheduler.has_work:
        seen |= set(sizes(run_step(scheduler)[0]))
    assert seen == {2} and scheduler.cache.available == 64


def test_another_kind_of_batching_is_refused_by_name():
    with pytest.raises(ModelError, match=r"batching is 'greedy'; it must be one of continuous, static"):
        make(batching="greedy")


def test_a_long_queue_costs_a_step_no_more_than_a_short_one():
    """Counted in calls into the queue, not in seconds: what is not at the head is never looked at."""

    def touched(waiting):
        scheduler = make(max_num_seqs=1)
        for index in range(waiting):
            scheduler.add(request(index, 2, max_tokens=50))
        seen: Counter[int] = Counter()

        class Watched(list):
            def __getitem__(self, number):
                seen[number] += 1
                return super().__getitem__(number)

        scheduler.waiting._heap = Watched(scheduler.waiting._heap)
        for _ in range(20):
            run_step(scheduler)
        return sum(seen.values())

    assert touched(100_000) == touched(100)
