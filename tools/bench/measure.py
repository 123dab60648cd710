"""Runs requests through the engine's incremental API, and notes when each token comes and what each step took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from bindings.errors import CutawayError
from tools.bench.rates import Rates
from tools.bench.workload import Job
from tools.progress import Progress

if TYPE_CHECKING:
    import argparse

    from engine import LLM
    from engine.step_times import StepTime
    from tools.bench.timeline import Timeline


class BenchError(CutawayError):
    """A run that gave something other than was asked for: its times would mean nothing."""


@dataclass(frozen=True)
class Run:
    """What came of a run.

    token_times[i]: when the tokens of job i were read, in seconds after the run's start; all at its end where answers
    are not streamed.
    """

    jobs: Sequence[Job]
    seconds: float
    token_times: list[list[float]]
    steps: list[StepTime]
    host_seconds: float
    preemptions: int

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(job.prompt) for job in self.jobs)

    @property
    def output_tokens(self) -> int:
        """Tokens that came."""
        return sum(map(len, self.token_times))

    def first_tokens(self) -> list[float]:
        """Seconds from each job's arrival to its first token (TTFT)."""
        return [times[0] - job.arrival for job, times in zip(self.jobs, self.token_times, strict=True)]

    def between_tokens(self) -> list[float]:
        """Seconds between neighbouring tokens (ITL), of all jobs."""
        return [later - earlier for times in self.token_times for earlier, later in pairwise(times)]


def measure_rates(arguments: argparse.Namespace) -> Rates:
    """The device's rates, taken before a model fills its memory."""
    from bindings.device import Device
    from tools.bench import rates

    with Progress(quiet=arguments.quiet) as progress, Device.open(arguments.device) as device:
        progress("measure the device", 0, 1, "run")
        measured = rates.measure(device)
        progress("measure the device", 1, 1, "run")
    return measured


def runs(
    arguments: argparse.Namespace, llm: LLM, jobs: Sequence[Job], temperature: float,
    count: int = 1, timeline: Timeline | None = None, streams: bool = True,
) -> list[Run]:  # fmt: skip
    """Run the same jobs so often as --num-iters-warmup says, and then `count` times, which are returned.

    timeline: takes down who runs in which step, of a single run. streams: tokens are read as they come, as a server's
    are, and timed; otherwise answers are read at their ends, as `LLM.generate` does it.
    """
    with Progress(quiet=arguments.quiet) as progress:
        results = []
        for stage, times, watcher in (("warm up", arguments.num_iters_warmup, None), ("run", count, timeline)):
            each = [_nth(progress, stage, i, times) for i in range(times)]
            results = [run(llm, jobs, temperature, tell, watcher, streams) for tell in each]
        return results


def _nth(progress: Progress, stage: str, index: int, times: int) -> Callable[[int, int], None]:
    """What run number `index` of so many calls with the tokens that came and all that will."""
    return lambda done, total: progress(stage, index * total + done, times * total, "tokens")


def run(
    llm: LLM, jobs: Sequence[Job], temperature: float,
    progress: Callable[[int, int], None], timeline: Timeline | None = None, streams: bool = True,
) -> Run:  # fmt: skip
    """Run `jobs`, each from its arrival on, to their ends. Raises BenchError where tokens are missing."""
    with llm.engine.timed_steps() as times:
        preemptions = llm.scheduler.num_preemptions
        llm.engine.watch = timeline and timeline.runs
        try:
            token_times, seconds = _Driver(llm, jobs, temperature, timeline, streams).run(progress)
        finally:
            llm.engine.watch = None
        preemptions = llm.scheduler.num_preemptions - preemptions
        return Run(jobs, seconds, token_times, times.read(), times.host_seconds, preemptions)


class _Driver:
    """The loop of a server without a network: who is due is added, then the engine makes a step."""

    def __init__(
        self, llm: LLM, jobs: Sequence[Job], temperature: float, timeline: Timeline | None, streams: bool
    ) -> None:
        from engine import SamplingParams
        from engine.tokenizer import NoTokenizer

        self.llm, self.jobs, self.timeline, self.streams = llm, jobs, timeline, streams
        same = {"temperature": temperature, "ignore_eos": True}
        same["detokenize"] = not isinstance(llm.tokenizer, NoTokenizer)
        self.params = [SamplingParams(max_tokens=job.output_len, **same) for job in jobs]
        self.order = sorted(range(len(jobs)), key=lambda number: jobs[number].arrival)
        self.added = 0
        self.number_of: dict[int, int] = {}  # by the engine's own number of a request
        self.token_times: list[list[float]] = [[] for _ in jobs]

    def run(self, progress: Callable[[int, int], None]) -> tuple[list[list[float]], float]:
        total, done = sum(job.output_len for job in self.jobs), 0
        start = time.perf_counter()
        progress(done, total)
        while done < total:
            self._add_due(time.perf_counter() - start)
            if not self.llm.has_unfinished_requests:
                self._wait(start, done)
                continue
            events = self.llm.step()
            now = time.perf_counter() - start
            for event in events:
                self.token_times[self.number_of[event.index]] += [now] * len(event.token_ids)
                done += len(event.token_ids)
            progress(done, total)
        seconds = time.perf_counter() - start
        while self.llm.has_unfinished_requests:  # a step may still be under way for requests that have ended
            self.llm.step()
        return self.token_times, seconds

    def _add_due(self, now: float) -> None:
        while self.added < len(self.order) and self.jobs[self.order[self.added]].arrival <= now:
            number = self.order[self.added]
            job = self.jobs[number]
            index = self.llm.add_request(job.prompt, self.params[number], streams=self.streams)
            self.number_of[index] = number
            if self.timeline is not None:
                self.timeline.arrives(index, len(job.prompt), job.output_len)
            self.added += 1

    def _wait(self, start: float, done: int) -> None:
        """Until the next request arrives."""
        if self.added == len(self.order):
            raise BenchError(f"all requests have ended, but only {done} tokens came: fewer than were asked for")
        time.sleep(max(0.0, self.jobs[self.order[self.added]].arrival - (time.perf_counter() - start)))
