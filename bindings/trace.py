"""The recorder: who called what, when, for how long, from which line, under which label.

Off by default, and then it costs nothing: the door hands out functions that know nothing of it. `record_to(path)`
writes one JSON line a call. `CUTAWAY_TRACE=1` prints each call's name to stderr before it is made, `2` its arguments
too, so that the last line before a crash is the culprit.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from bindings.errors import CutawayError

_BINDINGS = str(Path(__file__).parent)
_PROJECT = str(Path(__file__).parent.parent)


def print_level() -> int:
    """$CUTAWAY_TRACE: 0, 1 or 2. Raises CutawayError when it is none of them."""
    value = os.environ.get("CUTAWAY_TRACE", "0")
    if value not in ("0", "1", "2"):
        raise CutawayError(f"CUTAWAY_TRACE is {value!r}; it must be 0 (off), 1 (names) or 2 (names and arguments)")
    return int(value)


def call_site() -> str:
    """`file:line` of the nearest caller that says something, relative to the project where it lies inside it.

    Passed over: bindings/ itself, and modules that only hand calls on (they set `TRACE_PASSES_OVER = True`).
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(_BINDINGS) or frame.f_globals.get("TRACE_PASSES_OVER", False)
    ):
        frame = frame.f_back
    name = frame.f_code.co_filename
    name = os.path.relpath(name, _PROJECT) if name.startswith(_PROJECT) else name
    return f"{name}:{frame.f_lineno}"


class Recorder:
    """Collects calls while something listens: a JSON-lines file, stderr, or both.

    `active` is read by the door and by Kernel.launch; `labels` is the stack that `label()` pushes to;
    `detail` holds what the caller of the next driver call wants recorded beside it (a kernel's named arguments).
    """

    def __init__(self) -> None:
        self.file: TextIO | None = None
        self.labels: list[str] = []
        self.detail: dict[str, Any] = {}
        self.count = 0
        self.origin = time.perf_counter_ns()
        self.on_change: Callable[[], None] = lambda: None

    @cached_property
    def print_level(self) -> int:
        """$CUTAWAY_TRACE, read at the first call. Raises CutawayError when it is no level."""
        return print_level()

    @property
    def active(self) -> bool:
        """Whether calls are being recorded or printed."""
        return self.file is not None or self.print_level > 0

    def before(self, name: str, arguments: dict[str, str]) -> dict[str, Any]:
        """Open the event of a call about to be made, and print it if CUTAWAY_TRACE asks for that."""
        self.count += 1
        event = {
            "n": self.count,
            "t_us": (time.perf_counter_ns() - self.origin) / 1e3,
            "call": name,
            "args": arguments,
            "label": " / ".join(self.labels),
            "site": call_site(),
            **self.detail,
        }
        self.detail = {}
        if self.print_level:
            print(self._line(event), file=sys.stderr, flush=True)
        return event

    def after(self, event: dict[str, Any], started_ns: int, result: str) -> None:
        """Close an event with its host duration and its result, and write it."""
        event["host_us"] = (time.perf_counter_ns() - started_ns) / 1e3
        event["result"] = result
        if self.file is not None:
            self.file.write(json.dumps(event) + "\n")

    def _line(self, event: dict[str, Any]) -> str:
        if self.print_level == 1:
            return str(event["call"])
        arguments = ", ".join(f"{key}={value}" for key, value in event["args"].items())
        launch = "".join(f" {key}={event[key]}" for key in ("kernel", "params") if key in event)
        return f"{event['call']}({arguments}){launch}  [{event['label']}] {event['site']}"


recorder = Recorder()


class label:
    """`with label("layer 3"):` names the calls made inside; labels nest as `step 12 / decode / layer 3`."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __enter__(self) -> None:
        recorder.labels.append(self.text)

    def __exit__(self, *_: object) -> None:
        recorder.labels.pop()


@contextmanager
def record_to(path: str | os.PathLike[str]) -> Iterator[None]:
    """Record every call made inside the block to `path`, one JSON object a line.

    Written aside and renamed at the end, so that a file of that name is always whole.
    Raises CutawayError when the file can't be written.
    """
    target = Path(path)
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        recorder.file = aside.open("w", encoding="utf-8")
    except OSError as error:
        raise CutawayError(f"cannot write the trace to {target}: {error.strerror}") from error
    recorder.on_change()
    try:
        yield
    finally:
        recorder.file.close()
        recorder.file = None
        recorder.on_change()
        aside.replace(target)
