"""Two arrays that should be the same, element by element, against what both may be off by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bindings import dtypes
from bindings.dtypes import DType, decode
from tools.bisect.messages import Index, Output


@dataclass(frozen=True)
class Worst:
    """The element with the largest share of its tolerance."""

    index: Index
    a: float
    b: float
    tolerance: float


@dataclass(frozen=True)
class Comparison:
    """Of two outputs: how many elements differ, how many too much, and the largest |a - b| / tolerance.

    `share` is 0 where all are the same bit for bit, above 1 where they part, and infinite for a NaN on one side alone,
    or any difference where none is allowed.
    """

    elements: int
    differing: int
    parted: int
    share: float
    worst: Worst | None

    @property
    def agrees(self) -> bool:
        """Whether every element is within tolerance."""
        return self.share <= 1


def dtype_named(name: str) -> DType:
    """`bf16` -> the DType."""
    found: DType = getattr(dtypes, name.upper())
    return found


def host(output: Output) -> NDArray:
    """The values, bf16 as float32."""
    return decode(output.values, dtype_named(output.dtype))


def same_rows(a: Output, b: Output) -> tuple[Output, Output]:
    """Both cut to the rows that both have: a matrix product may go in whole blocks of rows."""
    rows = min(len(a.values), len(b.values))
    return first_rows(a, rows), first_rows(b, rows)


def first_rows(output: Output, rows: int) -> Output:
    """The output of a matrix product cut to its first rows."""
    if len(output.values) == rows:
        return output
    lengths = output.lengths
    lengths = None if lengths is None else replace(lengths, rows=lengths.rows[:rows])
    return replace(output, values=output.values[:rows], lengths=lengths)


def compare(a: Output, b: Output, factor: float = 1.0) -> Comparison:
    """Hold two outputs of the same shape against each other; a tolerance is `factor` times the sum of both bounds."""
    differs = _differs(a, b)
    where = np.nonzero(differs)
    if not where[0].size:
        return Comparison(a.values.size, 0, 0, 0.0, None)
    left, right = (host_at(output, where) for output in (a, b))
    tolerance = factor * (_bound_at(a, left, where) + _bound_at(b, right, where))
    share = shares(left, right, tolerance)
    worst = int(np.argmax(share))
    index = tuple(int(axis[worst]) for axis in where)
    found = Worst(index, float(left[worst]), float(right[worst]), float(tolerance[worst]))
    return Comparison(a.values.size, len(share), int((~(share <= 1)).sum()), float(share[worst]), found)


def _differs(a: Output, b: Output) -> NDArray[np.bool_]:
    if a.dtype == b.dtype and a.values.dtype.kind != "f":
        return a.values != b.values  # by their bits: nothing is widened that is the same anyway
    return host(a) != host(b)


def host_at(output: Output, where: tuple[NDArray, ...]) -> NDArray[np.float64]:
    """The values at these places, as float64."""
    return decode(output.values[where], dtype_named(output.dtype)).astype(np.float64)


def _bound_at(output: Output, values: NDArray[np.float64], where: tuple[NDArray, ...]) -> NDArray[np.float64]:
    absolute = np.broadcast_to(np.asarray(output.absolute), output.values.shape)[where]
    product = 0.0 if output.lengths is None else output.lengths.error * output.lengths.at(where)
    return output.relative * np.abs(np.where(np.isfinite(values), values, 0.0)) + absolute + product


def shares(a: NDArray[np.float64], b: NDArray[np.float64], tolerance: NDArray[np.float64]) -> NDArray[np.float64]:
    """|a - b| / tolerance: 0 where both are equal, or both NaN; infinite where that is no number otherwise."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        share = np.abs(a - b) / tolerance
    share[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    unbounded = np.isposinf(tolerance) & ~np.isnan(a) & ~np.isnan(b)
    return np.where(unbounded, 0.0, np.where(np.isnan(share), np.inf, share))
