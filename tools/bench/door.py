"""What it costs that every driver call goes through bindings/calls.py, and what it costs to trace them all."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tools.bench import decode, options
from tools.bench.figures import Figures
from tools.bench.measure import runs
from tools.bench.workload import Job, equal_jobs

if TYPE_CHECKING:
    from bindings.trace import Event
    from engine import LLM

SUMMARY = "what checking every driver call costs a decode step without a graph, and what tracing it costs"
ROUNDS = 3  # each way of tracing in turn, so often: the machine is not equally fast all the time

add_options = decode.add_options  # the same steps are timed


def bench(arguments: argparse.Namespace) -> Figures:
    """Extra time of a call, times the calls of a decode step; and the same steps while they are traced."""
    from bindings import calls
    from bindings.backend import entry_point

    arguments.enforce_eager = True
    output_len = arguments.steps + 1
    with options.engine(arguments, arguments.input_len + output_len, arguments.batch_size) as llm:
        jobs = equal_jobs(arguments.batch_size, arguments.input_len, output_len, llm.config.vocab_size)
        calls_per_step = count_calls(llm, jobs) / arguments.steps
        step, printed, written = step_times(arguments, llm, jobs)
        through, straight = calls.driver.cuCtxGetCurrent, entry_point("driver", "cuCtxGetCurrent")
        extra = max(seconds_per_call(through) - seconds_per_call(straight), 0.0)
        return {
            "device": llm.device.name,
            "calls_per_step": round(calls_per_step),
            "door_ns_per_call": 1e9 * extra,
            "eager_step_ms": 1e3 * step,
            "door_share_percent": 100 * extra * calls_per_step / step,
            "step_traced_at_level_2_ms": 1e3 * printed,
            "level_2_over_untraced": printed / step,
            "step_traced_to_a_file_ms": 1e3 * written,
            "file_over_untraced": written / step,
        }


def step_times(arguments: argparse.Namespace, llm: LLM, jobs: Sequence[Job]) -> list[float]:
    """Seconds of a decode step: untraced, printed as CUTAWAY_TRACE=2 does it (to nowhere), written as --trace does."""
    from bindings.trace import Printer, record_to, recorder

    with open(os.devnull, "w", encoding="utf-8") as nowhere, tempfile.TemporaryDirectory() as folder:
        ways: list[Callable[[], AbstractContextManager[None]]] = [
            nullcontext,
            lambda: recorder.listening(Printer(2, nowhere)),
            lambda: record_to(Path(folder) / "trace.jsonl"),
        ]
        times: list[list[float]] = [[] for _ in ways]
        for _ in range(ROUNDS):
            for way, found in zip(ways, times, strict=True):
                with way():
                    found += [decode.median_step(run) for run in runs(arguments, llm, jobs, temperature=0.0)]
    return [median(found) for found in times]


class CallCounter:
    """Counts the calls of decode steps."""

    def __init__(self) -> None:
        self.count = 0

    def before(self, event: Event) -> None:
        pass

    def after(self, event: Event) -> None:
        self.count += " / decode" in event["label"]

    def note(self, note: Event) -> None:
        pass


def count_calls(llm: LLM, jobs: Sequence[Job]) -> int:
    """Driver and cuBLAS calls of the decode steps of a run."""
    from bindings.trace import recorder
    from engine import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=jobs[0].output_len, ignore_eos=True)
    counter = CallCounter()
    with recorder.listening(counter):
        llm.generate([job.prompt for job in jobs], params)
    return counter.count


def seconds_per_call(function: Callable[[], Any], repeats: int = 50_000) -> float:
    """The best of three loops."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        best = min(best, time.perf_counter() - start)
    return best / repeats
