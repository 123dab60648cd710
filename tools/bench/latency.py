"""One batch of equal sequences, from prompt to last token."""

from __future__ import annotations

import argparse
import statistics

from tools import cli
from tools.bench import options
from tools.bench.figures import Figures, device_figures, floor_figures, percentiles_ms, tokens_and_rates
from tools.bench.floor import Cost, floor, together
from tools.bench.measure import measure_rates, runs
from tools.bench.workload import equal_jobs

SUMMARY = "one batch of equal sequences, from prompt to last token"


def add_options(parser: cli.Parser) -> None:
    options.add_engine_options(parser)
    options.add_batch_options(parser, batch=8, tokens=32)
    parser.add_argument(
        "--output-len", type=options.count, default=128, metavar="N", help="tokens of an answer (default: 128)"
    )
    parser.add_argument("--temperature", type=options.temperature, default=0.0, metavar="T", help="default: 0, greedy")
    options.add_iterations(parser, 10)


def bench(arguments: argparse.Namespace) -> Figures:
    """Median and percentiles, over the iterations, of the whole batch and of the time between two tokens."""
    rates = measure_rates(arguments)
    with options.engine(arguments, arguments.input_len + arguments.output_len, arguments.batch_size) as llm:
        jobs = equal_jobs(arguments.batch_size, arguments.input_len, arguments.output_len, llm.config.vocab_size)
        results = runs(arguments, llm, jobs, arguments.temperature, arguments.num_iters)
        seconds = [result.seconds for result in results]
        median = statistics.median(seconds)
        return {
            "device": llm.device.name,
            "batch_size": arguments.batch_size,
            "seconds": median,
            **percentiles_ms("batch", seconds),
            **percentiles_ms("first_token", [time for result in results for time in result.first_tokens()]),
            **percentiles_ms("step", [time for result in results for time in result.between_tokens()]),
            **tokens_and_rates(results[-1], median),
            **floor_figures(floor(together(jobs), Cost.of(llm), rates), median, rates),
            **device_figures(results[-1]),
        }
