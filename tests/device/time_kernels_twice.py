"""Runs a prefill and some decode steps, and times every kernel twice: by CUPTI and by a pair of events around it.

Prints a JSON list of [name, microseconds by events, microseconds by CUPTI]. Products that are several kernels are left
out: a pair measures the gap between them, too.

    python -m tests.device.time_kernels_twice > times.json
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from bindings import backend
from bindings.cupti_clock import CuptiClock
from bindings.event_clock import EventClock
from bindings.trace import Event, recorder
from engine import LLM, SamplingParams
from engine.random_model import write_random_model

PROMPT, STEPS = 4096, 4


class Both:
    """Listens with both clocks; the one with events gets copies of the calls."""

    def __init__(self) -> None:
        self.cupti, self.events = CuptiClock(), EventClock()
        self.calls: list[tuple[Event, Event]] = []
        self._copy: Event = {}

    def before(self, event: Event) -> None:
        self._copy = dict(event)
        self.cupti.before(event)
        self.events.before(self._copy)

    def after(self, event: Event) -> None:
        self._copy["result"] = event["result"]
        self.events.after(self._copy)
        self.cupti.after(event)
        self.calls.append((event, self._copy))

    def note(self, note: Event) -> None:
        pass

    def __enter__(self) -> Both:
        self.events.open()
        self.cupti.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.events.close()
        self.cupti.close()


def main() -> None:
    backend.select("cuda")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_random_model("llama-3.2-1b", model)
        params = SamplingParams(temperature=0, max_tokens=STEPS, ignore_eos=True)
        prompts = [[i % 1000 for i in range(start, start + PROMPT)] for start in (0, 7)]
        limits = {"max_model_len": PROMPT + STEPS, "max_num_batched_tokens": 2 * PROMPT}
        with Both() as both, LLM(model=str(model), device="cuda", **limits) as llm, recorder.listening(both):
            for prompt in prompts:  # the second time, all code is there
                llm.generate([prompt], params)
            llm.device.synchronize()
            both.events.settle()
    times = []
    for cupti, pair in both.calls:
        kernels = [one for one in cupti.get("activities", ()) if one["what"] == "kernel"]
        if len(kernels) == len(pair.get("activities", ())) == 1:
            durations = [one["end_us"] - one["start_us"] for one in (*pair["activities"], *kernels)]
            times.append([kernels[0]["name"], *durations])
    print(json.dumps(times[len(times) // 2 :]))


if __name__ == "__main__":
    main()
