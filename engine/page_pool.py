"""The pages of the KV cache: who holds each one, and which of them hold keys and values worth keeping.

A page may be held by several sequences (a shared prompt) and by none. One that nobody holds can be given out again, but
until then its contents stay: a full page is named by the hash of its tokens and all tokens before them (hash chaining,
as in vLLM's automatic prefix caching), so that a later prompt with the same beginning takes it back instead of
computing it anew. Pages are given out in the order in which they were let go: the least recently used first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PageName = bytes

ROOT: PageName = b""  # what comes before the first page


def page_name(parent: PageName, token_ids: Sequence[int]) -> PageName:
    """The name of a full page: 16 bytes that stand for its tokens and, through `parent`, for all before them.

    A cryptographic hash: two prompts must not meet in one page by accident, nor by somebody's design.
    """
    return hashlib.blake2b(parent + array("q", token_ids).tobytes(), digest_size=16).digest()


@dataclass
class Page:
    """`holders` counts the block tables that list it; `name` is set once it is full and can be found."""

    holders: int = 0
    name: PageName | None = None


class PagePool:
    """`num_pages` pages, numbered from 0."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._pages = [Page() for _ in range(num_pages)]
        self._free: OrderedDict[int, None] = OrderedDict((number, None) for number in range(num_pages))
        self._named: dict[PageName, int] = {}

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def cached(self) -> list[int]:
        """The pages that nobody holds but whose contents can still be found."""
        return [number for number in self._named.values() if self._pages[number].holders == 0]

    def holders(self, page: int) -> int:
        """How many block tables list `page`."""
        return self._pages[page].holders

    def take(self) -> int:
        """A page to write to, held once. What it held is forgotten. Raises IndexError when none is free."""
        if not self._free:
            raise IndexError("every page of the KV cache is held")
        number, _ = self._free.popitem(last=False)
        page = self._pages[number]
        self._forget(page)
        page.holders = 1
        return number

    def share(self, number: int) -> None:
        """Hold a page once more; one that was free is taken back with its contents."""
        page = self._pages[number]
        if page.holders == 0:
            del self._free[number]
        page.holders += 1

    def release(self, numbers: Iterable[int]) -> None:
        """Let go of each page once. The last ones of a sequence are given out again first: a prefix is worth more."""
        for number in numbers:
            page = self._pages[number]
            assert page.holders > 0, f"page {number} is let go of, but nobody holds it"
            page.holders -= 1
            if page.holders == 0:
                self._free[number] = None
                self._free.move_to_end(number, last=page.name is not None)  # without a name nobody can ask for it

    def remember(self, number: int, name: PageName) -> None:
        """Make a full page known by `name`, unless another page is already."""
        if name not in self._named:
            self._named[name] = number
            self._pages[number].name = name

    def find(self, name: PageName) -> int | None:
        """The page of that name, held or not."""
        return self._named.get(name)

    def _forget(self, page: Page) -> None:
        if page.name is not None:
            del self._named[page.name]
            page.name = None
