"""Two kernels timed in turns, and how sure the difference is.

Both run on the same buffers, in alternating order, so that clocks, temperature and whatever else the machine does meet
both alike: what counts is the difference of each pair. Its median has a confidence interval that assumes nothing about
how times are spread: n pairs lie on both sides of the true median as coins fall (the sign test's interval).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.device import Device
    from bindings.kernel import KernelLibrary
    from tools.microtest.timing import Launches

CONFIDENCE = 0.95
PAIRS = {"cuda": 41, "cpu": 15}


@dataclass(frozen=True)
class Difference:
    """Of `after` against `before`. change: median of after / before - 1 over the pairs; low, high: where the true
    median lies with 95 % confidence."""

    before: float
    after: float
    change: float
    low: float
    high: float

    @property
    def seen(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high

    def __str__(self) -> str:
        interval = f"{100 * self.low:+.1f} to {100 * self.high:+.1f} %"
        if not self.seen:
            return f"no difference seen ({interval})"
        return f"{abs(100 * self.change):.1f} % {'slower' if self.change > 0 else 'faster'} ({interval})"


def in_turns(before: Launches, after: Launches, pairs: int) -> Difference:
    """Sample both `pairs` times, each first in every other pair."""
    first, second = [], []
    for pair in range(pairs):
        if pair % 2:
            first.append(before.sample())
            second.append(after.sample())
        else:
            second.append(after.sample())
            first.append(before.sample())
    return difference(first, second)


def difference(before: Sequence[float], after: Sequence[float]) -> Difference:
    """The difference of paired samples, six or more."""
    changes = sorted(b / a - 1 for a, b in zip(before, after, strict=True))
    rank = _rank(len(changes))
    middle = (statistics.median(values) for values in (before, after, changes))
    return Difference(*middle, changes[rank], changes[-1 - rank])


def _rank(count: int) -> int:
    """The largest r such that the r-th smallest and the r-th largest of `count` enclose the median at CONFIDENCE."""
    outside, rank = 0.0, -1
    while True:
        outside += 2 * comb(count, rank + 1) / 2**count
        if outside > 1 - CONFIDENCE:
            break
        rank += 1
    assert rank >= 0, f"{count} pairs are too few for an interval"
    return rank


@contextmanager
def using(device: Device, library: KernelLibrary) -> Iterator[None]:
    """Inside the `with`, operations take their kernels from `library`."""
    usual, device.kernels = device.kernels, library
    try:
        yield
    finally:
        device.kernels = usual
