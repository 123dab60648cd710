"""The header of a GGUF file: metadata and the list of tensors, without touching the weights.

Layout (GGUF versions 2 and 3, little-endian; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md):

    "GGUF"  u32 version  u64 tensor count  u64 metadata count
    metadata: key string, u32 value type, value          (a string is a u64 length and UTF-8 bytes)
    tensors:  name string, u32 rank, u64 sizes (innermost first), u32 ggml type, u64 offset
    padding to `general.alignment` (32 where absent), then the tensors' data; offsets count from there

The `gguf` package has a reader too, but it keeps several NumPy views for every element of every array: 4.5 s
for a vocabulary of 49,152 tokens, where one pass over the bytes takes 0.1 s.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ModelError
from engine.fields import shown
from engine.mapped_file import DAMAGED, map_file

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
MAX_RANK = 4  # ggml's own limit
# A vocabulary of 256,000 tokens makes 15 MB and a million values. A damaged length in a file of many gigabytes must not
# turn its weights into Python objects, of 40 bytes each.
MAX_HEADER = 100_000_000  # bytes
MAX_VALUES = 1 << 23
# value type -> NumPy dtype of the scalar
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor's name, shape (outermost first, as NumPy has it), ggml type, and where it lies: file and offset."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int
    path: Path


@dataclass(frozen=True)
class GgufHeader:
    """Metadata values by key (numbers, strings, bools, lists) and tensors by name."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_gguf_header(path: str | Path) -> GgufHeader:
    """Read the header of the GGUF file at `path`.

    Raises:
        ModelError: the file can't be read, is no GGUF file of a known version, ends inside its header, or says
            something there that can't be: a name twice, a size of 0, an offset off the alignment.
    """
    path = Path(path)
    with map_file(path) as data:
        return _Parser(path, data).header()


class _Parser:
    """Walks over the bytes; `position` is the offset of the next unread one, `values` counts what was read."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.position, self.values = path, data, 0, 0

    def header(self) -> GgufHeader:
        if self.data[:4] != MAGIC:
            raise ModelError(f"{self.path}: not a GGUF file (it does not begin with 'GGUF')")
        self.position = 4
        self.check_version(self.number("<u4"))
        tensor_count, metadata_count = self.number("<u8"), self.number("<u8")
        metadata: dict[str, Any] = {}
        for _ in range(metadata_count):
            key = self.string()
            if key in metadata:
                raise self.damaged(f"key {shown(key)} is in it twice")
            metadata[key] = self.value(self.number("<u4"))
        tensors: dict[str, GgufTensor] = {}
        for _ in range(tensor_count):
            tensor = self.tensor()
            if tensor.name in tensors:
                raise self.damaged(f"tensor {shown(tensor.name)} is in it twice")
            tensors[tensor.name] = tensor
        return GgufHeader(self.path, metadata, self.at_file_offsets(tensors, metadata))

    def check_version(self, version: int) -> None:
        if version in VERSIONS:
            return
        if int.from_bytes(version.to_bytes(4, "big"), "little") in VERSIONS:
            raise ModelError(f"{self.path}: a big-endian GGUF file; only little-endian ones are supported")
        raise ModelError(f"{self.path}: GGUF version {version} is not supported, only 2 and 3; convert the model again")

    def at_file_offsets(self, tensors: dict[str, GgufTensor], metadata: dict[str, Any]) -> dict[str, GgufTensor]:
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
            raise self.damaged(f"general.alignment is {shown(alignment)}, expected a power of two from 8 on")
        for tensor in tensors.values():
            if tensor.offset % alignment:
                raise self.damaged(f"tensor {tensor.name} at offset {tensor.offset} is not aligned to {alignment}")
        start = -(-self.position // alignment) * alignment
        return {name: replace(tensor, offset=start + tensor.offset) for name, tensor in tensors.items()}

    def tensor(self) -> GgufTensor:
        name, rank = self.string(), self.number("<u4")
        if not 1 <= rank <= MAX_RANK:
            raise self.damaged(f"tensor {shown(name)} has {rank} dimensions, expected 1 to {MAX_RANK}")
        sizes = [self.number("<i8") for _ in range(rank)]
        if min(sizes) < 1:
            raise self.damaged(f"tensor {shown(name)} has the shape {sizes[::-1]}, expected sizes of at least 1")
        return GgufTensor(name, tuple(reversed(sizes)), self.number("<u4"), self.number("<u8"), self.path)

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array(self.number("<u4"), self.number("<u8"))
        return self.numbers(self.scalar(kind), 1)[0]

    def array(self, kind: int, count: int) -> list[Any]:
        if kind == STRING:
            self.expect(8 * count, count)  # their lengths alone: before a damaged count is counted down
            return [self.string() for _ in range(count)]
        return self.numbers(self.scalar(kind), count)

    def scalar(self, kind: int) -> str:
        if kind not in SCALARS:
            raise self.damaged(f"unknown metadata type {kind} at byte {self.position}")
        return SCALARS[kind]

    def number(self, dtype: str) -> int:
        return int(self.numbers(dtype, 1)[0])

    def numbers(self, dtype: str, count: int) -> list[Any]:
        nbytes = count * np.dtype(dtype).itemsize
        self.expect(nbytes, count)
        self.values += count
        return np.frombuffer(self.take(nbytes), dtype).tolist()

    def string(self) -> str:
        # struct, not NumPy: a vocabulary is a hundred thousand of these.
        (length,) = struct.unpack("<Q", self.take(8))
        self.values += 1
        return self.take(length).decode("utf-8", errors="replace")

    def take(self, count: int) -> bytes:
        self.expect(count)
        piece = self.data[self.position : self.position + count]
        self.position += count
        return piece

    def expect(self, nbytes: int, values: int = 0) -> None:
        """Raise ModelError if the header can't go on for so many bytes and values."""
        end = self.position + nbytes
        if end > len(self.data):
            raise ModelError(f"{self.path}: truncated: the header goes on past the end ({len(self.data)} bytes)")
        if end > MAX_HEADER or self.values + values > MAX_VALUES:
            what = f"a header of more than {MAX_HEADER} bytes or {MAX_VALUES} values"
            raise self.damaged(f"{what} (at byte {self.position})")

    def damaged(self, what: str) -> ModelError:
        return ModelError(f"{self.path}: {what}; {DAMAGED}")
