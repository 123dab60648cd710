"""What a run came to: by API call, by kernel, by kind of step; who owned the memory; whether the device had to wait.

Everything is counted, whatever the table shows. Kernels inside a graph launch count as the kernels that they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bindings.trace import Event
from tools.trace.events import Limits, Span, Speed, busy_us, device_us, place, spans, speed, work_name
from tools.trace.memory import Memory, device_bytes
from tools.trace.unrolled import Unroller

# Calls in which the host only waits for the device.
WAITS = ("cuStreamSynchronize", "cuEventSynchronize", "cuCtxSynchronize")


@dataclass
class Tally:
    """So many times, so long in all (microseconds), so many bytes and FLOPs; `timed` of them have a duration."""

    count: int = 0
    us: float = 0.0
    timed: int = 0
    nbytes: int = 0
    flops: int | None = None

    def add(self, us: float | None, nbytes: int = 0, flops: int | None = None) -> None:
        """Count one."""
        self.count += 1
        self.nbytes += nbytes
        if flops is not None:
            self.flops = (self.flops or 0) + flops
        if us is not None:
            self.timed += 1
            self.us += us

    @property
    def mean_us(self) -> float | None:
        """Of those that have a duration."""
        return self.us / self.timed if self.timed else None


@dataclass
class Work(Tally):
    """Of one kernel, product or copy. `floor_us`: the least time that the device's limits allow for it."""

    floor_us: float | None = None
    bound_by_flops: bool = False

    def speed(self, limits: Limits | None) -> Speed | None:
        """Achieved over all of them; the fraction is of the sum of their floors."""
        if not self.us or not self.nbytes or self.timed < self.count:
            return None
        achieved = speed(self.nbytes, self.flops, self.us, limits)
        return achieved if self.floor_us is None else achieved._replace(fraction=self.floor_us / self.us)


@dataclass
class StepTally:
    """One step: its kernels by name, and the time that host and device had for it (microseconds)."""

    kind: str
    kernels: int = 0
    host_us: float = 0.0
    work: dict[str, Tally] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)  # of its work on the device


class Summary:
    """A view that counts. `as_json()` and the properties say what it found."""

    def __init__(self) -> None:
        self.about: Mapping[str, Any] = {}
        self.limits: Limits | None = None
        self.calls: dict[str, Tally] = {}
        self.failed: dict[tuple[str, str], int] = {}  # by call and error
        self.work: dict[str, Work] = {}
        self.steps: dict[tuple[int, int], StepTally] = {}  # by engine and number
        self._engine = self._last_step = 0
        self.memory = Memory()
        self.replays = False
        self._unroller = Unroller()
        self._began_us, self._ended_us = float("inf"), 0.0

    def header(self, header: Mapping[str, Any]) -> None:
        """Whose calls, and the limits to hold them against."""
        self.about, self.limits = header, Limits.of(header)

    def call(self, event: Event) -> None:
        """Count one call."""
        nbytes = int(event.get("bytes") or event.get("nbytes") or 0)
        self.calls.setdefault(event["call"], Tally()).add(event["host_us"], nbytes)
        self.replays |= "replayed" in event
        if event["result"] != "ok":
            failure = event["call"], event["result"]
            self.failed[failure] = self.failed.get(failure, 0) + 1
        self._began_us = min(self._began_us, event["t_us"])
        self._ended_us = max(self._ended_us, event["t_us"] + event["host_us"])
        self.memory.see(event)
        self._unroller.see(event)
        step = self._step(event)
        if step is not None:
            step.host_us += event["host_us"]
            step.spans += spans(event)
        if event["call"] == "cuGraphLaunch":
            for work in self._unroller.work_of(event):
                self._count_work(work, step)
        elif "bytes" in event and "captured" not in event:
            self._count_work(event, step)

    def _step(self, event: Event) -> StepTally | None:
        at = place(event["label"])
        if at.step is None:
            return None
        self._engine += at.step < self._last_step  # each engine counts its steps from 1
        self._last_step = at.step
        return self.steps.setdefault((self._engine, at.step), StepTally(at.kind))

    def _count_work(self, event: Event, step: StepTally | None) -> None:
        """One kernel, product, copy or fill that ran."""
        us, name = device_us(event), work_name(event)
        nbytes, flops = event["bytes"], event.get("flops")
        work = self.work.setdefault(name, Work())
        work.add(us, nbytes, flops)
        if self.limits and flops is not None:
            work.floor_us = (work.floor_us or 0.0) + self.limits.floor_us(nbytes, flops)
        if step is not None:
            step.work.setdefault(name, Tally()).add(us)
            step.kernels += kernels_of(event)

    def note(self, note: Event) -> None:
        """Steps are counted by their labels."""

    def close(self) -> None:
        """Nothing is held back."""

    @property
    def kinds(self) -> dict[str, list[StepTally]]:
        """The steps by kind: decode, prefill, decode + prefill."""
        found: dict[str, list[StepTally]] = {}
        for step in self.steps.values():
            found.setdefault(step.kind, []).append(step)
        return found

    @property
    def device_us(self) -> float:
        """Device time of all work that was timed; what ran at once counts twice."""
        return sum(work.us for work in self.work.values())

    def idle(self) -> dict[str, float] | None:
        """From the first work of a step to the last: how long the device was busy, and waited for the host.

        None where no step was timed, and where kernels were launched one by one to be timed, in place of graphs.
        """
        work = [span for step in self.steps.values() for span in step.spans]
        if not work or self.replays:
            return None
        span, busy = max(end for _, end in work) - min(start for start, _ in work), busy_us(work)
        return {"span_us": span, "busy_us": busy, "waited_us": max(span - busy, 0.0)}

    def as_json(self) -> dict[str, Any]:
        """All figures; times in microseconds, rates per second."""
        host_us = sum(tally.us for tally in self.calls.values())
        return {
            "device": self.about.get("device"),
            "command": self.about.get("command"),
            "clock": self.about.get("clock"),
            "rates": self.about.get("rates"),
            "calls": [call_json(name, tally, host_us) for name, tally in largest(self.calls)],
            "failed": [{"call": call, "error": error, "calls": n} for (call, error), n in self.failed.items()],
            "kernels": [self._work_json(name, work) for name, work in largest(self.work)],
            "steps": [kind_json(kind, steps) for kind, steps in self.kinds.items()],
            "memory": {
                "now": self.memory.now,
                "high_water": self.memory.fullest,
                "high_water_bytes": device_bytes(self.memory.fullest),
            },
            "host_us": host_us,
            "host_waiting_us": sum(self.calls[name].us for name in WAITS if name in self.calls),
            "wall_us": max(self._ended_us - self._began_us, 0.0),
            "device_us": self.device_us,
            "device_in_steps": self.idle(),
        }

    def _work_json(self, name: str, work: Work) -> dict[str, Any]:
        achieved = work.speed(self.limits)
        return {
            "name": name,
            "runs": work.count,
            "total_us": work.us,
            "mean_us": work.mean_us,
            "bytes": work.nbytes,
            "flops": work.flops,
            "bytes_per_s": work.nbytes / work.us * 1e6 if achieved else None,
            "flops_per_s": (work.flops or 0) / work.us * 1e6 if achieved else None,
            "fraction_of_limit": achieved.fraction if achieved else None,
            "share": work.us / self.device_us if self.device_us else None,
        }


def kernels_of(event: Event) -> int:
    """How many kernels ran for a launch or a product (cuBLAS may take several); untimed, one."""
    if "flops" not in event:
        return 0
    return sum(activity["what"] in ("kernel", "product") for activity in event.get("activities", ())) or 1


def largest(tallies: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """By time, then by count."""
    return sorted(tallies.items(), key=lambda item: (-item[1].us, -item[1].count))


def call_json(name: str, tally: Tally, host_us: float) -> dict[str, Any]:
    """The figures of one API call."""
    share = tally.us / host_us if host_us else None
    mean = {"total_us": tally.us, "mean_us": tally.mean_us}
    return {"call": name, "calls": tally.count, **mean, "bytes": tally.nbytes, "share": share}


def kind_json(kind: str, steps: list[StepTally]) -> dict[str, Any]:
    """The figures of the steps of one kind; `kernels` by time, per step."""
    total = merged(steps)
    timed = any(tally.timed for tally in total.values())
    return {
        "kind": kind,
        "steps": len(steps),
        "kernels_per_step": {"least": min(s.kernels for s in steps), "most": max(s.kernels for s in steps)},
        "host_us_per_step": sum(step.host_us for step in steps) / len(steps),
        "device_us_per_step": sum(busy_us(step.spans) for step in steps) / len(steps) if timed else None,
        "kernels": [
            {
                "name": name,
                "runs_per_step": tally.count / len(steps),
                "us_per_step": tally.us / len(steps) if timed else None,
            }
            for name, tally in largest(total)
        ],
    }


def merged(steps: list[StepTally]) -> dict[str, Tally]:
    """The work of several steps by name."""
    total: dict[str, Tally] = {}
    for step in steps:
        for name, tally in step.work.items():
            into = total.setdefault(name, Tally())
            into.count, into.us, into.timed = into.count + tally.count, into.us + tally.us, into.timed + tally.timed
    return total
