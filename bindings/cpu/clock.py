"""The CPU device's own clock for bindings/activity.py, as CUPTI is a GPU's."""

from __future__ import annotations

from bindings.activity import asks_for_work
from bindings.cpu import activity
from bindings.cpu.pending import pending
from bindings.trace import Event, recorder


class CpuClock:
    """Tells when each operation of the CPU device ran (bindings/activity.py: Clock)."""

    name = "CPU device"

    def __init__(self) -> None:
        self._open: dict[int, Event] = {}
        self._captured: dict[int, list[int]] = {}
        self._spans: list[activity.Span] = []

    def open(self) -> None:
        """Watch what runs from now on."""
        activity.watch(self._spans.append)

    def before(self, event: Event) -> None:
        """What is given to a stream now comes from this call."""
        activity.comes_from(activity.Origin(event["n"]))

    def after(self, event: Event) -> None:
        """Remember the call, or of which graph it is a node."""
        activity.comes_from(activity.NOBODY)
        if asks_for_work(event):
            if "captured" in event:
                self._captured.setdefault(event["captured"], []).append(event["n"])
            else:
                self._open[event["n"]] = event
        self.settle()
        if not self.is_open(event):
            self._open.pop(event["n"], None)

    def note(self, note: Event) -> None:
        """Nothing to note."""

    def settle(self) -> None:
        """What has run is known at once."""
        for span in self._spans:
            event = self._open.get(span.origin.call)
            if event is not None:
                event.setdefault("activities", []).append(self._activity(span, event))
        for number in {span.origin.call for span in self._spans}:
            if not pending.waits_for(number):
                self._open.pop(number, None)
        self._spans.clear()

    def _nodes(self, event: Event) -> list[int]:
        """The captured calls of the graph that a call launches; none of one that was captured before the trace."""
        return self._captured.get(event["graph"], [])

    def _activity(self, span: activity.Span, event: Event) -> Event:
        told = {
            "what": span.what,
            "name": span.name,
            "start_us": (span.start_ns - recorder.origin) / 1e3,
            "end_us": (span.end_ns - recorder.origin) / 1e3,
            "stream": event["stream"],
        }
        if span.origin.node is not None and span.origin.node < len(self._nodes(event)):
            told["of"] = self._nodes(event)[span.origin.node]
        return told

    def is_open(self, event: Event) -> bool:
        """With lazy streams a call's work comes later, one by one."""
        return pending.waits_for(event["n"])

    def close(self) -> None:
        """Stop watching."""
        activity.watch(None)
        self.settle()
        self._open.clear()
