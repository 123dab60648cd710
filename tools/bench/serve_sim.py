"""Requests that arrive at random, against the engine itself: a server without a network."""

from __future__ import annotations

import argparse

from tools import cli
from tools.bench import options, picture
from tools.bench.figures import Figures, device_figures, floor_figures, percentiles_ms, tokens_and_rates
from tools.bench.floor import Cost, as_run, floor
from tools.bench.measure import measure_rates, runs
from tools.bench.workload import poisson_arrivals, random_jobs

SUMMARY = "requests that arrive at random: time to the first token, and between tokens"


def add_options(parser: cli.Parser) -> None:
    options.add_engine_options(parser)
    options.add_workload_options(parser, num_prompts=256)
    parser.add_argument(
        "--request-rate",
        "--rate",
        type=options.rate,
        default=10.0,
        metavar="R",
        help="requests a second on average, at random (a Poisson process); inf: all at once (default: 10)",
    )
    options.add_warmup(parser)


def bench(arguments: argparse.Namespace) -> Figures:
    """Times as a client sees them. The floor is that of the steps as they ran, so it asks how fast the steps were."""
    rates, (_, prompt), (_, answer) = measure_rates(arguments), arguments.input_len, arguments.output_len
    with options.engine(arguments, prompt + answer, arguments.max_num_seqs, arguments.batching) as llm:
        jobs = random_jobs(
            arguments.num_prompts, arguments.input_len, arguments.output_len, arguments.seed, llm.config.vocab_size
        )
        jobs = poisson_arrivals(jobs, arguments.request_rate, arguments.seed)
        timeline = picture.timeline_for(arguments)
        (result,) = runs(arguments, llm, jobs, arguments.temperature, timeline=timeline)
        picture.save(arguments, llm, timeline)
        busy = sum(step.busy for step in result.steps)
        return {
            "device": llm.device.name,
            "num_prompts": len(jobs),
            "request_rate": arguments.request_rate if arguments.request_rate != float("inf") else "inf",
            "seconds": result.seconds,
            "requests_per_second": len(jobs) / result.seconds,
            **tokens_and_rates(result, result.seconds),
            **percentiles_ms("ttft", result.first_tokens()),
            **percentiles_ms("itl", result.between_tokens()),
            "busy_seconds": busy,
            **floor_figures(floor(as_run(result.steps), Cost.of(llm), rates), busy, rates),
            **device_figures(result),
        }
