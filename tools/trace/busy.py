"""How long the device was busy, over a trace of any length."""

from __future__ import annotations

from collections.abc import Iterable

from tools.trace.events import Span, busy_us

KEPT = 8192  # spans: more than the steps that are under way at once have


class Busy:
    """Adds up when at least one of many spans ran, what overlaps counted once. Only the latest spans are kept.

    They come about in order: one may begin before others that came earlier, if not before those of KEPT / 2 spans ago;
    of such a one, what lies before them is not counted.
    """

    def __init__(self) -> None:
        self._latest: list[Span] = []
        self._counted_us, self._until = 0.0, float("-inf")
        self.first_us, self.last_us = float("inf"), float("-inf")

    def add(self, work: Iterable[Span]) -> None:
        """Spans, in microseconds."""
        for start, end in work:
            self.first_us, self.last_us = min(self.first_us, start), max(self.last_us, end)
            self._latest.append((max(start, self._until), max(end, self._until)))
        if len(self._latest) > KEPT:
            self._count_oldest(KEPT // 2)

    def _count_oldest(self, count: int) -> None:
        self._latest.sort()
        oldest, rest = self._latest[:count], self._latest[count:]
        self._counted_us += busy_us(oldest)
        self._until = max(end for _, end in oldest)
        self._latest = [(max(start, self._until), max(end, self._until)) for start, end in rest]

    @property
    def is_empty(self) -> bool:
        """Whether there were none."""
        return self.last_us < self.first_us

    @property
    def us(self) -> float:
        """The time in which at least one ran."""
        return self._counted_us + busy_us(self._latest)
