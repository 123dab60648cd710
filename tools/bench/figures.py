"""What a benchmark reports: numbers by name, the same names in every benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tools.bench.floor import Floor
from tools.bench.rates import Rates

if TYPE_CHECKING:
    from engine.step_times import StepTime
    from tools.bench.measure import Run

Figures = dict[str, "float | int | str"]

PERCENTILES = (50, 95, 99)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of `values` lie below, between its neighbours in proportion."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def percentiles_ms(name: str, seconds: Sequence[float]) -> Figures:
    """`name_p50_ms` and its siblings; none where there is nothing."""
    return {f"{name}_p{percent}_ms": 1e3 * percentile(seconds, percent) for percent in PERCENTILES if seconds}


def tokens_and_rates(run: Run, seconds: float) -> Figures:
    """What ran, and how many tokens a second that is."""
    return {
        "prompt_tokens": run.prompt_tokens,
        "output_tokens": run.output_tokens,
        "output_tokens_per_second": run.output_tokens / seconds,
        "total_tokens_per_second": (run.prompt_tokens + run.output_tokens) / seconds,
    }


def floor_figures(floor: Floor, seconds: float, rates: Rates) -> Figures:
    """The floor beside the time that it took."""
    return {
        "read_GB_per_s": rates.read_bytes / 1e9,
        "product_TFLOP_per_s": rates.flops / 1e12,
        "floor_bytes_s": floor.bytes_seconds,
        "floor_flops_s": floor.flops_seconds,
        "floor_s": floor.seconds,
        "fraction_of_floor": floor.seconds / seconds,
    }


def device_figures(run: Run) -> Figures:
    """How well the device was kept busy, and what the host took for it."""
    from engine.step_times import idle_share

    decodes = [step for step in run.steps if step.is_decode]
    return {
        "steps": len(run.steps),
        "median_step_ms": 1e3 * median_busy(run.steps),
        "gpu_idle_share": idle_share(run.steps),
        "gpu_idle_share_of_decode_steps": idle_share(decodes),
        "host_us_per_step": 1e6 * run.host_seconds / len(run.steps),
        "preemptions": run.preemptions,
    }


def median_busy(steps: Sequence[StepTime]) -> float:
    """Median seconds of a step on the device."""
    return statistics.median(step.busy for step in steps)
