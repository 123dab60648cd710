"""What to run: requests with their prompts, answer lengths and times of arrival."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

MAX_TOKEN_ID = 10_000  # of the public recipe


@dataclass(frozen=True)
class Job:
    """A request: `output_len` tokens after `prompt`. `arrival`: seconds after the start."""

    prompt: list[int]
    output_len: int
    arrival: float = 0.0


def random_jobs(
    num_prompts: int, input_len: tuple[int, int], output_len: tuple[int, int], seed: int, vocab_size: int
) -> list[Job]:
    """Requests of evenly drawn lengths and token ids.

    With 256 prompts, both lengths 100 to 1024, seed 0 and a vocabulary above 10,000 these are the sequences of a recipe
    that several engines publish figures for: 142,827 prompt and 133,966 output tokens. That fixes the order of the
    draws: each prompt's length, then its ids; after all prompts, the answers' lengths.
    """
    source, top = random.Random(seed), min(MAX_TOKEN_ID, vocab_size - 1)
    prompts = [[source.randint(0, top) for _ in range(source.randint(*input_len))] for _ in range(num_prompts)]
    return [Job(prompt, source.randint(*output_len)) for prompt in prompts]


def equal_jobs(batch_size: int, input_len: int, output_len: int, vocab_size: int) -> list[Job]:
    """Requests of one length; no two rows of the batch are alike."""
    return [
        Job([(17 * i + 7919 * row + 1) % vocab_size for i in range(input_len)], output_len) for row in range(batch_size)
    ]


def poisson_arrivals(jobs: Sequence[Job], rate: float, seed: int) -> list[Job]:
    """The same requests, arriving at random: `rate` a second on average, each independent of the others.

    The first arrives at once. An infinite rate lets all arrive at once.
    """
    source, now, arriving = random.Random(seed), 0.0, []
    for job in jobs:
        arriving.append(replace(job, arrival=now))
        now += source.expovariate(rate) if rate != float("inf") else 0.0
    return arriving


def longest(jobs: Sequence[Job]) -> int:
    """Tokens of the longest prompt and answer together."""
    return max(len(job.prompt) + job.output_len for job in jobs)
