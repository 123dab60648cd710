"""A trace as a file for ui.perfetto.dev or chrome://tracing (the Chrome trace event format).

The host is one process: each call a slice, inside slices for the labels in force. The device is another, with a lane a
stream; an arrow leads from each call to what it made the device do. Counters: memory by owner, pages, sequences.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bindings.trace import Event
from bindings.trace_file import written_aside
from tools.trace.events import RESOLUTION_US, work_name
from tools.trace.memory import Memory
from tools.trace.unrolled import Unroller

HOST, DEVICE = 1, 2  # process ids
CALLS = 1  # the host's thread id
# What of an event is told beside a slice; the rest is in its place already, or too long.
_SHOWN = ("n", "site", "result", "args", "params", "tensors", "grid", "block", "smem", "registers", "bytes", "flops",
          "buffer", "nbytes", "captured", "graph")  # fmt: skip


class Perfetto:
    """The view: collects, and writes `path` when the trace ends. Raises CutawayError when it can't be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: list[dict[str, Any]] = []
        self._labels = Labels()
        self._lanes = Lanes()
        self._memory, self._unroller = Memory(), Unroller()
        self._arrows = 0
        self._about: Mapping[str, Any] = {}

    def header(self, header: Mapping[str, Any]) -> None:
        """Whose calls."""
        self._about = header

    def call(self, event: Event) -> None:
        """A slice on the host; slices on the device with an arrow each; the memory that it took or gave back."""
        start, end = event["t_us"], event["t_us"] + event["host_us"]
        self._records += self._labels.step_to(event["label"], start)
        self._labels.until = end
        self._records.append(_slice(HOST, CALLS, _call_name(event), start, end, _details(event)))
        self._unroller.see(event)
        replayed = {work["of"]: work for work in self._unroller.work_of(event)} if "graph" in event else {}
        for activity in event.get("activities", ()):
            self._activity(event, activity, replayed.get(activity.get("of"), event))
        if self._memory.see(event):
            self._count("memory by owner", end, self._memory.now)

    def _activity(self, event: Event, activity: Event, work: Event) -> None:
        start, end = activity["start_us"], activity["end_us"]
        details = _details(work) | {"label": work["label"], "activity": activity["name"]}
        name = work_name(work) or activity["name"]
        record = _slice(DEVICE, 0, name, start, end, details)
        lane = self._lanes.take(activity["stream"], record)
        self._records.append(record)
        if start >= event["t_us"]:  # a clock that is off must not point an arrow into the past
            self._arrows += 1
            arrow = {"cat": "launch", "name": "launch", "id": self._arrows}
            self._records.append({**arrow, "ph": "s", "pid": HOST, "tid": CALLS, "ts": event["t_us"]})
            self._records.append({**arrow, "ph": "f", "bp": "e", "pid": DEVICE, "tid": lane, "ts": start})

    def note(self, note: Event) -> None:
        """Counters of a step."""
        if note.get("kind") != "step":
            return
        held, cached = note["num_pages"] - note["free"], len(note["cached"])
        self._count("KV pages", note["t_us"], {"held": held, "cached": cached})
        self._count("sequences", note["t_us"], {"running": note["running"], "waiting": note["waiting"]})

    def _count(self, name: str, at_us: float, values: Mapping[str, int]) -> None:
        self._records.append({"ph": "C", "pid": HOST, "name": name, "ts": at_us, "args": dict(values)})

    def close(self) -> None:
        """Write the file."""
        self._records += self._labels.step_to("", self._labels.until)
        records = [*self._names(), *sorted(self._records, key=_order)]
        about = {key: self._about[key] for key in ("command", "clock", "started") if key in self._about}
        with written_aside(self._path) as file:
            file.write('{"traceEvents": [\n')
            for number, record in enumerate(records):  # one at a time: json.dump of all takes twice as long
                file.write((",\n" if number else "") + json.dumps(record))
            file.write(f'\n], "displayTimeUnit": "ms", "otherData": {json.dumps(about)}}}\n')

    def _names(self) -> Iterator[dict[str, Any]]:
        device = (self._about.get("device") or {}).get("name", "device")
        yield _name(HOST, 0, "process_name", "host: calls of the engine")
        yield _name(HOST, CALLS, "thread_name", "API calls by label")
        yield _name(DEVICE, 0, "process_name", device)
        for lane, name in self._lanes.names.items():
            yield _name(DEVICE, lane, "thread_name", name)


class Labels:
    """The labels in force, as slices that open and close where calls of another place begin."""

    def __init__(self) -> None:
        self._open: list[tuple[str, float]] = []
        self.until = 0.0  # the end of the last call

    def step_to(self, label: str, at_us: float) -> Iterator[dict[str, Any]]:
        """The slices of the labels that end before a call with this label; those that begin are open from now on."""
        parts = label.split(" / ") if label else []
        common = 0
        while common < min(len(parts), len(self._open)) and parts[common] == self._open[common][0]:
            common += 1
        while len(self._open) > common:
            name, start = self._open.pop()
            yield _slice(HOST, CALLS, name, start, self.until, {})
        self._open += [(part, at_us) for part in parts[common:]]


class Lanes:
    """Thread ids of the streams. Kernels that overlap on one stream get a lane each: slices of a lane may only nest.

    An overlap that is shorter than the clock can tell is none: there the earlier slice ends where the later begins, and
    tells its own duration beside it.
    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self._last: dict[tuple[str, int], dict[str, Any]] = {}  # stream and depth -> the last slice of that lane

    def take(self, stream: str, record: dict[str, Any]) -> int:
        """Put a slice into the first lane of its stream that is free when it begins; the lane."""
        depth = 0
        while (last := self._last.get((stream, depth))) and last["ts"] + last["dur"] - record["ts"] >= RESOLUTION_US:
            depth += 1
        if last is None:
            number = len(self.names) + 1
            self.names[number] = stream if depth == 0 else f"{stream}, overlapping ({depth})"
        else:
            number = last["tid"]
            _end_at(last, record["ts"])
        record["tid"] = number
        self._last[stream, depth] = record
        return number


def _end_at(record: dict[str, Any], at_us: float) -> None:
    if record["ts"] + record["dur"] > at_us:
        record["args"]["device_us"] = record["dur"]
        record["dur"] = max(at_us - record["ts"], 0.0)


def _call_name(event: Event) -> str:
    work = work_name(event)
    return f"{event['call']} {work}" if "flops" in event else str(event["call"])


def _details(event: Event) -> dict[str, Any]:
    return {key: event[key] for key in _SHOWN if key in event}


def _slice(pid: int, tid: int, name: str, start: float, end: float, details: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": start, "dur": max(end - start, 0.0), "args": details}


def _name(pid: int, tid: int, what: str, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": pid, "tid": tid, "ts": 0, "name": what, "args": {"name": name}}


def _order(record: Mapping[str, Any]) -> tuple[float, float]:
    """By time; of slices that begin at once the longest first, since it holds the others; arrows after slices."""
    return record["ts"], -record.get("dur", -1.0)
