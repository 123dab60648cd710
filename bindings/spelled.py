"""What was spelled out for a person before need not be spelled again: a decode step makes the calls of the step before.

Everything that is kept follows from its key and from the names of buffers, and is forgotten when one of these changes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from bindings.memory import memory_map

MAX_KEPT = 16_384

_kept: dict[Hashable, dict[str, Any]] = {}
_version = -1


def spelled(key: Hashable, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """`make()`, or what it gave for an equal key before. The dictionary is shared: only read it."""
    global _version
    if _version != memory_map.version or len(_kept) >= MAX_KEPT:
        _kept.clear()
        _version = memory_map.version
    try:
        found = _kept.get(key)
    except TypeError:  # a list or the like among the arguments
        return make()
    if found is None:
        found = _kept[key] = make()
    return found
