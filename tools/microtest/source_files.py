"""The files that a kernel is made of, as a place in a compiled kernel names them.

A compiled kernel may come from the cache, and may have been put there from another checkout with the same contents: it
names the files of that one.
"""

from __future__ import annotations

from pathlib import Path

from bindings.nvrtc import KERNEL_SOURCES, include_closure
from engine.spec import Op

HEADERS = KERNEL_SOURCES / "include"


class SourceFiles:
    """The `.cu` of an operation and what it includes."""

    def __init__(self, op: Op) -> None:
        self._by_name = {path.name: str(path) for path in include_closure(KERNEL_SOURCES / op.source, (HEADERS,))}

    def own(self, file: str) -> str:
        """This checkout's file for one that a compiled kernel names; `file` itself if it is none of the kernel's."""
        return self._by_name.get(Path(file).name, file)

    def own_place(self, place: str | None) -> str | None:
        """The same for `file:line`."""
        if place is None:
            return None
        file, _, line = place.rpartition(":")
        return f"{self.own(file)}:{line}"
