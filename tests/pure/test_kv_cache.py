"""The page pool: pages are never shared, never lost, and a promise is always kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.kv_cache import KVCache


def test_slots_follow_the_pages_of_the_block_table():
    cache = KVCache(num_pages=8, page_size=4)
    cache.admit(0, max_tokens=10)
    table = cache.grow(0, num_tokens=6)
    assert len(table.pages) == 2
    expected = [table.pages[p // 4] * 4 + p % 4 for p in range(6)]
    assert table.slots(0, 6).tolist() == expected and table.slots(5, 6).tolist() == expected[5:]


def test_a_sequence_that_could_never_fit_is_refused_with_the_figures():
    cache = KVCache(num_pages=4, page_size=16)
    with pytest.raises(ModelError, match=r"65 tokens need 5 KV pages of 16 tokens, the pool has 4 left of 4"):
        cache.admit(0, max_tokens=65)


def test_what_is_promised_to_one_is_not_available_to_another():
    cache = KVCache(num_pages=4, page_size=16)
    cache.admit(0, max_tokens=48)
    assert cache.fits(16) and not cache.fits(17)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), max_size=60))
def test_pages_are_never_shared_and_never_lost(actions):
    """Any order of admitting, growing and releasing keeps every page in exactly one place."""
    cache, limits, tables = KVCache(num_pages=16, page_size=4), {}, {}
    for sequence, tokens in actions:
        if sequence in limits and tokens % 3 == 0:
            cache.release(sequence)
            limits.pop(sequence), tables.pop(sequence, None)
        elif sequence in limits:
            tables[sequence] = cache.grow(sequence, min(tokens, limits[sequence]))
        elif cache.fits(tokens):
            cache.admit(sequence, tokens)
            limits[sequence] = tokens
        owned = [page for table in tables.values() for page in table.pages]
        assert len(owned) == len(set(owned))
        promised = sum(cache.pages_for(limit) for limit in limits.values())
        assert cache.available == 16 - promised
    for sequence in limits:
        cache.release(sequence)
    assert cache.available == 16
