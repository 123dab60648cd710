"""The pages of the KV cache as the steps' notes tell of them (engine/step_notes.py): who holds which."""

from __future__ import annotations

from typing import Any

from bindings.trace import Event
from tools.trace import kv_pages
from tools.trace.debugger.errors import CommandError
from tools.trace.kv_pages import CACHED, FREE, SHARED
from tools.trace.terminal import Screen
from tools.trace.units import counted

ROW = 64  # pages in a line of the grid


class Pool(kv_pages.Pool):
    """What all notes so far come to. `step` is the last one, {} before the first.

    computed: how many tokens of each request have their keys and values in the pages, this step's included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step: dict[str, Any] = {}
        self.computed: dict[int, int] = {}

    def take(self, note: Event) -> None:
        """A step is about to run."""
        if note["kind"] != "step":
            return
        if note["step"] == 1:  # another engine of the same program numbers its requests anew
            self.__init__()  # type: ignore[misc]
        self.apply(note)
        self.step = note
        for request in (*note["released"], *note["preempted"]):
            self.computed.pop(request, None)
        self.computed |= {request: position + 1 for request, position in note["decodes"]}
        self.computed |= {request: stop for request, _, stop in note["prefills"]}

    def known_step(self) -> dict[str, Any]:
        """The last step's note. Raises CommandError before the first step."""
        if not self.step:
            raise CommandError("the engine has not begun a step yet; the command step goes to the first one")
        return self.step

    def request(self, text: str) -> int:
        """The request of that number, without one the first of this step. Raises CommandError when it has no pages."""
        note = self.known_step()
        batched = [entry[0] for entry in (*note["decodes"], *note["prefills"])]
        if not text:
            return int(batched[0])
        if not text.isdecimal() or int(text) not in self.tables:
            holders = ", ".join(map(str, sorted(self.tables)))
            raise CommandError(f"no request {text} holds pages; those that do: {holders}")
        return int(text)

    def now(self, request: int) -> range:
        """The token positions of a request that this step computes; none where it is not of the step."""
        for entry in self.step["decodes"]:
            if entry[0] == request:
                return range(entry[1], entry[1] + 1)
        return next((range(start, stop) for one, start, stop in self.step["prefills"] if one == request), range(0))


def batch_lines(pool: Pool) -> list[str]:
    """Who runs in this step, and who does not."""
    note = pool.known_step()
    lines = [f"step {note['step']}: {note['running']} running, {note['waiting']} waiting"]
    lines += [f"  request {request} decodes: its token {position}" for request, position in note["decodes"]]
    lines += [
        f"  request {request} prefills: its tokens {start} to {stop - 1}" for request, start, stop in note["prefills"]
    ]
    lines += [
        f"  copy on write: the first {tokens} tokens of page {source} go to page {target}"
        for source, target, tokens in note["copies"]
    ]
    for word in ("preempted", "released"):
        lines += (
            [f"  {word} before it: {', '.join(f'request {number}' for number in note[word])}"] if note[word] else []
        )
    return lines


def grid_lines(pool: Pool, screen: Screen) -> list[str]:
    """A character a page: the request that holds it, or why nobody does. Lines of free pages are left out."""
    note, held = pool.known_step(), pool.holders()
    starts = range(0, pool.num_pages, ROW)
    used = [start for start in starts if any(page in held or page in pool.cached for page in range(start, start + ROW))]
    lines = [f"{counted(pool.num_pages, 'page')} of {note['page_size']} tokens, {note['free']} held by nobody"]
    for start in used:
        cells = [
            kv_pages.cell(page, held, pool.cached, screen) for page in range(start, min(start + ROW, pool.num_pages))
        ]
        lines.append(f"{start:>7}  {''.join(cells)}")
    if len(used) < len(starts):
        lines.append(f"    ...  {counted(len(starts) - len(used), 'more line')} of free pages")
    return [*lines, f"  {_legend(pool, screen)}"]


def _legend(pool: Pool, screen: Screen) -> str:
    """What the characters of the grid stand for."""
    requests = [f"{kv_pages.sign_of(number, screen)} request {number}" for number in sorted(pool.tables)]
    rest = f"{SHARED} several requests, {CACHED} nobody, though a prompt that begins alike finds it, {FREE} free"
    return ", ".join([*requests, rest])


def table_lines(pool: Pool, request: int) -> list[str]:
    """The block table of a request: which tokens lie in which page."""
    size, computed, holders = pool.known_step()["page_size"], pool.computed.get(request, 0), pool.holders()
    lines = [f"request {request}: {len(pool.tables[request])} pages of {size} tokens; {computed} tokens computed"]
    for number, page in enumerate(pool.tables[request]):
        tokens = f"tokens {number * size} to {number * size + size - 1}"
        others = [str(other) for other in holders[page] if other != request]
        shared = f"   shared with request {', '.join(others)}" if others else ""
        lines.append(f"  table[{number}] = page {page:<6} {tokens}{shared}")
    return lines
