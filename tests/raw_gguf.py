"""GGUF files byte by byte, for those that no writer would write."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from gguf import GGUFValueType

STRING, ARRAY = GGUFValueType.STRING, GGUFValueType.ARRAY


def string(text: str | bytes) -> bytes:
    """A string as the format has it."""
    content = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(content)) + content


def entry(key: str, kind: int, value: bytes) -> bytes:
    """One metadata entry; `value` is what follows its type."""
    return string(key) + struct.pack("<I", kind) + value


def tensor(name: str, sizes: Sequence[int], ggml_type: int = 0, offset: int = 0, rank: int | None = None) -> bytes:
    """One tensor's entry; sizes innermost first; `rank` may lie."""
    rank = len(sizes) if rank is None else rank
    return string(name) + struct.pack(f"<I{len(sizes)}qIQ", rank, *sizes, ggml_type, offset)


def join_gguf(metadata: Sequence[bytes], tensors: Sequence[bytes], data: bytes = b"", alignment: int = 32) -> bytes:
    """A whole file of these entries."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join((*metadata, *tensors))
    return header + bytes(-len(header) % alignment) + data
