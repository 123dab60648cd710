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
MOST_ROWS = 12  # of cells; a larger pool shows those rows in which somebody holds a page
PIPE_WIDTH = 96  # columns where there is no terminal

Holders = dict[int, list[int]]  # of each page that is held: who


class Pool:
    """The block tables as they follow from all notes so far. Pages below `known` were used."""

    def __init__(self) -> None:
        self.tables: dict[int, list[int]] = {}
        self.cached: set[int] = set()
        self.num_pages = self.known = 0

    def apply(self, note: Mapping[str, Any]) -> None:
        """Move on to the step of `note`."""
        for request in (*note["released"], *note["preempted"]):
            self.tables.pop(request, None)
        self.tables |= {int(request): pages for request, pages in note["tables"].items()}
        self.cached, self.num_pages = set(note["cached"]), note["num_pages"]
        used = [page for pages in self.tables.values() for page in pages]
        self.known = max([self.known, *(page + 1 for page in (*used, *self.cached))])

    def holders(self) -> Holders:
        """Who holds each page that is held."""
        found: Holders = {}
        for request, pages in self.tables.items():
            for page in pages:
                found.setdefault(page, []).append(request)
        return found


class PagesView:
    """The view: a few lines a step, one line for steps that change nothing.

    `steps`: ranges of those to show; None: all. `fold` False: every step on its own.
    """

    def __init__(self, screen: Screen, steps: Ranges | None = None, fold: bool = True) -> None:
        self._screen, self._wanted, self._fold = screen, steps, fold
        self._width = screen.width or PIPE_WIDTH
        self._pool = Pool()
        self._before: Event | None = None  # the step before
        self._quiet: list[Event] = []  # steps since then in which nothing happened but a token each

    def header(self, header: Mapping[str, Any]) -> None:
        """Say how to read the cells."""
        for line in (
            "The pool of KV pages, a cell a page: a digit or letter is the request that holds it,",
            f"{SHARED} is held by several, {CACHED} by none, though a prompt that begins alike finds it; {FREE} free.",
        ):
            self._screen.line(self._screen.paint(line, "dim"))

    def call(self, event: Event) -> None:
        """Calls are for other views."""

    def note(self, note: Event) -> None:
        """One step."""
        if note.get("kind") != "step":
            return
        if self._before is None or note["step"] <= self._before["step"]:  # each engine counts its steps from 1
            self._begin(note)
        if self._wanted is not None and not among(note["step"], self._wanted):
            self._pool.apply(note)
        elif self._fold and self._before is not None and is_quiet(note, self._before):
            self._quiet.append(note)
        else:
            self._tell_quiet()
            self._show(note)
        self._before = note

    def _begin(self, note: Event) -> None:
        """An engine's first step: all its pages are free."""
        self._tell_quiet()
        what = "There are" if self._before is None else "Another engine has"
        size = f"{counted(note['num_pages'], 'page')} of {counted(note['page_size'], 'token')} each"
        self._screen.line(self._screen.paint(f"{what} {size}.", "dim"))
        self._pool, self._before = Pool(), None

    def _show(self, note: Event) -> None:
        had = set(self._pool.tables) - set(note["preempted"])
        self._pool.apply(note)
        self._screen.line(self._who(note))
        for sentence in [*self._lost(note), *self._tables(note, had), *self._copied(note)]:
            self._say(sentence)
        self._cells()

    def _tell_quiet(self) -> None:
        """The steps that were held back, in one line."""
        steps, self._quiet = self._quiet, []
        if len(steps) > 1:
            who = " ".join(self._number(request) for request, _ in steps[0]["decodes"])
            title = self._screen.paint(f"steps {steps[0]['step']} to {steps[-1]['step']}", "bold")
            self._say(f"{title}: decodes {who}, a token each in every step; no page changes hands", 0)
        elif steps:
            self._screen.line(self._who(steps[0]))

    def close(self) -> None:
        """A program without steps has no pages."""
        self._tell_quiet()
        if self._before is None:
            self._screen.line("no step of an engine was seen, so there are no KV pages to show")

    def _number(self, request: int) -> str:
        return self._screen.sequence(str(request), request)

    def _named(self, request: int) -> str:
        """ "request 3"; from 10 on with its sign in the cells: "request 12 (C)"."""
        sign = "" if request < 10 else f" ({sign_of(request, self._screen)})"
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
            f"{self._named(r)} is preempted: memory was short, its pages went back, and it will begin anew"
            for r in note["preempted"]
        ]
        return preempted + [f"{self._named(r)} has ended, and holds no page any more" for r in note["released"]]

    def _tables(self, note: Event, had: set[int]) -> list[str]:
        """Each block table that changed; of a request that joins, also what it found there."""
        changed = {int(request): pages for request, pages in note["tables"].items()}
        held: Holders = {}
        for request in [other for other in self._pool.tables if other not in changed] + [
            r for r in changed if r in had
        ]:
            for page in self._pool.tables[request]:
                held.setdefault(page, []).append(request)
        sentences = []
        for request, pages in changed.items():
            words = f"{self._named(request)} has the block table [{_listed(pages)}]"
            joins = request not in had
            sentences.append(words + (self._found(note, request, held) if joins else ""))
            for page in pages if joins else ():
                held.setdefault(page, []).append(request)
        return sentences

    def _found(self, note: Event, request: int, held: Holders) -> str:
        """What a request that joins did not have to compute. `held`: by those who were there before it."""
        pages = self._pool.tables[request]
        start = next(where for who, where, *_ in (*note["prefills"], *note["decodes"], (request, 0)) if who == request)
        shared = [page for page in pages if page in held]
        revived = [page for page in pages[: start // note["page_size"]] if page not in held]
        words = ""
        if shared:
            others = sorted({other for page in shared for other in held[page]})
            words += f"; it shares {_pages(shared)} with {', '.join(self._named(other) for other in others)}"
        if revived:
            words += f"; it takes {_pages(revived)} back from the cache"
        return words + (f", so its first {counted(start, 'token')} need no computing" if start and words else "")

    def _copied(self, note: Event) -> list[str]:
        return [
            f"copy-on-write: page {source} is shared and about to be written to, so its first"
            f" {counted(tokens, 'token')} are copied to page {target}"
            for source, target, tokens in note["copies"]
        ]

    def _say(self, sentence: str, indent: int = 2) -> None:
        for line in wrapped(sentence.split(" "), self._width - indent, self._width, indent):
            self._screen.line(" " * indent + line)

    def _cells(self) -> None:
        """The pool as rows of cells; of a large one only as far as it was ever used."""
        row = max((self._width - MARGIN) // 16 * 16, 16)
        held = self._pool.holders()
        starts = list(range(0, self._pool.known, row))
        if len(starts) > MOST_ROWS:
            starts = [start for start in starts if any(page in held for page in range(start, start + row))][:MOST_ROWS]
        for start in starts:
            pages = range(start, min(start + row, self._pool.known))
            cells = [cell(page, held, self._pool.cached, self._screen) for page in pages]
            self._screen.line(f"{start:>{MARGIN - 2}}  {''.join(cells)}")
        shown = sum(min(row, self._pool.known - start) for start in starts)
        if shown < self._pool.num_pages:
            more = f"{'':>{MARGIN}}and {counted(self._pool.num_pages - shown, 'page')} more"
            self._screen.line(self._screen.paint(more, "dim"))


def cell(page: int, held: Holders, cached: set[int], screen: Screen) -> str:
    """One page: who holds it, or why nobody does."""
    holders = held.get(page, [])
    if not holders:
        return screen.paint(CACHED if page in cached else FREE, "dim")
    return screen.paint(SHARED, "error") if len(holders) > 1 else sign_of(holders[0], screen)


def is_quiet(note: Event, before: Event) -> bool:
    """Whether in a step the same requests as in the one before get a token each, and nothing else happens."""
    happens = any(note[what] for what in ("prefills", "copies", "tables", "preempted", "released"))
    decodes, decoded = ([request for request, _ in one["decodes"]] for one in (note, before))
    same = all(note[what] == before[what] for what in ("free", "cached", "waiting", "running"))
    return not happens and decodes == decoded and same


def sign_of(request: int, screen: Screen) -> str:
    """A request's character in the cells, in its colour; they come round again."""
    return screen.sequence(SIGNS[request % len(SIGNS)], request)


def _pages(pages: Sequence[int]) -> str:
    return f"{'page' if len(pages) == 1 else 'pages'} {_listed(pages)}"


def _listed(pages: Sequence[int]) -> str:
    """Pages in their order; of three or more in a row the ends, "3-7"."""
    runs: list[list[int]] = []
    for page in pages:
        if runs and page == runs[-1][-1] + 1:
            runs[-1].append(page)
        else:
            runs.append([page])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else " ".join(map(str, run)) for run in runs)
