"""What it costs that every driver call goes through bindings/calls.py."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.bench import decode, options
from tools.bench.figures import Figures
from tools.bench.measure import runs
from tools.bench.workload import Job, equal_jobs

if TYPE_CHECKING:
    from engine import LLM

SUMMARY = "what checking every driver call costs a decode step without a graph"


add_options = decode.add_options  # the same steps are timed


def bench(arguments: argparse.Namespace) -> Figures:
    """Extra time of a call, times the calls of a decode step."""
    from bindings import calls
    from bindings.backend import entry_point

    arguments.enforce_eager = True
    output_len = arguments.steps + 1
    with options.engine(arguments, arguments.input_len + output_len, arguments.batch_size) as llm:
        jobs = equal_jobs(arguments.batch_size, arguments.input_len, output_len, llm.config.vocab_size)
        calls_per_step = count_calls(llm, jobs) / arguments.steps
        (result,) = runs(arguments, llm, jobs, temperature=0.0)
        step = decode.median_step(result)
        through, straight = calls.driver.cuCtxGetCurrent, entry_point("driver", "cuCtxGetCurrent")
        extra = max(seconds_per_call(through) - seconds_per_call(straight), 0.0)
        return {
            "device": llm.device.name,
            "calls_per_step": round(calls_per_step),
            "door_ns_per_call": 1e9 * extra,
            "eager_step_ms": 1e3 * step,
            "door_share_percent": 100 * extra * calls_per_step / step,
        }


def count_calls(llm: LLM, jobs: Sequence[Job]) -> int:
    """Driver and cuBLAS calls of the decode steps of a run, read off a trace."""
    from bindings.trace import record_to
    from engine import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=jobs[0].output_len, ignore_eos=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        with record_to(path):
            llm.generate([job.prompt for job in jobs], params)
        events = [json.loads(line) for line in path.read_text().splitlines()]
    return sum(event["kind"] == "call" and " / decode" in event["label"] for event in events)


def seconds_per_call(function: Callable[[], Any], repeats: int = 50_000) -> float:
    """The best of three loops."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        best = min(best, time.perf_counter() - start)
    return best / repeats
