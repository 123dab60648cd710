"""The paged KV cache (PagedAttention, Kwon et al. 2023): which pages hold which sequence.

Keys and values of a sequence lie in pages of a fixed number of tokens, anywhere in one pool. A sequence's block table
lists its pages in order; token position p lies in page `table[p // page_size]`, at `p % page_size`. Its slot number in
the whole pool is `page * page_size + p % page_size`. So memory is given out a page at a time as a sequence grows, and
at most one page less a token is wasted per sequence.

Sequences share pages in two ways. A full page is known by the hash of its tokens, so a prompt that begins like an
earlier one takes its pages. And the answers to one prompt begin with all its pages, the last one too, which may be half
full: whoever writes into a page that others hold gets a copy of it first (copy-on-write).

Pure bookkeeping: the device memory itself belongs to the engine. Who holds a page: page_pool.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelError
from engine.page_pool import ROOT, PageName, PagePool, page_name
from engine.request import Request


@dataclass
class BlockTable:
    """The pages of one sequence, in order of position. The first `num_named` of them can be found by their names."""

    pages: list[int] = field(default_factory=list)
    num_named: int = 0


class PageCopy(NamedTuple):
    """The first `tokens` tokens of page `source`, which are all that it is shared for, go to page `target`."""

    source: int
    target: int
    tokens: int


@dataclass
class CacheStatistics:
    """Tokens of admitted requests, how many of them were found in pages computed before, and pages copied on write."""

    tokens: int = 0
    hit_tokens: int = 0
    copied_pages: int = 0


class KVCache:
    """A pool of `num_pages` pages of `page_size` tokens, and the block tables of up to `max_seqs` running requests.

    block_tables: i32[max_seqs, M], row `request.row` for each, as attention reads them.
    """

    def __init__(
        self, num_pages: int, page_size: int, max_seqs: int, max_pages_per_seq: int, prefix_caching: bool = True
    ) -> None:
        self.num_pages, self.page_size, self.prefix_caching = num_pages, page_size, prefix_caching
        self.pool = PagePool(num_pages)
        self.statistics = CacheStatistics()
        self.block_tables = np.zeros((max_seqs, max_pages_per_seq), np.int32)
        self._tables: list[BlockTable] = [BlockTable() for _ in range(max_seqs)]  # by row
        self._free_rows = list(reversed(range(max_seqs)))
        self._copies: list[PageCopy] = []  # to be done before the next step

    def pages_for(self, num_tokens: int) -> int:
        """How many pages hold `num_tokens`."""
        return -(-num_tokens // self.page_size)

    @property
    def available(self) -> int:
        """Pages that nobody holds."""
        return self.pool.num_free

    def table(self, request: Request) -> BlockTable:
        """The block table of a request that was admitted."""
        assert request.row >= 0, f"request {request.index} holds no pages"
        return self._tables[request.row]

    def slots(self, request: Request, start: int, stop: int) -> NDArray[np.int32]:
        """The slot numbers of the token positions `start:stop` of a request, which lie in its pages."""
        positions = np.arange(start, stop, dtype=np.int32)
        pages = self.block_tables[request.row][positions // self.page_size]
        return pages * self.page_size + positions % self.page_size

    def admit(self, request: Request, step: int = 0) -> int | None:
        """Open a block table; how many of the leading tokens earlier steps have computed. None if the rest has no room.

        step: the number of the step that is being scheduled.

        The last token is never counted as found: it must run, since its logits choose the next one.
        """
        shared = self._fork_pages(request, step) or self._find_prefix(request)
        found = min(len(shared) * self.page_size, len(request.token_ids) - 1)
        copied = found < len(shared) * self.page_size  # the last token's page is shared, and will be written to
        revived = sum(self.pool.holders(page) == 0 for page in shared)
        if self.pages_for(len(request.token_ids)) - len(shared) + copied > self.pool.num_free - revived:
            return None
        for page in shared:
            self.pool.share(page)
        self.open(request, shared)
        self.statistics.tokens += len(request.token_ids)
        self.statistics.hit_tokens += found
        return found

    def open(self, request: Request, shared: Sequence[int] = ()) -> None:
        """Open a block table that begins with these pages, and ask for no prefix. Raises ModelError without a row."""
        if not self._free_rows:
            raise ModelError("as many sequences run as max_num_seqs allows; wait until one of them ends")
        request.row = self._free_rows.pop()
        table = self._tables[request.row] = BlockTable()
        self._extend(request, table, shared)
        table.num_named = min(len(shared), len(request.token_ids) // self.page_size)

    def _extend(self, request: Request, table: BlockTable, pages: Iterable[int]) -> None:
        row = self.block_tables[request.row]
        for page in pages:
            row[len(table.pages)] = page
            table.pages.append(page)

    def _fork_pages(self, request: Request, step: int) -> list[int]:
        """All pages of the prompt, from the answer that computed it; none unless that runs, and an earlier step did."""
        leader = request.leader
        first_answer = len(request.token_ids) == request.num_prompt_tokens
        if leader is None or leader.row < 0 or not 0 <= leader.prompt_step < step or not first_answer:
            return []
        return self.table(leader).pages[: self.pages_for(request.num_prompt_tokens)]

    def _find_prefix(self, request: Request) -> list[int]:
        pages: list[int] = []
        if not self.prefix_caching or request.params.prompt_logprobs is not None:  # which every token must run for
            return pages
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
        """Let a request write its tokens up to `num_tokens`. False, and nothing given, if pages are short."""
        table = self.table(request)
        shared = self._shared_page(request, table)
        missing = self.pages_for(num_tokens) - len(table.pages)
        if max(missing, 0) + (shared is not None) > self.pool.num_free:
            return False
        if shared is not None:
            self._copy_on_write(request, table, shared)
        if missing > 0:
            self._extend(request, table, (self.pool.take() for _ in range(missing)))
        return True

    def add_page(self, request: Request) -> bool:
        """One more page for a request that has filled its own, which can be found now. False if none is free."""
        if self.pool.num_free == 0:
            return False
        self._extend(request, self.table(request), (self.pool.take(),))
        self.remember(request)
        return True

    def capacity(self, request: Request) -> int:
        """How many tokens the pages of a request hold."""
        return len(self.table(request).pages) * self.page_size

    def _shared_page(self, request: Request, table: BlockTable) -> int | None:
        """The number of the page that the next token is written to, if it has other holders."""
        number = request.num_computed // self.page_size
        shared = number < len(table.pages) and self.pool.holders(table.pages[number]) > 1
        return number if shared else None

    def _copy_on_write(self, request: Request, table: BlockTable, number: int) -> None:
        source, target = table.pages[number], self.pool.take()
        self._copies.append(PageCopy(source, target, request.num_computed % self.page_size))
        table.pages[number] = self.block_tables[request.row, number] = target
        table.num_named = min(table.num_named, number)
        self.pool.release([source])
        self.statistics.copied_pages += 1

    def take_copies(self) -> list[list[PageCopy]]:
        """What to copy before the next step, in waves: the copies of one may run all at once."""
        waves: list[list[PageCopy]] = []
        sources, targets = set[int](), set[int]()
        for copy in self._copies:
            if not waves or copy.source in targets or copy.target in sources | targets:
                waves.append([])
                sources, targets = set(), set()
            waves[-1].append(copy)
            sources.add(copy.source)
            targets.add(copy.target)
        self._copies.clear()
        return waves

    def remember(self, request: Request) -> None:
        """Give the request's full pages their names, so that they can be found: as far as the tokens are known."""
        if not self.prefix_caching:
            return
        table = self.table(request)
        for number in range(table.num_named, min(request.num_computed, len(request.token_ids)) // self.page_size):
            self.pool.remember(table.pages[number], self._name(request, number))
            table.num_named = number + 1

    def release(self, request: Request) -> None:
        """Close a block table and let go of its pages."""
        self.remember(request)
        self.pool.release(reversed(self._tables[request.row].pages))
        self._free_rows.append(request.row)
        request.row = -1
