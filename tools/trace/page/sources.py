"""The texts of the kernels that a trace launched, with what they include, as they are when the page is written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bindings.nvrtc import KERNEL_SOURCES, include_closure

Record = dict[str, Any]

# A trace may come from somebody else, and a page may be given to others: no other files get into it.
_SUFFIXES = (".cu", ".cuh", ".h")


def sources_of(records: Iterable[Record]) -> Record:
    """{"files": {name: text}, "includes": {source: [names]}}; a source that is not on this machine is left out."""
    files: dict[str, str] = {}
    includes: dict[str, list[str]] = {}
    for source in sorted({record["source"] for record in records if "source" in record}):
        path = KERNEL_SOURCES / source
        if path.suffix in _SUFFIXES and path.is_file():
            own, *others = include_closure(path, (KERNEL_SOURCES / "include",))
            files |= {_name(other): _text(other) for other in others} | {source: _text(own)}
            includes[source] = [_name(other) for other in others]
    return {"files": files, "includes": includes}


def _name(path: Path) -> str:
    return path.relative_to(KERNEL_SOURCES).as_posix() if path.is_relative_to(KERNEL_SOURCES) else str(path)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
