"""Why an address can't be freed: freed before and where, inside an allocation, or never given to anybody."""

from __future__ import annotations

from collections import OrderedDict

from bindings.cpu.buffer_names import describe
from bindings.cpu.context import INVALID_VALUE, Failure, on_context_end
from bindings.cpu.memory import Allocation, Kind, heap
from bindings.memory import memory_map
from bindings.trace import call_site

REMEMBERED = 1024  # frees; as long as the addresses stay out of use (memory.QUARANTINE_ALLOCATIONS)
CALLS: dict[Kind, str] = {"device": "cuMemFree", "host": "cuMemFreeHost"}

_freed: OrderedDict[int, str] = OrderedDict()  # by address: the name that it had, and the line that freed it
on_context_end.append(_freed.clear)


def _name(allocation: Allocation) -> str:
    name = memory_map.describe(allocation.address)
    return f"the {allocation.nbytes} bytes at {name}" if name == hex(allocation.address) else name


def require_freeable(address: int, kind: Kind) -> Allocation:
    """The living allocation of `kind` that begins at `address`; fails the call, and says why, if there is none."""
    found = heap.find(address)
    if found is None:
        raise Failure(INVALID_VALUE, f"no allocation was ever at {address:#x}")
    allocation = found.allocation
    if not found.live:
        inside = "" if found.offset == 0 else f"{address:#x} is offset {found.offset} of memory that is gone: "
        raise Failure(INVALID_VALUE, inside + _freed.get(allocation.address, f"{_name(allocation)} was freed before"))
    if found.offset:
        whole = f"{_name(allocation)} begins at {allocation.address:#x}"
        raise Failure(INVALID_VALUE, f"only a whole allocation can be freed, not {describe(address)}: {whole}")
    if allocation.kind != kind:
        right = CALLS[allocation.kind]
        raise Failure(INVALID_VALUE, f"{_name(allocation)} is {allocation.kind} memory: free it with {right}")
    return allocation


def remember(allocation: Allocation) -> None:
    """Called before `allocation` is freed: its name is still known."""
    _freed[allocation.address] = f"{_name(allocation)} was freed before, at {call_site()}"
    if len(_freed) > REMEMBERED:
        _freed.popitem(last=False)
