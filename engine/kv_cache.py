"""The paged KV cache (PagedAttention, Kwon et al. 2023): who owns which page.

Keys and values of a sequence lie in pages of a fixed number of tokens, anywhere in one pool. A sequence's block table
lists its pages in order; token position p lies in page `table[p // page_size]`, at `p % page_size`. Its slot number in
the whole pool is `page * page_size + p % page_size`. So memory is given out a page at a time as a sequence grows, and
at most one page less a token is wasted per sequence.

Pure bookkeeping: the device memory itself belongs to the runner.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelError


class BlockTable:
    """The pages of one sequence, in order of position, and how many more it may still ask for."""

    def __init__(self, page_size: int, reserved: int) -> None:
        self._page_size = page_size
        self.pages: list[int] = []
        self.reserved = reserved

    def slots(self, start: int, stop: int) -> NDArray[np.int32]:
        """The slot numbers of the token positions `start:stop`, which lie in allocated pages."""
        positions = np.arange(start, stop, dtype=np.int32)
        first_page = start // self._page_size
        pages = np.asarray(self.pages[first_page:], np.int32)
        return pages[positions // self._page_size - first_page] * self._page_size + positions % self._page_size


class KVCache:
    """A pool of `num_pages` pages of `page_size` tokens.

    A sequence is admitted with the most tokens it can come to. Its pages are handed out as it grows, but the pool keeps
    count of what every admitted sequence may still ask for, so a running sequence never finds the pool empty.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages, self.page_size = num_pages, page_size
        self._free = list(range(num_pages - 1, -1, -1))
        self._tables: dict[int, BlockTable] = {}

    def pages_for(self, num_tokens: int) -> int:
        """How many pages hold `num_tokens`."""
        return -(-num_tokens // self.page_size)

    @property
    def available(self) -> int:
        """Pages that are neither in use nor promised."""
        return len(self._free) - sum(table.reserved for table in self._tables.values())

    def fits(self, max_tokens: int) -> bool:
        """Whether a sequence of up to `max_tokens` can be admitted now."""
        return self.pages_for(max_tokens) <= self.available

    def admit(self, sequence: int, max_tokens: int) -> None:
        """Promise `sequence` enough pages for `max_tokens`. Raises ModelError when the pool could never hold them."""
        needed = self.pages_for(max_tokens)
        if needed > self.available:
            raise ModelError(
                f"{max_tokens} tokens need {needed} KV pages of {self.page_size} tokens, the pool has "
                f"{self.available} left of {self.num_pages}; lower max_tokens or raise kv_cache_bytes"
            )
        self._tables[sequence] = BlockTable(self.page_size, needed)

    def grow(self, sequence: int, num_tokens: int) -> BlockTable:
        """Give `sequence` the pages that `num_tokens` need, and return its block table."""
        table = self._tables[sequence]
        while len(table.pages) * self.page_size < num_tokens:
            table.pages.append(self._free.pop())
            table.reserved -= 1
        return table

    def release(self, sequence: int) -> None:
        """Take back the pages and the promise of a sequence."""
        self._free.extend(reversed(self._tables.pop(sequence).pages))
