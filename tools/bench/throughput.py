"""Many sequences at once: by default the recipe that engines publish their figures for."""

from __future__ import annotations

import argparse

from tools import cli
from tools.bench import options, picture
from tools.bench.figures import Figures, device_figures, floor_figures, tokens_and_rates
from tools.bench.floor import Cost, floor, together
from tools.bench.measure import measure_rates, runs
from tools.bench.workload import longest, random_jobs

SUMMARY = "many sequences of random lengths, all there from the start"


def add_options(parser: cli.Parser) -> None:
    options.add_engine_options(parser)
    options.add_workload_options(parser, num_prompts=256)
    options.add_warmup(parser)


def bench(arguments: argparse.Namespace) -> Figures:
    """Tokens a second from the first request's adding to the last token, against the floor of this workload."""
    rates, (_, prompt), (_, answer) = measure_rates(arguments), arguments.input_len, arguments.output_len
    with options.engine(arguments, prompt + answer, arguments.max_num_seqs, arguments.batching) as llm:
        jobs = random_jobs(
            arguments.num_prompts, arguments.input_len, arguments.output_len, arguments.seed, llm.config.vocab_size
        )
        timeline = picture.timeline_for(arguments)
        (result,) = runs(arguments, llm, jobs, arguments.temperature, timeline=timeline, streams=False)
        picture.save(arguments, llm, timeline)
        return {
            "device": llm.device.name,
            "num_prompts": len(jobs),
            "longest_sequence": longest(jobs),
            "batching": arguments.batching,
            "seconds": result.seconds,
            **tokens_and_rates(result, result.seconds),
            **floor_figures(floor(together(jobs), Cost.of(llm), rates), result.seconds, rates),
            **device_figures(result),
        }
