"""A graph launch, with a call for each piece of work inside it.

Replaying a CUDA graph is one driver call, whose kernels were captured before. Views want to show those kernels as they
show launches: so behind each graph launch come events that look like the captured calls, with the times of this replay.
"""

from __future__ import annotations

from collections.abc import Iterator

from bindings.trace import Event

# Of a captured call: what is as true of its replay. Its host time is not: nobody called it.
_KEPT = (
    "kernel", "source", "defines", "params", "op", "tensors", "roles", "bytes", "flops", "grid", "block", "smem",
    "registers", "stream", "sizes", "args", "site",
)  # fmt: skip


class Unroller:
    """Remembers what was captured, and gives the work of a graph launch one by one."""

    def __init__(self) -> None:
        self._graphs: dict[int, dict[int, Event]] = {}  # captured work by graph and by the call's number

    def see(self, event: Event) -> None:
        """Remember the call if it was captured, and is work: a launch, a product, a copy, a fill."""
        if "captured" in event and "bytes" in event:
            self._graphs.setdefault(event["captured"], {})[event["n"]] = event

    def work_of(self, launch: Event) -> Iterator[Event]:
        """For each captured call that ran in this graph launch: kind "replayed", `of` its number, its activities.

        Where nobody timed the launch, they have no activities.
        """
        graph = self._graphs.get(launch.get("graph", 0), {})
        by_call: dict[int, list[Event]] = {} if "activities" in launch else {number: [] for number in graph}
        for activity in launch.get("activities", ()):
            if activity.get("of") in graph:
                by_call.setdefault(activity["of"], []).append(activity)
        for number, activities in by_call.items():
            yield self._replayed(launch, graph[number], activities)

    def _replayed(self, launch: Event, captured: Event, activities: list[Event]) -> Event:
        kept = {key: captured[key] for key in _KEPT if key in captured}
        return {
            **kept,
            "kind": "replayed",
            "n": launch["n"],
            "of": captured["n"],
            "t_us": activities[0]["start_us"] if activities else launch["t_us"],
            "call": captured["call"],
            "graph": launch.get("graph"),
            "label": _relabelled(captured["label"], launch["label"]),
            "result": launch["result"],
            "activities": activities,
        }


def _relabelled(captured: str, launch: str) -> str:
    """The label of the captured call in the step that replays it: "step 3 / decode / layer 0" -> "step 9 / ..."."""
    shared = launch.split(" / ")
    return " / ".join(shared + captured.split(" / ")[len(shared) :]) if launch else captured
