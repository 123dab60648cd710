"""The trace as JSON lines, written while the run goes on: one that is broken off leaves what it had until then."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from bindings.activity import Choice
from bindings.trace import Event, event_json, recorder
from bindings.trace_file import written_aside
from tools.trace.session import Session


class JsonLines:
    """A view (session.py) that writes each record as a line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def header(self, header: Event) -> None:
        self._file.write(json.dumps(header) + "\n")

    def call(self, event: Event) -> None:
        self._file.write(event_json(event) + "\n")

    def note(self, note: Event) -> None:
        self._file.write(json.dumps(note) + "\n")

    def close(self) -> None:
        pass


@contextmanager
def written(path: Path, command: Sequence[str], times: Choice = "off") -> Iterator[None]:
    """Record what happens inside the block to `path`. Raises CutawayError when the file can't be written."""
    with written_aside(path) as file:
        session = Session(shlex.join(command), times, [JsonLines(file)])
        try:
            with recorder.listening(session):
                yield
        finally:
            session.close()
