"""Device times from CUPTI, which sits inside NVIDIA's driver and sees each kernel, those of graphs and of cuBLAS, too.

Around each call the clock pushes the call's number as an external correlation id. CUPTI then says which of its own
correlation ids belong to it, and each kernel, copy and fill carries one of those. A graph's kernels all carry the id of
the launch. They run in the order in which they were captured, and at the capture the clock counted how many nodes each
call added: so each finds its call. (CUPTI's manual: "Activity API", "External Correlation".)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from bindings.activity import gives_work
from bindings.calls import driver
from bindings.errors import CutawayError
from bindings.handles import handle_named
from bindings.trace import Event, recorder

BUFFER_BYTES = 8 << 20


def _cupti() -> Any:
    from cupti import cupti

    return cupti


class CuptiClock:
    """Hears from CUPTI what came of each call (activity.py: Clock)."""

    name = "cupti"

    def __init__(self) -> None:
        self._cupti = _cupti()
        kinds = self._cupti.ActivityKind
        self._what = {
            kinds.CONCURRENT_KERNEL: "kernel",
            kinds.MEMCPY: "copy",
            kinds.MEMSET: "fill",
        }
        self._external = kinds.EXTERNAL_CORRELATION
        # CUPTI makes correlation records for calls that it keeps records of.
        self._enabled = [*self._what, self._external, kinds.DRIVER, kinds.RUNTIME]
        self._own_kind = self._cupti.ExternalCorrelationKind.CUSTOM0
        self._records: list[Any] = []
        self._call_of: dict[int, int] = {}  # by CUPTI's correlation id
        self._open: dict[int, Event] = {}  # by number of the call
        self._nodes: dict[int, list[int]] = {}  # of each graph, the captured call of each node
        self._shift_ns = 0

    def open(self) -> None:
        """Begin. Raises CutawayError when CUPTI refuses, as it does where another profiler is at work."""
        try:
            self._cupti.activity_register_callbacks(lambda: (BUFFER_BYTES, 0), self._completed)
            for kind in self._enabled:
                self._cupti.activity_enable(kind)
        except self._cupti.cuptiError as error:
            raise CutawayError(
                f"CUPTI refuses: {error}; use --gpu-times events, or end the other profiler, if one is at work"
            ) from error

    def _completed(self, activities: Sequence[Any]) -> None:
        """CUPTI calls this with records that are complete. It may be any thread, so they are only kept here."""
        for activity in activities:
            if activity.kind == self._external:
                self._records.append((None, activity.correlation_id, activity.external_id, 0, ""))
            elif activity.kind in self._what:
                times = activity.correlation_id, activity.start, activity.end
                self._records.append((self._what[activity.kind], *times, getattr(activity, "name", "")))

    def before(self, event: Event) -> None:
        """What comes now belongs to this call."""
        self._cupti.activity_push_external_correlation_id(self._own_kind, event["n"])

    def after(self, event: Event) -> None:
        """What comes now does not."""
        self._cupti.activity_pop_external_correlation_id(self._own_kind)
        if "captured" in event:
            if event["result"] == "ok":
                self._count_nodes(event)
        elif gives_work(event):
            self._open[event["n"]] = event
        if event["call"].endswith("Synchronize"):
            self.settle()

    def note(self, note: Event) -> None:
        """Nothing to note."""

    def _count_nodes(self, event: Event) -> None:
        """The nodes that this captured call has added to its graph are its own."""
        graph = driver.cuStreamGetCaptureInfo(handle_named(event["stream"]))[2]
        nodes = self._nodes.setdefault(event["captured"], [])
        _, count = driver.cuGraphGetNodes(graph)
        nodes += [event["n"]] * (count - len(nodes))

    def settle(self) -> None:
        """Ask CUPTI for the buffers that are complete, and give each record to its call."""
        self._cupti.activity_flush_all(0)
        self._give_out()

    def _give_out(self) -> None:
        self._shift_ns = self._measure_shift()
        records, self._records = self._records, []
        for what, correlation, first, *_ in records:
            if what is None:
                self._call_of[correlation] = first
        for record in records:
            if record[0] is not None:
                self._give(*record)
        for number, event in list(self._open.items()):
            if self._is_complete(event):
                self._name_nodes(event)
                del self._open[number]
        self._call_of = {correlation: call for correlation, call in self._call_of.items() if call in self._open}

    def _measure_shift(self) -> int:
        """Nanoseconds to add to CUPTI's clock to get time.perf_counter_ns; the quickest of a few looks."""
        looks = []
        for _ in range(5):
            before = time.perf_counter_ns()
            stamp = self._cupti.get_timestamp()
            after = time.perf_counter_ns()
            looks.append((after - before, (before + after) // 2 - stamp))
        return min(looks)[1]

    def _give(self, what: str, correlation: int, start_ns: int, end_ns: int, name: str) -> None:
        event = self._open.get(self._call_of.get(correlation, 0))
        if event is not None:
            shift = self._shift_ns - recorder.origin
            activity = {
                "what": what,
                "name": name or event["call"],
                "start_us": (start_ns + shift) / 1e3,
                "end_us": (end_ns + shift) / 1e3,
                "stream": event["stream"],
            }
            event.setdefault("activities", []).append(activity)

    def _is_complete(self, event: Event) -> bool:
        found = len(event.get("activities", ()))
        if event["call"] == "cuGraphLaunch":
            return found > 0 and found >= len(self._nodes.get(event["graph"], ()))
        return found > 0

    def _name_nodes(self, event: Event) -> None:
        """Say of each activity of a graph which captured call it is, where all are there."""
        event["activities"].sort(key=lambda activity: activity["start_us"])
        nodes = self._nodes.get(event.get("graph", 0), []) if event["call"] == "cuGraphLaunch" else []
        if len(nodes) == len(event["activities"]):
            for activity, number in zip(event["activities"], nodes, strict=True):
                activity["of"] = number

    def is_open(self, event: Event) -> bool:
        """Whether CUPTI has not told of it yet."""
        return event["n"] in self._open

    def close(self) -> None:
        """Take what is there, and let CUPTI rest."""
        with suppress(self._cupti.cuptiError):  # a dead context has nothing more to tell
            self._cupti.activity_flush_all(1)
        self._give_out()
        for kind in self._enabled:
            self._cupti.activity_disable(kind)
        self._open.clear()
