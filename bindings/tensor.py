"""A typed, shaped view of device memory. Always contiguous and row-major: the last axis is the fastest."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bindings.dtypes import DType, encode
from bindings.errors import CutawayError

if TYPE_CHECKING:
    from bindings.device import Buffer, Stream


class Tensor:
    """`shape` elements of `dtype` that begin `offset` bytes into `buffer`.

    The buffer owns the memory; a view keeps it alive only in the sense that it must not be freed before the view's
    last use on the device. Slicing rows and reshaping make new views and copy nothing.
    """

    def __init__(self, buffer: Buffer, dtype: DType, shape: tuple[int, ...], offset: int = 0) -> None:
        self.buffer, self.dtype, self.shape, self.offset = buffer, dtype, tuple(shape), offset
        self.nbytes = prod(self.shape) * dtype.itemsize
        self.address = buffer.address + offset
        if offset + self.nbytes > buffer.nbytes:
            raise CutawayError(f"{dtype.name}{list(shape)} at byte {offset} does not fit in {buffer.name}")

    @property
    def name(self) -> str:
        """The buffer's name, with the byte offset of a view that does not begin at its start."""
        return self.buffer.name + (f"+{self.offset:#x}" if self.offset else "")

    def __repr__(self) -> str:
        return f"{self.name}:{self.dtype.name}{list(self.shape)}"

    def __getitem__(self, rows: slice) -> Tensor:
        """The rows `start:stop` of the leading axis, as a view."""
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise CutawayError(f"a view of {self.name} takes whole runs of rows; the step must be 1, not {step}")
        row_bytes = prod(self.shape[1:]) * self.dtype.itemsize
        shape = (max(stop - start, 0), *self.shape[1:])
        return Tensor(self.buffer, self.dtype, shape, self.offset + start * row_bytes)

    def rows_from(self, start: int, count: int) -> Tensor:
        """`count` rows from row `start` on, as a view: they may reach past this tensor's last row into its buffer.

        Raises CutawayError where the buffer ends before them.
        """
        row_bytes = prod(self.shape[1:]) * self.dtype.itemsize
        return Tensor(self.buffer, self.dtype, (count, *self.shape[1:]), self.offset + start * row_bytes)

    def view(self, *shape: int) -> Tensor:
        """The same elements under another shape."""
        if prod(shape) != prod(self.shape):
            raise CutawayError(f"cannot view {self!r} as {list(shape)}: {prod(self.shape)} elements, not {prod(shape)}")
        return Tensor(self.buffer, self.dtype, shape, self.offset)

    def upload(self, values: NDArray, stream: Stream | None = None) -> None:
        """Copy host values in, rounded to the dtype unless they already are its carrier. Waits for the copy."""
        carrier = values if values.dtype == self.dtype.carrier else encode(values, self.dtype)
        if carrier.shape != self.shape:
            raise CutawayError(f"{self!r} cannot take values of shape {list(carrier.shape)}")
        self.buffer.device.copy_in(self.address, np.ascontiguousarray(carrier), stream)

    def numpy(self, stream: Stream | None = None) -> NDArray:
        """A host copy of the elements as the dtype's carrier (bf16 as uint16 bits). Waits for the copy."""
        out = np.empty(self.shape, self.dtype.carrier)
        self.buffer.device.copy_out(out, self.address, stream)
        return out

    def free(self) -> None:
        """Free the buffer behind this tensor; every view of it ends with it."""
        self.buffer.free()
