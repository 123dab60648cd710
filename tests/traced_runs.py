"""Traces of real runs, for what is to be seen in them: shared prefixes, copy-on-write, preemption."""

from __future__ import annotations

from collections.abc import Callable

from bindings.trace import Event, recorder
from engine import LLM, SamplingParams
from tools.trace.recording import Recording
from tools.trace.session import Recorded, Session

TOY_PAGE_BYTES = 16 * 1024  # keys and values of 16 tokens


def traced(
    command: str, run: Callable[[], object], rates: Callable[[Event], Event | None] = lambda _: None
) -> Recording:
    """What happens while `run` runs. `rates` tells what the device can do at best (Session)."""
    recorded = Recorded()
    session = Session(command, "auto", [recorded], rates)
    try:
        with recorder.listening(session, first=True):
            run()
    finally:
        session.close()
    return recorded.recording


def crowded_toy(device: str, num_pages: int = 14) -> Recording:
    """A toy model with too few pages: prompts that begin alike, three answers to one of them, and preemptions."""
    system = [(7 * i) % 250 for i in range(40)]
    prompts = [[*system, 1, 2, 3], [*system, *[9] * 14], [5] * 30, [*system, 4, 4], [8] * 20]
    params = [
        SamplingParams(temperature=1.0, seed=i, n=3 if i == 1 else 1, max_tokens=14 + 5 * i, ignore_eos=True)
        for i in range(len(prompts))
    ]

    def run() -> None:
        with LLM("toy", device, load_format="dummy", max_num_seqs=6, kv_cache_bytes=num_pages * TOY_PAGE_BYTES) as llm:
            llm.generate(prompts, params)

    return traced("tests.traced_runs crowded_toy", run)
