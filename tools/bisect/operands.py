"""The tensors of one operation: its inputs as host values, and the parts of its outputs that it wrote.

An operation does not always write a tensor whole. Of the KV pages it writes the slots of this step's tokens, and a
split of a sequence that has no such split is left alone. Only what was written can be compared, and only that crosses
the pipe: the pool of pages may be as large as the device's memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bindings.dtypes import decode
from bindings.tensor import Tensor
from engine.ops import SPLIT_TOKENS
from tools.bisect.messages import Index

POOLS = ("k_cache", "v_cache")  # never read whole


class Operands:
    """What an operation was given. `inout` tensors are read before it runs, all others when somebody asks.

    params: the kernel's scalars by name, as the recorder spells them; of a matrix product `transpose_b` too.
    """

    def __init__(self, tensors: Mapping[str, Tensor], roles: Mapping[str, str], params: Mapping[str, Any]) -> None:
        self.tensors, self.roles, self.params = dict(tensors), roles, params
        kept = [name for name, role in roles.items() if role == "inout" and name not in POOLS]
        self._host = {name: self._read(name) for name in kept}

    def _read(self, name: str) -> NDArray:
        tensor = self.tensors[name]
        return decode(tensor.numpy(), tensor.dtype)

    def __getitem__(self, name: str) -> NDArray:
        """The host values of an input (bf16 as float32), as they were before the operation."""
        if name not in self._host:
            self._host[name] = self._read(name)
        return self._host[name]

    def scalar(self, name: str) -> float:
        """A number that was passed by value."""
        return float(self.params[name])

    def turns(self) -> NDArray[np.float32]:
        """The rows [T, D] of rope_kv_write's cos_sin for its positions; the table is as long as the context can be."""
        positions, table = self["positions"], self.tensors["cos_sin"]
        first = int(positions.min())
        rows: NDArray[np.float32] = table[first : int(positions.max()) + 1].numpy()[positions - first]
        return rows

    @property
    def outputs(self) -> list[str]:
        """The tensors that the operation writes."""
        return [name for name, role in self.roles.items() if role != "in"]

    def grow(self, rows: Mapping[str, int]) -> None:
        """Take in the rows that the next block of the same matrix product wrote and read."""
        for name, count in rows.items():
            tensor = self.tensors[name]
            self.tensors[name] = tensor.rows_from(0, tensor.shape[0] + count)
        self._host.clear()


class Part(Protocol):
    """What an operation wrote of a tensor."""

    def read(self) -> NDArray:
        """The elements, in the dtype's carrier."""

    def write(self, values: NDArray) -> None:
        """Put others in their place."""

    def place(self, index: Index) -> str:
        """Where an element of what `read` gives lies in the tensor, as its index there."""


class Whole:
    """All of a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def read(self) -> NDArray:
        return self._tensor.numpy()

    def write(self, values: NDArray) -> None:
        self._tensor.upload(values)

    def place(self, index: Index) -> str:
        return _spell(index)


class Slots:
    """The rows of a step's tokens in the pages [P, NKV, B, D] of one layer, as [tokens, NKV, D].

    slots: i32[T], page * B + offset of each token; -1 where nothing is written.
    """

    def __init__(self, pages: Tensor, slots: NDArray[np.int32]) -> None:
        self._pages, self._slots = pages, slots[slots >= 0]

    def _place_of(self, token: int) -> tuple[int, int]:
        page, offset = divmod(int(self._slots[token]), self._pages.shape[2])
        return page, offset

    def read(self) -> NDArray:
        return gather(self._pages, self._slots)

    def write(self, values: NDArray) -> None:
        size = self._pages.shape[2]
        for page in np.unique(self._slots // size).tolist():
            tensor = self._pages[page : page + 1]
            whole, mine = tensor.numpy(), np.flatnonzero(self._slots // size == page)
            whole[0][:, self._slots[mine] % size] = values[mine].swapaxes(0, 1)
            tensor.upload(whole)

    def place(self, index: Index) -> str:
        page, offset = self._place_of(index[0])
        return _spell((page, index[1], offset, index[2]))


class LiveSplits:
    """The splits [S, NH, C, …] that their sequences have; zeros stand for the others."""

    def __init__(self, tensor: Tensor, seq_lens: NDArray[np.int32]) -> None:
        self._tensor = tensor
        live = np.arange(tensor.shape[2]) * SPLIT_TOKENS < seq_lens[:, None]
        self.live = live.reshape(live.shape[0], 1, live.shape[1], *[1] * (len(tensor.shape) - 3))

    def read(self) -> NDArray:
        return np.where(self.live, self._tensor.numpy(), 0).astype(self._tensor.dtype.carrier)

    def write(self, values: NDArray) -> None:
        self._tensor.upload(np.where(self.live, values, self._tensor.numpy()))

    def place(self, index: Index) -> str:
        return _spell(index)


def part(op: str, name: str, operands: Operands) -> Part:
    """What the operation `op` writes of its output `name`."""
    tensor = operands.tensors[name]
    if name in POOLS:
        return Slots(tensor, operands["slot_mapping"])
    if op == "decode_attention":
        return LiveSplits(tensor, operands["seq_lens"])
    return Whole(tensor)


def sequences(operands: Operands) -> Iterator[tuple[slice, NDArray[np.int32], NDArray, NDArray]]:
    """Of each sequence that attends: its rows of qkv, its slots, and its keys and values [L, NKV, D] as host values."""
    pools = [operands.tensors[name] for name in POOLS]
    size, tables = pools[0].shape[2], operands["block_tables"]
    starts = operands["query_starts"] if "query_starts" in operands.tensors else np.arange(len(tables) + 1)
    for s, length in enumerate(operands["seq_lens"].tolist()):
        tokens = np.arange(length)
        slots = tables[s][tokens // size] * size + tokens % size
        keys, values = (decode(gather(pool, slots), pool.dtype) for pool in pools)
        yield slice(int(starts[s]), int(starts[s + 1])), slots, keys, values


def gather(pages: Tensor, slots: NDArray[np.int32]) -> NDArray:
    """The rows [len(slots), NKV, D] of these slots of pages [P, NKV, B, D], in the dtype's carrier."""
    size = pages.shape[2]
    rows = np.empty((len(slots), pages.shape[1], pages.shape[3]), pages.dtype.carrier)
    for page in np.unique(slots // size).tolist():
        mine = np.flatnonzero(slots // size == page)
        rows[mine] = pages[page : page + 1].numpy()[0][:, slots[mine] % size].swapaxes(0, 1)
    return rows


def _spell(index: Index) -> str:
    return f"[{', '.join(map(str, index))}]"
