"""Figures of a tensor: range, mean, spread, what is not finite, and a histogram in text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS, BAR = 8, 40  # bins of a histogram, and characters of its longest bar


@dataclass
class Figures:
    """Of all values: how many, and how many are NaN, infinite or zero. Of the finite ones: range, sum, sum of squares.

    The sums are float64; the standard deviation comes from deviations from the mean, in a second pass.
    """

    count: int = 0
    nans: int = 0
    infs: int = 0
    zeros: int = 0
    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0
    squares: float = 0.0  # of the deviations from the mean

    @property
    def finite(self) -> int:
        """How many values are neither NaN nor infinite."""
        return self.count - self.nans - self.infs

    @property
    def mean(self) -> float:
        """Of the finite values; NaN where there is none."""
        return self.total / self.finite if self.finite else float("nan")

    @property
    def std(self) -> float:
        """The standard deviation of the finite values; NaN where there is none."""
        return float(np.sqrt(self.squares / self.finite)) if self.finite else float("nan")

    def line(self) -> str:
        """All of it in one line."""
        spread = f"min {self.low:.4g}  max {self.high:.4g}  mean {self.mean:.4g}  std {self.std:.4g}"
        counts = f"zeros {self.zeros:,}  NaN {self.nans:,}  Inf {self.infs:,}"
        return f"{spread}  {counts}" if self.finite else f"no finite value  {counts}"


Parts = Callable[[], Iterable[NDArray]]


def figures_of(parts: Parts) -> Figures:
    """The figures of values that come in parts; `parts` gives them anew at each call, and is called twice."""
    figures = Figures()
    for part in parts():
        finite = _finite(part)
        figures.count += part.size
        figures.nans += int(np.isnan(part).sum())
        figures.infs += int(np.isinf(part).sum())
        figures.zeros += int((part == 0).sum())
        figures.total += float(finite.sum())
        figures.low, figures.high = finite.min(initial=figures.low), finite.max(initial=figures.high)
    for part in parts():
        figures.squares += float(((_finite(part) - figures.mean) ** 2).sum())
    return figures


def histogram(parts: Parts, figures: Figures) -> list[str]:
    """A line a bin: its lower edge, a bar, and how many of the finite values lie in it."""
    if not figures.finite or not figures.low < figures.high:
        return []
    counts, edges = np.zeros(BINS, np.int64), np.linspace(figures.low, figures.high, BINS + 1)
    for part in parts():
        counts += np.histogram(_finite(part), bins=edges)[0]
    longest = counts.max()
    return [
        f"{edge:>11.4g}  {'#' * _length(int(count), int(longest)):<{BAR}}  {count:,}"
        for edge, count in zip(edges, counts, strict=False)
    ]


def _length(count: int, longest: int) -> int:
    """Of a bar: at least one character for a bin that holds anything."""
    return max(count * BAR // longest, min(count, 1))


def _finite(part: NDArray) -> NDArray[np.float64]:
    wide: NDArray[np.float64] = part.astype(np.float64)
    return wide[np.isfinite(wide)]
