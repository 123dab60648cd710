"""Durations, amounts and rates as a person reads them: three digits and a unit."""

from __future__ import annotations

from collections.abc import Sequence

_TIMES = ((1e-3, "ns"), (1.0, "us"), (1e3, "ms"), (1e6, "s"))
_THOUSANDS = ((1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"))


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    """`value` in the largest unit that leaves at least 1 before the point; in the last one, as many as it takes."""
    size, unit = next((pair for pair in units if value / pair[0] < 999.5), units[-1])
    number = value / size
    places = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{places}f} {unit}"


def duration(us: float) -> str:
    """Microseconds: "413 us", "4.13 ms"."""
    return _scaled(us, _TIMES) if us > 0 else "0 us"


def amount(nbytes: float) -> str:
    """Bytes: "512 B", "33.6 MB" (millions, as NVIDIA and this project count them)."""
    return f"{nbytes:.0f} B" if nbytes < 1000 else f"{_scaled(nbytes, _THOUSANDS)}B"


def rate(per_second: float, unit: str) -> str:
    """`unit` is "B" or "FLOP": "3.09 TB/s", "790 TFLOP/s"."""
    return f"{_scaled(per_second, _THOUSANDS)}{unit}/s"


def percent(fraction: float) -> str:
    """ "81 %", "0.4 %" where the digit before the point says too little."""
    value = 100 * fraction
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.1f} %"


def counted(count: int, noun: str) -> str:
    """ "1 call", "2 calls"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
