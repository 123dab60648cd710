"""What a trace is told of each step: who runs, which pages hold whom, who waits.

A note is a dictionary that JSON can hold:

    kind "step"    step: its number
    decodes        [[request, position]]: who runs one token             prefills: [[request, start, stop]]
    copies         [[source, target, tokens]]: pages copied on write     tables: {request: [pages]}, see below
    preempted      requests that had to give their pages back            released: requests that ended
    num_pages, page_size    of the pool      free: pages that nobody holds
    cached         those of them whose contents a later prompt can find
    waiting, running        how many requests

A request is known by its number, as text where it is a key. `tables` has only those block tables that are not what they
were at the note before: all of them together follow from all notes so far. Where the listeners are others than at the
note before, it has all of them.
"""

from __future__ import annotations

from bindings.trace import Event, recorder
from engine.request import Request
from engine.scheduler import Batch, Scheduler


class StepNotes:
    """Remembers what the last note said, so that the next one says what is new."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._told: dict[int, tuple[Request, list[int]]] = {}
        self._audience = recorder.audience

    def of(self, batch: Batch) -> Event:
        """The note of a step that is about to run."""
        scheduler, pool = self._scheduler, self._scheduler.cache.pool
        gone = self._forget_gone()
        self._tell_a_new_audience_all()
        return {
            "kind": "step",
            "step": batch.number,
            "decodes": [[r.index, p] for r, p in zip(batch.decodes, batch.positions, strict=True)],
            "prefills": [[piece.request.index, piece.start, piece.stop] for piece in batch.prefills],
            "copies": [list(copy) for wave in batch.copies for copy in wave],
            "tables": self._changed_tables(),
            "preempted": [request.index for request in gone if not request.answer.finished],
            "released": [request.index for request in gone if request.answer.finished],
            "num_pages": pool.num_pages,
            "page_size": scheduler.cache.page_size,
            "free": pool.num_free,
            "cached": pool.cached,
            "waiting": len(scheduler.waiting),
            "running": len(scheduler.running),
        }

    def _forget_gone(self) -> list[Request]:
        """Those that held pages at the last note, and hold none now."""
        gone = [request for request, _ in self._told.values() if request.row < 0]
        for request in gone:
            del self._told[request.index]
        return gone

    def _tell_a_new_audience_all(self) -> None:
        """Who begins to listen in the middle of a run has heard of no table yet."""
        if recorder.audience != self._audience:
            self._audience = recorder.audience
            self._told = {index: (request, []) for index, (request, _) in self._told.items()}

    def _changed_tables(self) -> dict[str, list[int]]:
        changed = {}
        for request in self._scheduler.running:
            pages = self._scheduler.cache.table(request).pages
            if request.index not in self._told or self._told[request.index][1] != pages:
                self._told[request.index] = request, list(pages)
                changed[str(request.index)] = list(pages)
        return changed
