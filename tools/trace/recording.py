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

from bindings.errors import CutawayError
from bindings.trace import Event, written_aside
from tools.progress import Progress

VERSION = 1
LARGE = 16_000_000  # bytes of a file that takes a second to read
NEEDED = {
    "call": ("n", "t_us", "call", "args", "label", "site", "host_us", "result"),
    "step": ("t_us", "step", "decodes", "prefills", "copies", "tables", "released", "preempted", "num_pages",
             "page_size", "free", "cached", "waiting", "running"),
}  # fmt: skip


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
        with path.open(encoding="utf-8", errors="replace") as file, Progress(quiet=path.stat().st_size < LARGE) as told:
            lines = _followed(file, path.stat().st_size, told)
            records = [_parse(line, number, path) for number, line in enumerate(lines, start=1)]
        if not records or records[0].get("kind") != "header":
            raise TraceError(f"{path}: line 1 is no header of a trace; write one with python -m tools.trace --jsonl")
        header, *rest = records
        if header.get("version") != VERSION:
            raise TraceError(f"{path}: a trace of version {header.get('version')}; this reads version {VERSION}")
        return cls(header, rest)


def _followed(lines: Iterable[str], nbytes: int, told: Progress) -> Iterator[str]:
    done = 0
    for line in lines:
        yield line
        done += len(line)  # characters: a trace is ASCII
        told("read the trace", min(done, nbytes), nbytes, "bytes")


def _parse(line: str, number: int, path: Path) -> Event:
    try:
        record = json.loads(line)
    except ValueError as error:
        if number > 1 and not line.endswith("\n"):
            whole = f"head -n {number - 1} {shlex.quote(str(path))} > whole.jsonl"
            raise TraceError(f"{path}: cut off in line {number}; what is before it can be read: {whole}") from None
        raise TraceError(f"{path}: line {number} is no JSON ({error})") from None
    if not isinstance(record, dict) or "kind" not in record:
        raise TraceError(f"{path}: line {number} is no record of a trace: it has no kind")
    missing = [name for name in NEEDED.get(record["kind"], ()) if name not in record]
    if missing and number > 1:  # the first line must be a header, which is told by who asks for it
        raise TraceError(f"{path}: line {number} is no {record['kind']} of a trace: it has no {', '.join(missing)}")
    return record
