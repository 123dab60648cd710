"""Names of the driver's handles: `stream 1`, `rmsnorm`, `graph 3` in place of an address, for errors and traces.

A handle's type is part of the key: on a device that numbers its handles, a stream and a graph may have one number.
"""

from typing import Any

from bindings.memory import memory_map

_names: dict[tuple[type, int], str] = {}
_handles: dict[str, Any] = {}


def name_handle(handle: Any, name: str) -> None:
    """Let `handle` (a CUstream, CUfunction, ...) be called `name` from now on."""
    _names[type(handle), int(handle)] = name
    _handles[name] = handle
    memory_map.version += 1  # what was spelled for this number is wrong now


def forget_handle(handle: Any) -> None:
    """The handle is destroyed, and its number may come back for another."""
    memory_map.version += 1
    name = _names.pop((type(handle), int(handle)), "")
    _handles.pop(name, None)


def handle_name(handle: Any) -> str | None:
    """The name of a handle; None for what has none, plain numbers among it."""
    return _names.get((type(handle), int(handle)))


def handle_named(name: str) -> Any:
    """The handle that was last given this name. Raises KeyError when there is none."""
    return _handles[name]
