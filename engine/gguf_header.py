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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
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
    """A tensor's name, shape (outermost first, as NumPy has it), ggml type and offset in the file."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """Metadata values by key (numbers, strings, bools, lists) and tensors by name."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_gguf_header(path: str | Path) -> GgufHeader:
    """Read the header of the GGUF file at `path`.

    Raises:
        ModelError: the file is missing, is no GGUF file of a known version, or ends inside its header.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Parser(path, data).header()
    except (OSError, ValueError) as error:  # mmap refuses an empty file with a ValueError
        raise ModelError(f"{path}: cannot be read as a GGUF file: {error}") from error


class _Parser:
    """Walks over the bytes; `position` is the offset of the next unread one."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.position = path, data, 0

    def header(self) -> GgufHeader:
        if self.take(4) != MAGIC:
            raise ModelError(f"{self.path}: not a GGUF file (it does not begin with 'GGUF')")
        version = self.number("<u4")
        if version not in VERSIONS:
            raise ModelError(f"{self.path}: GGUF version {version} is not supported (only 2 and 3, little-endian)")
        tensor_count, metadata_count = self.number("<u8"), self.number("<u8")
        metadata = {}
        for _ in range(metadata_count):
            key = self.string()
            metadata[key] = self.value(self.number("<u4"))
        tensors = [self.tensor() for _ in range(tensor_count)]
        return GgufHeader(self.path, metadata, self.at_file_offsets(tensors, metadata))

    def at_file_offsets(self, tensors: list[GgufTensor], metadata: dict[str, Any]) -> dict[str, GgufTensor]:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0:
            raise ModelError(f"{self.path}: general.alignment is {alignment!r}, expected a positive number")
        start = -(-self.position // alignment) * alignment
        return {t.name: GgufTensor(t.name, t.shape, t.ggml_type, start + t.offset) for t in tensors}

    def tensor(self) -> GgufTensor:
        name = self.string()
        sizes = [self.number("<u8") for _ in range(self.number("<u4"))]
        return GgufTensor(name, tuple(reversed(sizes)), self.number("<u4"), self.number("<u8"))

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array(self.number("<u4"), self.number("<u8"))
        return self.numbers(self.scalar(kind), 1)[0]

    def array(self, kind: int, count: int) -> list[Any]:
        if kind == STRING:
            return [self.string() for _ in range(count)]
        return self.numbers(self.scalar(kind), count)

    def scalar(self, kind: int) -> str:
        if kind not in SCALARS:
            raise ModelError(f"{self.path}: unknown metadata type {kind} at byte {self.position}; is the file damaged?")
        return SCALARS[kind]

    def number(self, dtype: str) -> int:
        return int(self.numbers(dtype, 1)[0])

    def numbers(self, dtype: str, count: int) -> list[Any]:
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype).tolist()

    def string(self) -> str:
        # struct, not NumPy: a vocabulary is a hundred thousand of these.
        (length,) = struct.unpack("<Q", self.take(8))
        return self.take(length).decode("utf-8", errors="replace")

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise ModelError(f"{self.path}: truncated: the header goes on past the end ({len(self.data)} bytes)")
        piece = self.data[self.position : end]
        self.position = end
        return piece
