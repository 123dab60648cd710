"""The KV cache step by step: who was batched, which pages hold whom, what is shared, copied, taken back.

The pool is a strip of cells, one a page: a request by its number, # shared, c cached, . free.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from bindings.trace import Event
from tools.trace.filters import Ranges, among
from tools.trace.terminal import Screen, wrapped
from tools.trace.units import counted

SIGNS = "".join(sign for sign in string.digits + string.ascii_uppercase + string.ascii_lowercase if sign != "c")
SHARED, CACHED, FREE = "#", "c", "."
MARGIN = 9  # columns before the cells: the number of the row's first page
MOST_ROWS = 12  # of cells; a larger pool shows those of its pages that somebody holds
PIPE_WIDTH = 96  # columns where there is no terminal


class Pool:
    """The block tables as they follow from all notes so far."""

    def __init__(self) -> None:
        self.tables: dict[int, list[int]] = {}
        self.cached: set[int] = set()
        self.num_pages = self.page_size = 0
        self.known = 0  # pages below this one were used

    def apply(self, note: Mapping[str, Any]) -> None:
        """Move on to the step of `note`."""
        for request in (*note["released"], *note["preempted"]):
            self.tables.pop(request, None)
        self.tables |= {int(request): pages for request, pages in note["tables"].items()}
        self.cached = set(note["cached"])
        self.num_pages, self.page_size = note["num_pages"], note["page_size"]
        used = [page for pages in self.tables.values() for page in pages]
        self.known = max([self.known, *(page + 1 for page in (*used, *self.cached))])

    def holders(self) -> dict[int, list[int]]:
        """The sequences that hold each page that is held."""
        found: dict[int, list[int]] = {}
        for request, pages in self.tables.items():
            for page in pages:
                found.setdefault(page, []).append(request)
        return found


class PagesView:
    """The view: a few lines a step. `steps`: ranges of those to show; None: all."""

    def __init__(self, screen: Screen, steps: Ranges | None = None) -> None:
        self._screen, self._wanted = screen, steps
        self._width = screen.width or PIPE_WIDTH
        self._pool = Pool()
        self._seen: set[int] = set()
        self._steps = 0

    def header(self, header: Mapping[str, Any]) -> None:
        """Say how to read the cells."""
        for line in (
            "The pool of KV pages, a cell a page: a digit or letter is the request that holds it,",
            f"{SHARED} is held by several, {CACHED} by none, though a prompt that begins alike finds it, {FREE} is free.",
        ):
            self._screen.line(self._screen.paint(line, "dim"))

    def call(self, event: Event) -> None:
        """Calls are for other views."""

    def note(self, note: Event) -> None:
        """One step."""
        if note.get("kind") != "step":
            return
        self._steps += 1
        was_held, was_cached = self._pool.holders(), self._pool.cached
        self._pool.apply(note)
        if self._wanted is not None and not among(note["step"], self._wanted):
            return
        self._screen.line(self._who(note))
        for sentence in [*self._lost(note), *self._tables(note, was_held, was_cached), *self._copied(note)]:
            self._say(sentence)
        self._cells(note)

    def close(self) -> None:
        """A program without steps has no pages."""
        if not self._steps:
            self._screen.line("no step of an engine was seen, so there are no KV pages to show")

    def _number(self, request: int) -> str:
        return self._screen.sequence(str(request), request)

    def _named(self, request: int) -> str:
        """ "request 3"; from 10 on with its sign in the cells: "request 12 (C)"."""
        sign = "" if request < 10 else f" ({self._screen.sequence(_sign(request), request)})"
        return f"request {self._number(request)}{sign}"

    def _who(self, note: Event) -> str:
        """ "step 4: decodes 0@12 1@9; prefills 2[0:20]; 1 waiting; 7 of 64 pages held, 2 cached"."""
        parts = []
        if note["decodes"]:
            parts.append("decodes " + " ".join(f"{self._number(r)}@{position}" for r, position in note["decodes"]))
        if note["prefills"]:
            parts.append("prefills " + " ".join(f"{self._number(r)}[{a}:{b}]" for r, a, b in note["prefills"]))
        if note["waiting"]:
            parts.append(f"{note['waiting']} waiting")
        held = note["num_pages"] - note["free"]
        parts.append(f"{held} of {counted(note['num_pages'], 'page')} held, {len(note['cached'])} cached")
        return self._screen.paint(f"step {note['step']}", "bold") + ": " + "; ".join(parts)

    def _lost(self, note: Event) -> list[str]:
        preempted = [
            f"{self._named(r)} is preempted: memory was short, its pages went back, and it will compute them anew"
            for r in note["preempted"]
        ]
        return preempted + [f"{self._named(r)} has ended: its pages are free" for r in note["released"]]

    def _tables(self, note: Event, was_held: Mapping[int, list[int]], was_cached: set[int]) -> list[str]:
        """Each block table that changed, with what was found in it: pages of others, and pages that nobody held."""
        sentences = []
        for name, pages in note["tables"].items():
            request = int(name)
            new = request not in self._seen or request in note["preempted"] or not _continues(request, was_held)
            self._seen.add(request)
            words = f"{self._named(request)} block table: {_listed(pages)}"
            sentences.append(words + (self._found(note, request, pages, was_held, was_cached) if new else ""))
        return sentences

    def _found(
        self, note: Event, request: int, pages: Sequence[int], was_held: Mapping[int, list[int]], was_cached: set[int]
    ) -> str:
        """What a sequence that joins did not have to compute."""
        held = self._pool.holders()
        shared = [page for page in pages if len(held[page]) > 1]
        revived = [page for page in pages if page in was_cached and len(held[page]) == 1 and page not in was_held]
        start = next((piece[1] for piece in note["prefills"] if piece[0] == request), 0)
        words = ""
        if shared:
            others = sorted({other for page in shared for other in held[page]} - {request})
            words += f"; {_listed(shared)} shared with {', '.join(self._number(other) for other in others)}"
        if revived and start:
            words += f"; {_listed(revived)} taken from the cache"
        return words + (f": its first {start} tokens need no computing" if start and words else "")

    def _copied(self, note: Event) -> list[str]:
        return [
            f"copy-on-write: page {source} is shared and about to be written to, so its first"
            f" {counted(tokens, 'token')} are copied to page {target}"
            for source, target, tokens in note["copies"]
        ]

    def _say(self, sentence: str) -> None:
        for line in wrapped(sentence.split(" "), self._width - 2, self._width, 2):
            self._screen.line(f"  {line}")

    def _cells(self, note: Event) -> None:
        """The pool as rows of cells; of a large one only as far as it was ever used."""
        row = max((self._width - MARGIN) // 8 * 8, 8)
        held = self._pool.holders()
        starts = range(0, self._pool.known, row)
        if len(starts) > MOST_ROWS:
            starts = [start for start in starts if any(page in held for page in range(start, start + row))][:MOST_ROWS]
        for start in starts:
            cells = [self._cell(page, held) for page in range(start, min(start + row, self._pool.known))]
            self._screen.line(f"{start:>{MARGIN - 2}}  {''.join(cells)}")
        shown = sum(min(row, self._pool.known - start) for start in starts)
        if shown < self._pool.num_pages:
            more = f"{'':>{MARGIN}}and {counted(self._pool.num_pages - shown, 'page')} more"
            self._screen.line(self._screen.paint(more, "dim"))

    def _cell(self, page: int, held: Mapping[int, list[int]]) -> str:
        holders = held.get(page, [])
        if not holders:
            return self._screen.paint(CACHED if page in self._pool.cached else FREE, "dim")
        if len(holders) > 1:
            return self._screen.paint(SHARED, "error")
        return self._screen.sequence(_sign(holders[0]), holders[0])


def _sign(request: int) -> str:
    return SIGNS[request % len(SIGNS)]


def _continues(request: int, was_held: Mapping[int, list[int]]) -> bool:
    return any(request in holders for holders in was_held.values())


def _listed(pages: Sequence[int]) -> str:
    """Pages in their order, with runs as "3-7"."""
    runs: list[list[int]] = []
    for page in pages:
        if runs and page == runs[-1][-1] + 1:
            runs[-1].append(page)
        else:
            runs.append([page])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"{'page' if len(pages) == 1 else 'pages'} {' '.join(words)}"
