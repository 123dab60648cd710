"""Block tables: slots, shared prefixes, and pages that are never lost."""

import pytest

from engine.kv_cache import KVCache, PageCopy
from engine.request import Request
from engine.sampling_params import SamplingParams
from tests.pure.test_scheduler import answer


def request(index, token_ids):
    ids, params = list(token_ids), SamplingParams()
    return Request(index, ids, params, answer(index, ids, params))


def compute(cache, item):
    """Admit a request and run all of it; the number of tokens that were found."""
    item.num_computed = found = cache.admit(item)
    assert found is not None and cache.grow(item, len(item.token_ids))
    item.num_computed = len(item.token_ids)
    cache.remember(item)
    return found


def test_slots_follow_the_pages_of_the_block_table():
    cache = KVCache(num_pages=8, page_size=4, max_seqs=4, max_pages_per_seq=8)
    item = request(0, range(6))
    compute(cache, item)
    pages = cache.table(item).pages
    assert len(pages) == 2 and cache.block_tables[item.row, :2].tolist() == pages
    expected = [pages[p // 4] * 4 + p % 4 for p in range(6)]
    assert cache.slots(item, 0, 6).tolist() == expected and cache.slots(item, 5, 6).tolist() == expected[5:]


def test_growing_beyond_the_pool_gives_nothing():
    cache = KVCache(num_pages=2, page_size=4, max_seqs=4, max_pages_per_seq=8)
    item = request(0, range(4))
    compute(cache, item)
    assert not cache.grow(item, 13) and cache.available == 1
    assert cache.grow(item, 8) and cache.available == 0


def test_a_second_prompt_shares_the_full_pages_of_the_first():
    cache = KVCache(num_pages=8, page_size=4, max_seqs=4, max_pages_per_seq=8)
    first, second = request(0, range(10)), request(1, [*range(8), 77, 78])
    assert compute(cache, first) == 0
    assert compute(cache, second) == 8
    assert cache.table(second).pages[:2] == cache.table(first).pages[:2]
    assert cache.table(second).pages[2] != cache.table(first).pages[2]
    assert (cache.statistics.tokens, cache.statistics.hit_tokens) == (20, 8)


@pytest.mark.parametrize(("length", "found"), [(8, 4), (9, 8), (7, 4), (4, 0), (1, 0)])
def test_the_last_token_always_runs(length, found):
    """A prompt that is in the cache to its last token, on a page's very end, still computes that token."""
    cache = KVCache(num_pages=8, page_size=4, max_seqs=4, max_pages_per_seq=8)
    compute(cache, request(0, range(12)))
    assert compute(cache, request(1, range(length))) == found


def test_a_prefix_outlives_the_request_that_computed_it():
    cache = KVCache(num_pages=4, page_size=4, max_seqs=4, max_pages_per_seq=8)
    first = request(0, range(9))
    compute(cache, first)
    cache.release(first)
    assert cache.available == 4
    assert compute(cache, request(1, range(9))) == 8


def test_a_page_given_to_another_is_not_found_any_more():
    cache = KVCache(num_pages=3, page_size=4, max_seqs=4, max_pages_per_seq=8)
    first, second = request(0, range(9)), request(1, range(100, 112))
    compute(cache, first)
    cache.release(first)
    compute(cache, second)
    cache.release(second)
    assert compute(cache, request(2, range(9))) == 0


def test_pages_to_be_revived_do_not_count_as_room():
    """The prefix lies in free pages: taking it uses them up."""
    cache = KVCache(num_pages=3, page_size=4, max_seqs=4, max_pages_per_seq=8)
    first = request(0, range(12))
    compute(cache, first)
    cache.release(first)
    other = request(1, [90, 91, 92, 93])
    cache.open(other)
    assert cache.grow(other, 4)
    assert cache.admit(request(2, [*range(8), 1, 2, 3, 4, 5])) is None, "2 pages are free, 4 are needed"
    assert cache.available == 2, "and a refusal takes nothing"


def test_without_prefix_caching_nothing_is_shared():
    cache = KVCache(num_pages=8, page_size=4, max_seqs=4, max_pages_per_seq=8, prefix_caching=False)
    assert compute(cache, request(0, range(10))) == 0
    assert compute(cache, request(1, range(10))) == 0


def test_generated_tokens_can_be_a_prefix_too():
    """The next turn of a conversation begins with the last answer."""
    cache = KVCache(num_pages=8, page_size=4, max_seqs=4, max_pages_per_seq=8)
    first = request(0, range(6))
    compute(cache, first)
    first.token_ids += [50, 51, 52]
    assert cache.grow(first, 9)
    first.num_computed = 9
    cache.release(first)
    assert compute(cache, request(1, [0, 1, 2, 3, 4, 5, 50, 51, 52, 60])) == 8


def test_copies_that_depend_on_each_other_run_one_after_the_other():
    cache = KVCache(num_pages=8, page_size=4, max_seqs=4, max_pages_per_seq=8)
    copies = [PageCopy(*pages, tokens=1) for pages in ((0, 1), (0, 2), (1, 3), (4, 0), (5, 6))]
    cache._copies = list(copies)
    assert cache.take_copies() == [copies[:2], copies[2:]]
    assert cache.take_copies() == []


def test_a_fork_shares_only_what_earlier_steps_computed():
    """Pages are copied before a step: a half-full page that this very step fills has nothing to be copied yet."""
    cache = KVCache(num_pages=8, page_size=4, max_seqs=4, max_pages_per_seq=8)
    leader, forks = request(0, range(10)), [request(1, range(10)), request(2, range(10))]
    for fork in forks:
        fork.leader = leader
    compute(cache, leader)
    leader.prompt_step = 5
    assert cache.admit(forks[0], step=5) == 8, "two full pages, found by their names"
    assert cache.admit(forks[1], step=6) == 9, "and here the half-full one too"
    assert cache.table(forks[1]).pages == cache.table(leader).pages
    forks[1].num_computed = 9
    assert cache.grow(forks[1], 10)
    assert cache.table(forks[1]).pages[2] != cache.table(leader).pages[2]
    pages = cache.table(leader).pages[2], cache.table(forks[1]).pages[2]
    assert cache.take_copies() == [[PageCopy(*pages, tokens=1)]], "the second token there is written anew"
