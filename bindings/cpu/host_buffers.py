"""Host memory that an asynchronous copy still needs: whether the program leaves it alone until the copy has run.

Only for copies that run later than they were given: lazy streams (pending.py).
* The source of a copy to the device is remembered when the copy is given and compared when it runs.
* The target of a copy to the host is poisoned when the copy is given: a program that reads it before it has waited sees
  0xFF bytes (NaN; -1), not the values that it hoped for. A read of host memory can't be seen.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from bindings.cpu.buffer_names import describe
from bindings.cpu.context import fault, on_context_end
from bindings.cpu.executor import Report
from bindings.cpu.memory import POISON
from bindings.cpu.operations import Span

_watched: dict[SourceWatch, None] = {}
on_context_end.append(_watched.clear)


def _bytes_at(address: int, nbytes: int) -> NDArray[np.uint8]:
    """A view of host memory."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


class SourceWatch:
    """The `nbytes` at `address` as they were when a copy from there was given to a stream."""

    def __init__(self, address: int, nbytes: int) -> None:
        self._address, self.nbytes = address, nbytes
        self._bytes = _bytes_at(address, nbytes).copy()
        _watched[self] = None

    def meets(self, span: Span) -> bool:
        """Whether this looks after a byte of `span`."""
        return span.meets(Span(self._address, self.nbytes, written=False))

    def expect_again(self, span: Span) -> None:
        """An operation, not the host, has written `span`: what is there now is what the copy is to read."""
        first = max(span.address, self._address)
        last = min(span.address + span.nbytes, self._address + self.nbytes)
        self._bytes[first - self._address : last - self._address] = _bytes_at(first, last - first)

    def end(self) -> None:
        """Kill the context if the bytes are not what they were."""
        self.drop()
        changed = np.flatnonzero(_bytes_at(self._address, self.nbytes) != self._bytes)
        if changed.size:
            address = self._address + int(changed[0])
            text = (
                f"the host changed {describe(self._address)}, the source of a copy of {self.nbytes} bytes, before the "
                f"copy ran; the first changed byte is byte {changed[0]}: wait for the copy before you reuse its source"
            )
            raise fault(Report("host buffer reused", "cuMemcpyHtoDAsync", None, None, address, None, text))

    def drop(self) -> None:
        """Look no longer."""
        _watched.pop(self, None)


def device_wrote(span: Span) -> None:
    """Called after an operation that wrote host memory: copies that wait to read it read the new bytes."""
    for watch in _watched:
        if watch.meets(span):
            watch.expect_again(span)


def poison_target(span: Span) -> None:
    """Called when a copy to the host is given: poison its target, unless a copy that came before has yet to read it."""
    if not any(watch.meets(span) for watch in _watched):
        ctypes.memset(span.address, POISON, span.nbytes)
