"""One comparison from the options to what it found: starts the sides, holds them against each other, ends them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from bindings.errors import CutawayError
from tools.bisect import MAX_TOKENS, PROMPT
from tools.bisect.drift import Drift, DriftWatch
from tools.bisect.lockstep import LeadingEngine, Lockstep, Outcome, Pair
from tools.bisect.messages import Job
from tools.bisect.place import place_of
from tools.bisect.recording import Recording
from tools.bisect.sides import WAYS, Side
from tools.bisect.tally import Tally
from tools.bisect.workers import Engine, Workers
from tools.progress import Progress


@dataclass(frozen=True)
class Found:
    """What a comparison found. `devices`: the name of each side's, as far as it came to load its model."""

    outcome: Outcome
    tally: Tally
    drifts: list[Drift]
    devices: dict[str, str]


def compare_sides(arguments: argparse.Namespace) -> Found:
    """Run both sides. Raises CutawayError where one of them fails, or they cannot be compared."""
    recording = Recording(arguments.a.recording) if arguments.a.recording else None
    jobs = [(f"side b ({arguments.b.name})", job(arguments, arguments.b, arguments.b_kernels, recording))]
    if recording is None:
        jobs.insert(0, (f"side a ({arguments.a.name})", job(arguments, arguments.a, arguments.a_kernels, None)))
    tally, watch = Tally(), DriftWatch()
    with Progress(quiet=arguments.quiet) as progress, Workers(jobs, progress) as engines:
        leader = recording or LeadingEngine(engines[0])
        lockstep = Lockstep(leader, engines[-1], arguments.free, arguments.stop_after)
        for pair in lockstep.pairs():
            tally.add(pair)
            if arguments.free:
                watch.add(pair)
            show_progress(progress, pair, engines[-1], num_steps(arguments, recording))
        devices = {engine.name: engine.loaded.device for engine in engines if engine.loaded is not None}
    if not tally.operations:
        raise CutawayError("nothing was compared: no operation of this run has a recorded result")
    return Found(lockstep.outcome, tally, watch.drifts, devices)


def job(arguments: argparse.Namespace, side: Side, kernels: Path | None, recording: Recording | None) -> Job:
    """What a side runs."""
    prompts, limits = arguments.prompts or [PROMPT], {}
    if arguments.random_weights:
        prompts = [list(prompt.encode()) for prompt in prompts]
    if recording is not None:
        prompts = [recording.token_ids[: recording.prompt_tokens]]
        limits["max_num_batched_tokens"] = recording.prompt_tokens  # in one step
    engine = {
        "model": arguments.random_weights or arguments.model,
        "load_format": "dummy" if arguments.random_weights else "auto",
        "device": side.device,
        "max_num_seqs": len(prompts),
        "enable_prefix_caching": False,  # a page that is shared would be copied, and nothing computed
        "async_scheduling": False,  # both sides plan their steps alike
        "enforce_eager": True,  # nobody can stop between the operations of a graph
        **limits,
        **WAYS[side.way],
    }
    return Job(engine, prompts, num_steps(arguments, recording), kernels, arguments.debug, recording is not None)


def num_steps(arguments: argparse.Namespace, recording: Recording | None) -> int:
    """How many tokens are chosen: the first by the step of the prompts, each further one by a decode step."""
    if recording is None:
        return arguments.max_tokens or MAX_TOKENS
    return min(arguments.max_tokens or recording.steps, recording.steps)


def show_progress(progress: Progress, pair: Pair, engine: Engine, steps: int) -> None:
    """Count the layers of all steps."""
    place = place_of(pair.b.label)
    if engine.loaded is not None and place.layer is not None:
        layers = engine.loaded.num_layers
        progress("compare", (place.step - 1) * layers + place.layer + 1, steps * layers, "layers")
