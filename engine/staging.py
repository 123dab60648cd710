"""Small arrays that go to the device together: one buffer there, twins in pinned host memory, one copy a step."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from numpy.typing import NDArray

from bindings.device import Device, Stream
from bindings.dtypes import DType
from bindings.tensor import Tensor

ALIGNMENT = 256  # bytes: each array begins where an allocation of its own could
TWINS = 2  # the host fills one while the copy of the other waits for the step before it

Layout = Sequence[tuple[str, DType, tuple[int, ...]]]


class Staging:
    """Arrays of a fixed layout: `host[name]` to write to, `tensors[name]` for kernels to read, in the given order.

    The device addresses never change, so a captured graph reads each step's new values. `turn()` goes on to the next
    twin; the copy before the last one must have ended by then.
    """

    def __init__(self, device: Device, name: str, layout: Layout) -> None:
        offsets, nbytes = _offsets(layout)
        self._device, self.twin = device, 0  # the number of the twin whose turn it is
        self._buffer = device.alloc(nbytes, name)
        self._twins = [device.alloc_host(nbytes, f"{name}.host.{i}") for i in range(TWINS)]
        self._arrays: list[dict[str, NDArray]] = [
            {array: twin.numpy(dtype, shape, offsets[array]) for array, dtype, shape in layout} for twin in self._twins
        ]
        self.tensors: dict[str, Tensor] = {
            array: self._buffer.tensor(dtype, shape, offsets[array]) for array, dtype, shape in layout
        }

    @property
    def host(self) -> dict[str, NDArray]:
        """The arrays of the twin whose turn it is."""
        return self._arrays[self.twin]

    def turn(self) -> None:
        """Go on to the next twin."""
        self.twin = (self.twin + 1) % TWINS

    def upload(self, stream: Stream, nbytes: int | None = None) -> None:
        """Start the copy of the first `nbytes` (default: all). Until it has ended the host leaves the twin alone."""
        size = self._buffer.nbytes if nbytes is None else nbytes
        self._device.copy_in_async(self._buffer.address, self._twins[self.twin].address, size, stream)

    def free(self) -> None:
        """Free all of it; nothing on the device may be reading it any more."""
        for arrays in self._arrays:
            arrays.clear()
        for twin in self._twins:
            twin.free()
        self._buffer.free()


def _offsets(layout: Layout) -> tuple[dict[str, int], int]:
    offsets, offset = {}, 0
    for name, dtype, shape in layout:
        offsets[name] = offset
        offset += -(-dtype.itemsize * prod(shape) // ALIGNMENT) * ALIGNMENT
    return offsets, offset
