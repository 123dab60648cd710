"""One step of a batch that decodes, against reading every weight, key and value once."""

from __future__ import annotations

import argparse
import statistics
from itertools import pairwise

from tools import cli
from tools.bench import options
from tools.bench.figures import Figures, device_figures, floor_figures
from tools.bench.floor import Cost, floor, together
from tools.bench.measure import Run, measure_rates, runs
from tools.bench.workload import equal_jobs

SUMMARY = "one step of a batch that decodes"


def add_options(parser: cli.Parser) -> None:
    options.add_engine_options(parser)
    options.add_batch_options(parser, batch=1, tokens=100)
    parser.add_argument(
        "--steps", type=options.count, default=128, metavar="N", help="decode steps to time (default: 128)"
    )
    options.add_warmup(parser)


def bench(arguments: argparse.Namespace) -> Figures:
    """Median time of a decode step."""
    rates, output_len = measure_rates(arguments), arguments.steps + 1
    with options.engine(arguments, arguments.input_len + output_len, arguments.batch_size) as llm:
        jobs = equal_jobs(arguments.batch_size, arguments.input_len, output_len, llm.config.vocab_size)
        (result,) = runs(arguments, llm, jobs, temperature=0.0)
        step, decodes = median_step(result), together(jobs)[1:]
        lowest = floor([decodes[len(decodes) // 2]], Cost.of(llm), rates)
        return {
            "device": llm.device.name,
            "ms_per_step": 1e3 * step,
            "tokens_per_second": arguments.batch_size / step,
            **floor_figures(lowest, step, rates),
            "floor_ms": 1e3 * lowest.seconds,
            "time_over_floor": step / lowest.seconds,
            **device_figures(result),
        }


def median_step(result: Run) -> float:
    """Median seconds from token to token of the batch's last sequence: all others decode by then."""
    last = result.token_times[-1]
    return statistics.median(later - earlier for earlier, later in pairwise(last))
