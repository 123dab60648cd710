"""What a run came to: by API call, by kernel, by kind of step; who owned the memory; whether the device had to wait.

Everything is counted, whatever the table shows. Kernels inside a graph launch count as the kernels that they are.
What is kept does not grow with the run: a server may be watched for hours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bindings.trace import Event
from tools.trace.busy import Busy
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

    number: int
    kind: str
    kernels: int = 0
    host_us: float = 0.0
    work: dict[str, Tally] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)  # of its work on the device


@dataclass
class Steps:
    """The steps of one kind: how many, the least and the most kernels of one, sums over all (microseconds)."""

    count: int = 0
    least: int = 0
    most: int = 0
    host_us: float = 0.0
    device_us: float = 0.0
    work: dict[str, Tally] = field(default_factory=dict)

    def add(self, step: StepTally) -> None:
        """Count one that has ended."""
        self.least = min(self.least, step.kernels) if self.count else step.kernels
        self.most = max(self.most, step.kernels)
        self.count += 1
        self.host_us += step.host_us
        self.device_us += busy_us(step.spans)
        for name, tally in step.work.items():
            into = self.work.setdefault(name, Tally())
            into.count, into.us, into.timed = into.count + tally.count, into.us + tally.us, into.timed + tally.timed

    @property
    def timed(self) -> bool:
        """Whether the device's times are known."""
        return any(tally.timed for tally in self.work.values())


class Summary:
    """A view that counts. `as_json()` and the properties say what it found, once it is closed."""

    def __init__(self) -> None:
        self.about: Mapping[str, Any] = {}
        self.limits: Limits | None = None
        self.calls: dict[str, Tally] = {}
        self.failed: dict[tuple[str, str], int] = {}  # by call and error
        self.work: dict[str, Work] = {}
        self.kinds: dict[str, Steps] = {}  # decode, prefill, decode + prefill
        self._current: StepTally | None = None
        self._in_steps = Busy()
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
            self._in_steps.add(spans(event))
        if event["call"] == "cuGraphLaunch":
            for work in self._unroller.work_of(event):
                self._count_work(work, step)
        elif "bytes" in event and "captured" not in event:
            self._count_work(event, step)

    def _step(self, event: Event) -> StepTally | None:
        at = place(event["label"])
        if at.step is None:
            return None
        if self._current is None or self._current.number != at.step:
            self._end_step()
            self._current = StepTally(at.step, at.kind)
        return self._current

    def _end_step(self) -> None:
        if self._current is not None:
            self.kinds.setdefault(self._current.kind, Steps()).add(self._current)
        self._current = None

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
        """The last step has ended, too."""
        self._end_step()

    @property
    def device_us(self) -> float:
        """Device time of all work that was timed; what ran at once counts twice."""
        return sum(work.us for work in self.work.values())

    def idle(self) -> dict[str, float] | None:
        """From the first work of a step to the last: how long the device was busy, and waited for the host.

        None where no step was timed, and where kernels were launched one by one to be timed, in place of graphs.
        """
        work = self._in_steps
        if work.is_empty or self.replays:
            return None
        span = work.last_us - work.first_us
        return {"span_us": span, "busy_us": work.us, "waited_us": max(span - work.us, 0.0)}

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


def kind_json(kind: str, steps: Steps) -> dict[str, Any]:
    """The figures of the steps of one kind; `kernels` by time, per step."""
    return {
        "kind": kind,
        "steps": steps.count,
        "kernels_per_step": {"least": steps.least, "most": steps.most},
        "host_us_per_step": steps.host_us / steps.count,
        "device_us_per_step": steps.device_us / steps.count if steps.timed else None,
        "kernels": [
            {
                "name": name,
                "runs_per_step": tally.count / steps.count,
                "us_per_step": tally.us / steps.count if steps.timed else None,
            }
            for name, tally in largest(steps.work)
        ],
    }
