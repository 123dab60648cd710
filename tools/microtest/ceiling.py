"""How close a time is to what the device can do at best.

A kernel must move its bytes and do its arithmetic, as its spec counts them; the device reads so many bytes and does so
many multiplications and additions a second at best (tools/bench/rates.py, measured). The larger of the two times is the
floor, and floor / time the fraction of the ceiling. (Williams, Waterman and Patterson, "Roofline", 2009.)
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from engine.spec import Op
from tools.bench.rates import Rates
from tools.microtest.columns import amount, duration
from tools.microtest.timing import Timing

# The ceiling is itself measured, to within some 2 %, and so is the time. More than both together is no measurement.
HIGHEST = 1.05
# Where no cache size is known (the CPU device) inputs come from the host's caches, several times as fast as its memory,
# and the clock is shared with whatever else the machine does.
HIGHEST_FROM_CACHES = 10.0


@dataclass(frozen=True)
class Ceiling:
    """The best rates of a device, and what a launch takes by itself, which no kernel can take less than."""

    rates: Rates
    launch_seconds: float

    def __str__(self) -> str:
        best = f"{amount(self.rates.read_bytes, 'B/s')}, {amount(self.rates.flops, 'FLOP/s')}"
        return f"{best}; a launch alone takes {duration(self.launch_seconds)}"


@dataclass(frozen=True)
class Figure:
    """A time against the ceiling. `bound`: "memory" or "arithmetic", whichever takes longer at best."""

    seconds: float
    bytes: int
    flops: int
    floor_seconds: float
    bound: str

    @property
    def bytes_per_second(self) -> float:
        return self.bytes / self.seconds

    @property
    def flops_per_second(self) -> float:
        return self.flops / self.seconds

    @property
    def intensity(self) -> float:
        """FLOPs for each byte that must move."""
        return self.flops / self.bytes

    @property
    def fraction(self) -> float:
        """Of the ceiling: 1 is as fast as the device can be."""
        return self.floor_seconds / self.seconds


def figure(op: Op, timing: Timing, rates: Rates) -> Figure:
    """`timing` against `rates`."""
    symbols = SimpleNamespace(**timing.workload.symbols)
    moved, done = op.bytes(symbols), op.flops(symbols)
    memory, arithmetic = moved / rates.read_bytes, done / rates.flops
    bound = "memory" if memory >= arithmetic else "arithmetic"
    return Figure(timing.seconds, moved, done, max(memory, arithmetic), bound)


def impossible(timing: Timing, found: Figure) -> str:
    """What is wrong with a measurement above the ceiling, in one line; "" for one that can be."""
    highest = HIGHEST_FROM_CACHES if timing.cold is None else HIGHEST
    if found.fraction <= highest:
        return ""
    told = f"{timing.workload.name}: {100 * found.fraction:,.0f} % of what this device can do at best"
    if found.bound == "memory" and timing.cold is False:
        why = f"its {_megabytes(timing.copies * timing.copy_bytes)} of inputs lie in the cache: take a larger --shape"
    elif found.bound == "memory":
        why = "the spec counts bytes that the kernel does not move, or the ceiling was measured on a busy device"
    else:
        why = "the spec counts arithmetic that the kernel leaves out, or the ceiling was measured on a busy device"
    return f"{told}, so the measurement is wrong: {why} (--measure-rates measures the ceiling anew)"


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"
