"""Reading device memory while the program stands still.

Nothing here is recorded: what a listener asks of the device is its own business (bindings/trace.py). A read waits for
all work given to the device, so that it sees what the calls so far have computed. It is refused where it would break
something: while a stream captures a graph (waiting ends a capture), and after an error that killed the context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import prod

import numpy as np
from numpy.typing import NDArray

from bindings import calls
from bindings.device import Device
from bindings.dtypes import DType, decode
from bindings.errors import CudaError
from bindings.memory import memory_map
from bindings.tensor import Tensor
from bindings.trace import Event
from tools.trace.debugger.errors import CommandError
from tools.trace.debugger.selection import Index, Selection

MOST_AT_ONCE = 64 << 20  # bytes that are brought over to be shown or kept
PART = 8 << 20  # bytes of a part, where figures are taken of more


@dataclass(frozen=True)
class Region:
    """`shape` elements of `dtype` at `address`, row-major; `name` is the buffer's, with an offset if it has one."""

    name: str
    address: int
    dtype: DType
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Region:
        """The same elements as a tensor's."""
        return cls(tensor.name, tensor.address, tensor.dtype, tensor.shape)

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.name}:{self.dtype.name}{list(self.shape)}"

    def narrowed(self, index: Index) -> tuple[Region, Index]:
        """The smallest run of memory that holds what `index` picks, and how to pick it from there.

        Raises CommandError for an index that does not fit the shape.
        """
        self._check(index)
        region, rest = self, list(index)
        while rest and isinstance(rest[0], int):
            region, rest = region.rows(range(region.shape[0])[rest[0]], None), rest[1:]
        if rest and isinstance(rest[0], slice):
            rows = range(region.shape[0])[rest[0]]
            if rows and rows.step == 1:
                region, rest = region.rows(rows.start, len(rows)), [slice(None), *rest[1:]]
        return region, tuple(rest)

    def rows(self, start: int, count: int | None) -> Region:
        """Rows of the leading axis; without `count` one row, and the axis is gone."""
        row_bytes = prod(self.shape[1:]) * self.dtype.itemsize
        shape = self.shape[1:] if count is None else (count, *self.shape[1:])
        return replace(self, address=self.address + start * row_bytes, shape=shape)

    def _check(self, index: Index) -> None:
        try:
            np.broadcast_to(np.int8(0), self.shape)[index]
        except (IndexError, ValueError) as error:  # ValueError: a slice with step 0
            raise CommandError(f"{self}: {error}") from None

    def parts(self) -> Iterator[Region]:
        """The same elements in runs of at most PART bytes."""
        flat, most = replace(self, shape=(self.size,)), PART // self.dtype.itemsize
        return (flat.rows(start, min(most, self.size - start)) for start in range(0, self.size, most))


class DeviceMemory:
    """What of the device's memory has a name, and its contents."""

    def __init__(self) -> None:
        self._seen: dict[str, Region] = {}
        self._device: Device | None = None
        self._is_capturing = False
        self._errors_before = calls.sticky_errors  # of a device that was closed before this run

    def remember(self, operands: Mapping[str, Tensor]) -> None:
        """Tensors of a call: they can be asked for by their buffers' names from now on."""
        for tensor in operands.values():
            self._device = tensor.buffer.device
            self.know(Region.of(tensor))

    def know(self, region: Region) -> None:
        """Elements that can be asked for by the name of the region."""
        self._seen[region.name] = region

    def follow(self, event: Event) -> None:
        """A call has been made: after some, memory is not what it was, or can't be read."""
        if event["call"] in ("cuStreamBeginCapture", "cuStreamEndCapture"):
            self._is_capturing = event["call"] == "cuStreamBeginCapture" and event["result"] == "ok"
        if event["call"] == "cuMemFree" and "buffer" in event:
            for known in [known for known in self._seen if known.partition("+")[0] == event["buffer"]]:
                del self._seen[known]

    @property
    def names(self) -> list[str]:
        """What can be asked for beside the operands of a call."""
        return list(self._seen)

    def find(self, wanted: Selection, operands: Mapping[str, Tensor]) -> Region:
        """The elements that a selection names, its index aside. Raises CommandError when it names none."""
        known = self._known(wanted, operands)
        if wanted.dtype is None or wanted.shape is None:
            if known is None:
                raise CommandError(self._unknown(wanted, operands))
            return known
        return self._spelled(wanted, known, wanted.dtype, wanted.shape)

    def _known(self, wanted: Selection, operands: Mapping[str, Tensor]) -> Region | None:
        if wanted.offset == 0 and wanted.name in operands:
            return Region.of(operands[wanted.name])
        return self._seen.get(_with_offset(wanted))

    def _spelled(self, wanted: Selection, known: Region | None, dtype: DType, shape: tuple[int, ...]) -> Region:
        """Memory read as `dtype` and `shape`, whatever it was read as before, as far as its buffer goes."""
        address = _live(wanted.name) + wanted.offset if known is None else known.address
        region = Region(known.name if known else _with_offset(wanted), address, dtype, shape)
        end = next((start + nbytes for start, nbytes, _ in memory_map.live() if start <= address < start + nbytes), 0)
        if address + region.nbytes > end:
            raise CommandError(f"{region} does not fit: its buffer ends {max(end - address, 0):,} bytes from there")
        return region

    def _unknown(self, wanted: Selection, operands: Mapping[str, Tensor]) -> str:
        if any(name == wanted.name for _, _, name in memory_map.live()):
            spelled = f"{wanted.name}:bf16[2, 8]"
            return f"no call so far says how to read {wanted.name}: give dtype and shape, as in peek {spelled}"
        names = [*operands, *self._seen, *(name for _, _, name in memory_map.live())]
        nearest = get_close_matches(wanted.name, names, n=1)
        here = f"this call has {', '.join(operands)}" if operands else "this call has no operands"
        return f"nothing is called {wanted.name}; {f'nearest: {nearest[0]}; ' if nearest else ''}{here}"

    def read(self, region: Region, index: Index = ()) -> NDArray:
        """The values that `index` picks, bf16 and f16 widened to float32. Raises CommandError where that can't be."""
        narrow, rest = region.narrowed(index)
        if narrow.nbytes > MOST_AT_ONCE:
            raise CommandError(
                f"that would bring {narrow.nbytes / 1e6:,.0f} MB over; give the leading axes of {region} a number"
            )
        return decode(self.read_bits(narrow)[rest], region.dtype)

    def read_bits(self, region: Region) -> NDArray:
        """All elements as the dtype's carrier, bf16 as its bits. Raises CommandError where they can't be read."""
        device = self._readable(region)
        bits = np.empty(region.shape, region.dtype.carrier)
        try:
            device.synchronize()  # the stream that computes them need not be the one that brings them
            device.copy_out(bits, region.address)
        except CudaError as error:
            raise CommandError(f"cannot read {region.name}: {error}") from error
        return bits

    def _readable(self, region: Region) -> Device:
        if self._device is None:
            raise CommandError("no kernel or product has been called yet: the device has nothing to show")
        if self._is_capturing:
            raise CommandError(
                "cannot read device memory now: the stream is being captured into a graph, and waiting for it would"
                " break the capture; nothing of it has run yet"
            )
        if calls.sticky_errors > self._errors_before:
            raise CommandError("cannot read device memory any more: an error has killed the context")
        owner = memory_map.name_at(region.address)
        if owner is None or owner.startswith("freed "):
            raise CommandError(f"cannot read {region.name}: it has been freed")
        return self._device


def _with_offset(wanted: Selection) -> str:
    """As tensors are named."""
    return f"{wanted.name}+{wanted.offset:#x}" if wanted.offset else wanted.name


def _live(name: str) -> int:
    """The address of a live buffer. Raises CommandError when none is called so."""
    addresses = {other: address for address, _, other in memory_map.live()}
    if name not in addresses:
        nearest = get_close_matches(name, addresses, n=1)
        raise CommandError(f"no buffer is called {name}{f'; nearest: {nearest[0]}' if nearest else ''}")
    return addresses[name]
