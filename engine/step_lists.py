"""Lists of a step whose length differs from step to step, on their way to the device."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from numpy.typing import NDArray

from bindings.device import Buffer, Device, HostBuffer, Stream
from bindings.dtypes import DType
from bindings.tensor import Tensor

Layout = Sequence[tuple[str, DType, tuple[int, ...]]]

ALIGNMENT = 16  # bytes: the widest access of a kernel
SMALLEST = 4096  # bytes: most lists never outgrow their first allocation


class StepLists:
    """Two twins of pinned memory and device memory, taken in turn: what the step before brought may still be read.

    A twin that is too small is replaced by one at least twice as large: allocating waits for the device, so it must
    be rare. It is this twin's turn again only when the step that had it has ended, so nothing reads it any more.
    """

    def __init__(self, device: Device, stream: Stream, name: str) -> None:
        self._device, self._stream, self._name = device, stream, name
        self._twins: list[tuple[HostBuffer, Buffer] | None] = [None, None]
        self._turn, self._nbytes = 0, 0
        self._layout: dict[str, tuple[DType, tuple[int, ...], int]] = {}

    def begin(self, layout: Layout) -> dict[str, NDArray]:
        """The host arrays of this step's lists, to be written whole; then `upload`."""
        self._layout, offset = {}, 0
        for name, dtype, shape in layout:
            self._layout[name] = (dtype, shape, offset)
            offset += -(-dtype.itemsize * prod(shape) // ALIGNMENT) * ALIGNMENT
        self._turn, self._nbytes = 1 - self._turn, offset
        host, _ = self._twin(offset)
        return {name: host.numpy(dtype, shape, at) for name, (dtype, shape, at) in self._layout.items()}

    def _twin(self, nbytes: int) -> tuple[HostBuffer, Buffer]:
        twin = self._twins[self._turn]
        if twin is None or twin[1].nbytes < nbytes:
            size = max(SMALLEST, nbytes, 2 * twin[1].nbytes if twin else 0)
            self._free(twin)
            name = f"{self._name}.{self._turn}"
            twin = self._device.alloc_host(size, f"{name}.host"), self._device.alloc(size, name)
            self._twins[self._turn] = twin
        return twin

    def upload(self) -> dict[str, Tensor]:
        """Start the one copy that brings the lists over; the tensors that will hold them."""
        host, buffer = self._twin(self._nbytes)
        self._device.copy_in_async(buffer.address, host.address, self._nbytes, self._stream)
        return {name: buffer.tensor(dtype, shape, at) for name, (dtype, shape, at) in self._layout.items()}

    def _free(self, twin: tuple[HostBuffer, Buffer] | None) -> None:
        for buffer in twin or ():
            buffer.free()

    def close(self) -> None:
        """Free the memory; no step that uses it may be under way."""
        for twin in self._twins:
            self._free(twin)
        self._twins = [None, None]
