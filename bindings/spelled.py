"""What was spelled out for a person before need not be spelled again: a decode step makes the calls of the step before.

Everything that is kept follows from its key and from the names of buffers, and is forgotten when one of these changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, TypeVar

from bindings.memory import memory_map


class Spelled(dict[str, Any]):
    """Words that stay what they are, so that their text is made once. Only read it: it is shared."""

    @cached_property
    def text(self) -> str:
        """As `name=value, name=value`."""
        return ", ".join(f"{name}={value}" for name, value in self.items())

    @cached_property
    def json(self) -> str:
        """As a JSON object."""
        return json.dumps(self)


MAX_KEPT = 16_384

Words = TypeVar("Words", bound=dict[str, Any])

_kept: dict[Hashable, Any] = {}
_version = -1


def spelled(key: Hashable, make: Callable[[], Words]) -> Words:
    """`make()`, or what it gave for an equal key before. The dictionary is shared: only read it."""
    global _version
    if _version != memory_map.version or len(_kept) >= MAX_KEPT:
        _kept.clear()
        _version = memory_map.version
    try:
        found: Words | None = _kept.get(key)
    except TypeError:  # a list or the like among the arguments
        return make()
    if found is None:
        found = _kept[key] = make()
    return found
