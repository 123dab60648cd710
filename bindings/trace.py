"""The recorder: who called what, when, for how long, from which line, under which label.

Off by default, and then it costs nothing: the door hands out functions that know nothing of it. It is on while a
`Listener` listens: one that writes JSON lines (`record_to`), one that prints each call before it is made
(`CUTAWAY_TRACE=1` names, `2` arguments too, so that the last line before a crash is the culprit), or one of the views
of tools/trace.

An event is a dictionary that JSON can hold. Of every call:

    kind "call"    n: its number in this process, from 1 on    t_us: when it was made, in microseconds of the trace
    call           the API's own name          args: its arguments by the API's parameter names, spelled out
    label          "step 1 / decode / layer 3 / attention"      site: "engine/models/llama.py:160"
    host_us        how long the host was in it                  result: "ok", or the error's name

Whoever makes the call can say more (`Recorder.detail`): a launch its kernel, parameters, geometry, bytes and FLOPs; a
product its sizes; an allocation its buffer. While a stream captures, what it is given carries `captured`, the
number of the graph that it goes to: that is recorded and does not run.
"""

from __future__ import annotations

import concurrent.futures.thread
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache, cached_property
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from bindings.errors import CutawayError
from bindings.spelled import Spelled
from bindings.trace_file import written_aside

if TYPE_CHECKING:
    from bindings.tensor import Tensor

Event = dict[str, Any]

_BINDINGS = str(Path(__file__).parent)
_HAND_ON = (contextlib.__file__, concurrent.futures.thread.__file__, threading.__file__)  # calls of others
_DOOR_FILES = (__file__, str(Path(__file__).with_name("calls.py")))
_PROJECT = str(Path(__file__).parent.parent)


class Listener(Protocol):
    """Who watches. What a listener itself asks of the device is neither recorded nor listened to."""

    def before(self, event: Event) -> None:
        """The call is about to be made. What this raises is raised in its place."""

    def after(self, event: Event) -> None:
        """The call has returned: `host_us` and `result` are there."""

    def note(self, note: Event) -> None:
        """Something that is no call: a step of the engine (engine/step_notes.py)."""


def print_level() -> int:
    """$CUTAWAY_TRACE: 0, 1 or 2. Raises CutawayError when it is none of them."""
    value = os.environ.get("CUTAWAY_TRACE", "0")
    if value not in ("0", "1", "2"):
        raise CutawayError(f"CUTAWAY_TRACE is {value!r}; it must be 0 (off), 1 (names) or 2 (names and arguments)")
    return int(value)


@cache
def _shown_path(name: str) -> str:
    return os.path.relpath(name, _PROJECT) if name.startswith(_PROJECT) else name


_PASSED, _THE_DOOR = 1, 2
_kinds: dict[CodeType, int] = {}  # of functions: kept, since it is asked for at each frame of each call


def _kind(frame: FrameType) -> int:
    """0 for a caller that says something, _PASSED for one that does not, _THE_DOOR for the recorder and the door."""
    name = frame.f_code.co_filename
    if name in _DOOR_FILES:
        kind = _THE_DOOR
    else:
        kind = _PASSED * (name.startswith(_BINDINGS) or name in _HAND_ON or "TRACE_PASSES_OVER" in frame.f_globals)
    _kinds[frame.f_code] = kind
    return kind


def call_site() -> str:
    """`file:line` of the nearest caller that says something, relative to the project where it lies inside it.

    Passed over: bindings/ itself, and modules that only hand calls on (they set `TRACE_PASSES_OVER = True`). In a
    thread of bindings/ own, which nobody else called, the line there that makes the call.
    """
    frame: FrameType | None = sys._getframe(1)
    nearest = None
    while frame is not None:
        kind = _kinds.get(frame.f_code)
        if kind is None:
            kind = _kind(frame)
        if not kind:
            break
        if nearest is None and kind == _PASSED:
            nearest = frame
        frame = frame.f_back
    frame = frame or nearest
    return "" if frame is None else f"{_shown_path(frame.f_code.co_filename)}:{frame.f_lineno}"


class Recorder:
    """Hands every call to those who listen.

    `active`, whether anybody listens, is read by the door and by whoever can say more of a call; `is_detailed`, whether
    somebody wants more than a line to print, by whoever knows tensors, bytes and FLOPs; `labels` is the stack
    that `label()` pushes to; `detail` holds what the caller of the next driver call wants recorded beside it (a
    kernel's named arguments), and `operands` its tensors by name, for listeners that look into device memory.
    `capturing` has each stream that is being captured, by its name, with the number of the graph that this makes.
    `wants_eager`: a listener wishes to see every kernel launched on its own where the engine would replay a graph;
    calls made for that reason carry `replayed`. `audience` is another number whenever somebody begins or ends to
    listen.
    """

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.detail: dict[str, Any] = {}
        self.operands: Mapping[str, Tensor] = {}
        self.capturing: dict[str, int] = {}
        self.wants_eager = self.replays = False
        self.active = os.environ.get("CUTAWAY_TRACE", "0") != "0"  # no property: it is read where time is short
        self.is_detailed = False
        self.count = self.audience = 0
        self.origin = time.perf_counter_ns()
        self.on_change: Callable[[], None] = lambda: None
        # One thread at a time listens (kernels are compiled by several), and nobody hears what it does meanwhile.
        # `is_deaf`: whether it is this one, so that its calls are a listener's own and nobody's business.
        self._listening = threading.RLock()
        self.is_deaf: Callable[[], bool] = self._listening._is_owned  # type: ignore[attr-defined]  # as Condition asks

    @cached_property
    def listeners(self) -> list[Listener]:
        """Who listens. $CUTAWAY_TRACE is read at the first look; raises CutawayError when it is no level."""
        level = print_level()
        return [Printer(level)] if level else []

    def _changed(self) -> None:
        self.active = bool(self.listeners)
        self.is_detailed = any(not isinstance(listener, Printer) for listener in self.listeners)
        self.audience += 1
        self.on_change()

    @contextmanager
    def listening(self, listener: Listener, *, first: bool = False) -> Iterator[None]:
        """Inside the block `listener` hears every call and note, after those who listen already (`first`: before).

        Who hears first of a call hears last of its end: while a debugger holds the program, nobody's clock runs.
        """
        if not self.listeners:
            self.origin = time.perf_counter_ns()
        self.listeners.insert(0 if first else len(self.listeners), listener)
        self._changed()
        try:
            yield
        finally:
            self.listeners.remove(listener)
            self._changed()

    def ignoring(self) -> AbstractContextManager[object]:
        """Calls of this thread inside the block are not recorded, and nobody hears of them."""
        return self._listening

    @contextmanager
    def replaying(self, graph_is_usual: bool) -> Iterator[None]:
        """Calls inside the block stand in place of a graph's nodes, if a graph is what would usually run."""
        self.replays = graph_is_usual and self.wants_eager
        try:
            yield
        finally:
            self.replays = False

    def tell(self, operands: Mapping[str, Tensor] | None = None, **detail: Any) -> None:
        """Record this beside the driver call that comes next; `operands` are its tensors by name."""
        if self.active and not self.is_deaf():
            self.detail |= detail
            if operands is not None:
                self.operands = operands

    def forget(self) -> None:
        """The call that something was told of is not made."""
        self.detail, self.operands = {}, {}

    @contextmanager
    def later(self) -> Iterator[None]:
        """What was told so far is of a call that comes behind the block: other calls have to be made before it.

        A block that fails takes it along: that call is not made.
        """
        detail, operands = self.detail, self.operands
        self.forget()
        yield
        self.detail, self.operands = detail, operands

    def now_us(self) -> float:
        """Microseconds since the origin of the trace."""
        return (time.perf_counter_ns() - self.origin) / 1e3

    def before(self, name: str, arguments: dict[str, str]) -> Event:
        """Open the event of a call about to be made."""
        with self._listening:
            self.count += 1
            event = {
                "kind": "call",
                "n": self.count,
                "t_us": 0.0,
                "call": name,
                "args": arguments,
                "label": " / ".join(self.labels),
                "site": call_site(),
                **self.detail,
            }
            if event.get("stream") in self.capturing:
                event["captured"] = self.capturing[event["stream"]]
            if self.replays:
                event["replayed"] = True
            self.detail = {}
            try:
                for listener in self.listeners:
                    listener.before(event)
            except BaseException:
                self.forget()
                raise
        event["t_us"] = (time.perf_counter_ns() - self.origin) / 1e3  # not before: listeners may take their time
        return event

    def after(self, event: Event, result: str) -> None:
        """Close an event with its host duration and its result. All hear of it, whatever one listener raises."""
        event["host_us"] = (time.perf_counter_ns() - self.origin) / 1e3 - event["t_us"]
        event["result"] = result
        failure: BaseException | None = None
        with self._listening:
            for listener in reversed(self.listeners):
                try:
                    listener.after(event)
                except BaseException as error:
                    failure = failure or error
            self.forget()
            if failure is not None:
                raise failure

    def note(self, note: Event) -> None:
        """Tell those who listen of something that is no call; `t_us` is added."""
        with self._listening:
            for listener in self.listeners:
                listener.note({"t_us": self.now_us(), **note})


recorder = Recorder()


class label:
    """`with label("layer 3"):` names the calls made inside; labels nest as `step 12 / decode / layer 3`."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __enter__(self) -> None:
        recorder.labels.append(self.text)

    def __exit__(self, *_: object) -> None:
        recorder.labels.pop()


class Printer:
    """Prints each call to `file` (None: stderr) before it is made: names, at level 2 arguments, label and line, too."""

    def __init__(self, level: int, file: TextIO | None = None) -> None:
        self._line, self._file = _name_of if level == 1 else _line_of, file

    def before(self, event: Event) -> None:
        """Print the call."""
        file = self._file or sys.stderr
        file.write(f"{self._line(event)}\n")
        file.flush()  # the next call may be the one that crashes

    def after(self, event: Event) -> None:
        """Nothing: what crashed has no end."""

    def note(self, note: Event) -> None:
        """Nothing: only calls are printed."""


def _name_of(event: Event) -> str:
    return str(event["call"])


def _line_of(event: Event) -> str:
    launch = f" kernel={event['kernel']}({event['params'].text})" if "kernel" in event else ""
    return f"{event['call']}({event['args'].text}){launch}  [{event['label']}] {event['site']}"


def event_json(event: Event) -> str:
    """An event as JSON, with what was spelled before taken as it is."""
    plain, spelled_out = {}, []
    for key, value in event.items():
        if isinstance(value, Spelled):
            spelled_out.append(f', "{key}": {value.json}')
        else:
            plain[key] = value
    return f"{json.dumps(plain)[:-1]}{''.join(spelled_out)}}}"


class _Writer:
    """Writes every call and note as one JSON object a line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def before(self, event: Event) -> None:
        pass

    def after(self, event: Event) -> None:
        self._file.write(event_json(event) + "\n")

    def note(self, note: Event) -> None:
        self._file.write(json.dumps(note) + "\n")


@contextmanager
def record_to(path: str | os.PathLike[str]) -> Iterator[None]:
    """Record every call made inside the block to `path`, one JSON object a line; also where the block fails.

    Raises CutawayError when the file can't be written.
    """
    with written_aside(path) as file, recorder.listening(_Writer(file)):
        yield
