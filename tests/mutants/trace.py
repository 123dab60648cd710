"""Faults in the trace: what would let it tell of a run what did not happen."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_LISTENERS = "tests/device/test_listeners.py::test_"
_CLOCKS = "tests/device/test_clocks.py::test_"
_SESSION = "tests/pure/test_trace_session.py::test_"

MUTANTS = [
    Mutant(
        "trace-clock-mixes-up-a-graphs-nodes",
        "bindings/cpu/graphs.py",
        "activity.Origin(call, node if within is None else within)",
        "activity.Origin(call, 0)",
        "every kernel of a graph is told as its first",
        f"{_CLOCKS}no_call_waits_for_ever_for_its_times[eager]",
    ),
    Mutant(
        "trace-recorder-hears-its-listeners",
        "bindings/calls.py",
        "        if recorder.is_deaf():\n",
        "        if False:\n",
        "what a listener reads from the device is told as the program's own call",
        f"{_LISTENERS}a_listener_is_not_heard_itself",
    ),
    Mutant(
        "trace-told-of-another-call",
        "bindings/trace.py",
        '        """The call that something was told of is not made."""\n        self.detail, self.operands = {}, {}\n',
        '        """The call that something was told of is not made."""\n        self.operands = {}\n',
        "the next call is told with the kernel of one that was never made",
        f"{_LISTENERS}what_is_told_of_a_call_that_is_not_made_is_not_told_of_the_next[the arguments do not fit]",
    ),
    Mutant(
        "trace-stale-words",
        "bindings/spelled.py",
        "    if _version != memory_map.version or",
        "    if",
        "an address goes on to be called by the name of a buffer that was freed",
        f"{_LISTENERS}a_number_that_was_a_streams_is_not_called_so_when_it_is_gone",
    ),
    Mutant(
        "trace-note-forgets-a-table",
        "engine/step_notes.py",
        "                changed[str(request.index)] = list(pages)\n",
        "                changed = {str(request.index): list(pages)}\n",
        "of two requests that are given pages in one step, one has no block table",
        f"{_LISTENERS}each_step_tells_who_runs_and_where",
    ),
    Mutant(
        "trace-session-hands-on-out-of-order",
        "tools/trace/session.py",
        '            if record["kind"] == "call" and self._clock.is_open(record):\n                return\n',
        "",
        "a call is handed on before the device's times for it are there",
        f"{_SESSION}what_came_after_a_call_that_is_not_complete_waits_for_it",
    ),
    Mutant(
        "trace-busy-counts-twice",
        "tools/trace/busy.py",
        "        self._latest = [(max(start, self._until), max(end, self._until)) for start, end in rest]\n",
        "        self._latest = rest\n",
        "work of two streams at once is counted twice, and the device seems never to wait",
        "tests/pure/test_trace_summary.py::test_the_busy_time_of_many_spans_is_that_of_all_at_once",
    ),
]
