"""A trace as data: a header, then calls and notes in order (bindings/trace.py says what is in them).

The header:

    kind "header"    version 1    command: what ran, as on a command line    started: ISO 8601
    device           {kind, name, arch, sm_count, total_memory, driver_version}, or null where none was opened
    clock            where the device's times come from: "cupti", "event pairs", "CPU device" or "none"
    rates            {read_bytes, flops} a second that this device was measured to reach, or null

A file of it is JSON lines: the header, then one record a line.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from bindings.errors import CutawayError
from bindings.trace import Event
from bindings.trace_file import written_aside
from tools.progress import Progress
from tools.trace.records import problem

VERSION = 1
LARGE = 16_000_000  # bytes of a file that takes a second to read


class TraceError(CutawayError):
    """A trace file that cannot be read."""


@dataclass
class Recording:
    """A trace in memory."""

    header: Event
    records: list[Event] = field(default_factory=list)

    @property
    def calls(self) -> Iterator[Event]:
        """The calls, in order."""
        return (record for record in self.records if record["kind"] == "call")

    @property
    def steps(self) -> Iterator[Event]:
        """The notes of the engine's steps, in order."""
        return (record for record in self.records if record["kind"] == "step")

    def write(self, path: Path) -> None:
        """Write JSON lines, aside and renamed. Raises CutawayError when that can't be done."""
        with written_aside(path) as file:
            for record in (self.header, *self.records):
                file.write(json.dumps(record) + "\n")

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Read what `write` wrote, and tell how far that is where it takes a while.

        Raises TraceError with the line for what is no trace, OSError if there is none.
        """
        nbytes = path.stat().st_size
        with path.open(encoding="utf-8", errors="replace") as file, Progress(quiet=nbytes < LARGE) as told:
            lines = _followed(file, nbytes, told)
            header = _header(_json(next(lines, "null"), 1, path), path)
            records = [_checked(_json(line, number, path), number, path) for number, line in enumerate(lines, start=2)]
        return cls(header, records)


def _followed(lines: Iterable[str], nbytes: int, told: Progress) -> Iterator[str]:
    done = 0
    for line in lines:
        yield line
        done += len(line)  # characters: a trace is ASCII
        told("read the trace", min(done, nbytes), nbytes, "bytes")


def _json(line: str, number: int, path: Path) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        if number > 1 and not line.endswith("\n"):
            whole = f"head -n {number - 1} {shlex.quote(str(path))} > whole.jsonl"
            raise TraceError(f"{path}: cut off in line {number}; what is before it can be read: {whole}") from None
        raise TraceError(f"{path}: line {number} is no JSON ({error})") from None


def _header(record: Any, path: Path) -> Event:
    if not isinstance(record, dict) or record.get("kind") != "header":
        raise TraceError(f"{path}: line 1 is no header of a trace; write one with python -m tools.trace --jsonl")
    if record.get("version") != VERSION:
        raise TraceError(f"{path}: a trace of version {record.get('version')}; this reads version {VERSION}")
    return _checked(record, 1, path)


def _checked(record: Any, number: int, path: Path) -> Event:
    wrong = problem(record) or ("is a second header" if record["kind"] == "header" and number > 1 else "")
    if wrong:
        raise TraceError(f"{path}: line {number} {wrong}")
    return cast(Event, record)
