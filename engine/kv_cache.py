"""The paged KV cache (PagedAttention, Kwon et al. 2023): which pages hold which sequence.

Keys and values of a sequence lie in pages of a fixed number of tokens, anywhere in one pool. A sequence's block table
lists its pages in order; token position p lies in page `table[p // page_size]`, at `p % page_size`. Its slot number in
the whole pool is `page * page_size + p % page_size`. So memory is given out a page at a time as a sequence grows, and
at most one page less a token is wasted per sequence.

Pure bookkeeping: the device memory itself belongs to the runner. Who holds a page: page_pool.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.page_pool import ROOT, PageName, PagePool, page_name
from engine.request import Request


class BlockTable:
    """The pages of one sequence, in order of position. The first `num_named` of them can be found by their names."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self.pages: list[int] = []
        self.num_named = 0

    def slots(self, start: int, stop: int) -> NDArray[np.int32]:
        """The slot numbers of the token positions `start:stop`, which lie in allocated pages."""
        positions = np.arange(start, stop, dtype=np.int32)
        first_page = start // self._page_size
        pages = np.asarray(self.pages[first_page:], np.int32)
        return pages[positions // self._page_size - first_page] * self._page_size + positions % self._page_size


@dataclass
class CacheStatistics:
    """Tokens of admitted requests, and how many of them were found in pages computed before."""

    tokens: int = 0
    hit_tokens: int = 0


class KVCache:
    """A pool of `num_pages` pages of `page_size` tokens, and the block table of every request that holds some."""

    def __init__(self, num_pages: int, page_size: int, prefix_caching: bool = True) -> None:
        self.num_pages, self.page_size, self.prefix_caching = num_pages, page_size, prefix_caching
        self.pool = PagePool(num_pages)
        self.statistics = CacheStatistics()
        self._tables: dict[int, BlockTable] = {}

    def pages_for(self, num_tokens: int) -> int:
        """How many pages hold `num_tokens`."""
        return -(-num_tokens // self.page_size)

    @property
    def available(self) -> int:
        """Pages that nobody holds."""
        return self.pool.num_free

    def table(self, request: Request) -> BlockTable:
        """The block table of a request that was admitted."""
        return self._tables[request.index]

    def admit(self, request: Request) -> int | None:
        """Open a block table; how many of the leading tokens are in the cache already. None if the rest has no room.

        The last token is never counted as found: it must run, since its logits choose the next one.
        """
        found = self._find_prefix(request) if self.prefix_caching else []
        revived = sum(self.pool.holders(page) == 0 for page in found)
        if self.pages_for(len(request.token_ids)) - len(found) > self.pool.num_free - revived:
            return None
        for page in found:
            self.pool.share(page)
        self.open(request, found)
        self.statistics.tokens += len(request.token_ids)
        self.statistics.hit_tokens += len(found) * self.page_size
        return len(found) * self.page_size

    def open(self, request: Request, named_pages: Sequence[int] = ()) -> None:
        """Open a block table that begins with these pages, and ask for no prefix."""
        table = self._tables[request.index] = BlockTable(self.page_size)
        table.pages.extend(named_pages)
        table.num_named = len(named_pages)

    def _find_prefix(self, request: Request) -> list[int]:
        pages = []
        for number in range((len(request.token_ids) - 1) // self.page_size):
            page = self.pool.find(self._name(request, number))
            if page is None:
                break
            pages.append(page)
        return pages

    def _name(self, request: Request, number: int) -> PageName:
        """The name of the full page `number` of a request: worked out once, whether it waits, runs or is preempted."""
        names, size = request.page_names, self.page_size
        while len(names) <= number:
            tokens = request.token_ids[len(names) * size : (len(names) + 1) * size]
            names.append(page_name(names[-1] if names else ROOT, tokens))
        return names[number]

    def grow(self, request: Request, num_tokens: int) -> bool:
        """Give a request the pages that `num_tokens` need. False, and nothing is given, if there are too few."""
        table = self._tables[request.index]
        missing = self.pages_for(num_tokens) - len(table.pages)
        if missing > self.pool.num_free:
            return False
        table.pages.extend(self.pool.take() for _ in range(missing))
        return True

    def computed(self, request: Request, num_computed: int) -> None:
        """Note that the keys and values of the first `num_computed` tokens are written: full pages can be found now."""
        if not self.prefix_caching:
            return
        table = self._tables[request.index]
        for number in range(table.num_named, num_computed // self.page_size):
            self.pool.remember(table.pages[number], self._name(request, number))
            table.num_named = number + 1

    def release(self, request: Request) -> None:
        """Close a block table and let go of its pages."""
        self.pool.release(reversed(self._tables.pop(request.index).pages))
