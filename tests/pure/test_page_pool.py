"""The page pool: who holds a page, which are given out first, and what can be found again."""

import pytest

from engine.page_pool import ROOT, PagePool, page_name


def test_a_page_is_given_out_once_and_comes_back():
    pool = PagePool(3)
    assert sorted(pool.take() for _ in range(3)) == [0, 1, 2]
    with pytest.raises(IndexError, match="every page"):
        pool.take()
    pool.release([1])
    assert pool.take() == 1


def test_a_shared_page_is_free_when_the_last_holder_lets_go():
    pool = PagePool(2)
    page = pool.take()
    pool.share(page)
    pool.release([page])
    assert pool.holders(page) == 1 and pool.num_free == 1
    pool.release([page])
    assert pool.holders(page) == 0 and pool.num_free == 2


def test_letting_go_of_a_page_that_nobody_holds_is_an_error():
    with pytest.raises(AssertionError, match="page 0 is let go of"):
        PagePool(1).release([0])


def test_a_named_page_is_found_held_or_not_until_it_is_given_out_again():
    pool = PagePool(1)
    page = pool.take()
    pool.remember(page, b"name")
    assert pool.find(b"name") == page
    pool.release([page])
    assert pool.find(b"name") == page
    pool.share(page)
    assert pool.num_free == 0
    pool.release([page])
    assert pool.take() == page and pool.find(b"name") is None


def test_the_first_page_of_a_name_keeps_it():
    pool = PagePool(2)
    first, second = pool.take(), pool.take()
    pool.remember(first, b"name")
    pool.remember(second, b"name")
    assert pool.find(b"name") == first
    pool.release([second])
    assert pool.take() == second and pool.find(b"name") == first, "the one without the name was given out"


def test_nameless_pages_go_first_then_those_let_go_of_longest_ago():
    pool = PagePool(4)
    pages = [pool.take() for _ in range(4)]
    for page in pages[:3]:
        pool.remember(page, bytes([page]))
    pool.release([pages[2]])
    pool.release([pages[0]])
    pool.release([pages[3]])
    pool.release([pages[1]])
    assert [pool.take() for _ in range(4)] == [pages[3], pages[2], pages[0], pages[1]]


def test_a_name_stands_for_all_tokens_up_to_the_page():
    first = page_name(ROOT, [1, 2, 3, 4])
    assert len(first) == 16 and first == page_name(ROOT, (1, 2, 3, 4))
    others = {page_name(ROOT, [1, 2, 3, 5]), page_name(first, [1, 2, 3, 4]), page_name(first, [1, 2, 3, 5])}
    assert len(others | {first}) == 4
