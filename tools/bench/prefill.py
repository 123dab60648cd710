"""Prompts alone: one token is asked for after each."""

from __future__ import annotations

import argparse
import statistics

from tools import cli
from tools.bench import options
from tools.bench.figures import Figures, device_figures, floor_figures
from tools.bench.floor import Cost, floor, together
from tools.bench.measure import measure_rates, runs
from tools.bench.workload import equal_jobs

SUMMARY = "prompts alone: one token after each"


def add_options(parser: cli.Parser) -> None:
    options.add_engine_options(parser)
    options.add_batch_options(parser, batch=1, tokens=100)
    options.add_iterations(parser, 3)


def bench(arguments: argparse.Namespace) -> Figures:
    """Median time of the prompts' prefill."""
    rates = measure_rates(arguments)
    with options.engine(arguments, arguments.input_len + 1, arguments.batch_size) as llm:
        # A sequence that decodes would share, and so delay, the steps of the prompts after it.
        jobs = equal_jobs(arguments.batch_size, arguments.input_len, 1, llm.config.vocab_size)
        results = runs(arguments, llm, jobs, temperature=0.0, count=arguments.num_iters)
        seconds = statistics.median(result.seconds for result in results)
        return {
            "device": llm.device.name,
            "batch_size": arguments.batch_size,
            "seconds": seconds,
            "prompt_tokens": results[-1].prompt_tokens,
            "output_tokens": results[-1].output_tokens,
            "tokens_per_second": results[-1].prompt_tokens / seconds,
            **floor_figures(floor(together(jobs), Cost.of(llm), rates), seconds, rates),
            **device_figures(results[-1]),
        }
