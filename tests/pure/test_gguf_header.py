"""The GGUF header against the gguf package's reader, and damaged files."""

from __future__ import annotations

import errno
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

from engine.errors import ModelError
from engine.gguf_header import MAX_VALUES, read_gguf_header
from tests.raw_gguf import ARRAY, STRING, entry, join_gguf, tensor

METADATA = {
    "uint8": 200,
    "int8": -3,
    "uint16": 60000,
    "int16": -300,
    "uint32": 4_000_000_000,
    "int32": -70000,
    "uint64": 2**63,
    "int64": -(2**40),
    "float32": 0.5,
    "float64": 1 / 3,
    "bool": True,
    "string": "grüße",
}
ARRAYS: dict[str, list[Any]] = {
    "ints": [1, -2, 3],
    "floats": [0.25, 1.5],
    "texts": ["", "a", "日本"],
    "flags": [True, False],
}


@pytest.fixture(params=[32, 64])
def gguf_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file with every kind of value, an F32 tensor and a quantised one."""
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_custom_alignment(request.param)
    for kind, value in METADATA.items():
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    for name, values in ARRAYS.items():
        writer.add_array(f"test.{name}", values)
    writer.add_tensor("norm", np.arange(5, dtype=np.float32))
    quantised = np.arange(3 * 2 * 34, dtype=np.uint8).reshape(3, 2 * 34)  # rows of two blocks of Q8_0: 64 values
    writer.add_tensor("matrix", quantised, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_agrees_with_the_gguf_package(gguf_file: Path) -> None:
    header, reader = read_gguf_header(gguf_file), GGUFReader(gguf_file)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.metadata == fields
    assert list(header.tensors) == [t.name for t in reader.tensors] == ["norm", "matrix"]
    for theirs in reader.tensors:
        ours = header.tensors[theirs.name]
        assert ours.shape == tuple(reversed(theirs.shape.tolist()))
        assert (ours.ggml_type, ours.offset) == (theirs.tensor_type, theirs.data_offset)


def test_values_are_plain_python(gguf_file: Path) -> None:
    metadata = read_gguf_header(gguf_file).metadata
    assert {key: metadata[f"test.{key}"] for key in METADATA} == METADATA
    assert {key: metadata[f"test.{key}"] for key in ARRAYS} == ARRAYS
    assert type(metadata["test.bool"]) is bool


def test_cut_anywhere_in_the_header_is_refused(gguf_file: Path, tmp_path: Path) -> None:
    content = gguf_file.read_bytes()
    end = min(tensor.offset for tensor in read_gguf_header(gguf_file).tensors.values()) - 64  # before any padding
    cut = tmp_path / "cut.gguf"
    for length in range(0, end, 7):
        cut.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"cut\.gguf: "):
            read_gguf_header(cut)


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0, b"GGML", "not a GGUF file"),
        (4, struct.pack("<I", 1), "GGUF version 1 is not supported, only 2 and 3; convert the model again"),
        (4, struct.pack("<I", 4), "GGUF version 4 is not supported"),
        (4, struct.pack(">I", 3), "a big-endian GGUF file; only little-endian ones are supported"),
        (8, struct.pack("<Q", 2**60), r"truncated|has \d+ dimensions"),
        (16, struct.pack("<Q", 2**60), "truncated|unknown metadata type"),
        (24, struct.pack("<Q", 2**62), "truncated"),
    ],
)
def test_damaged_header_is_refused(gguf_file: Path, offset: int, content: bytes, message: str) -> None:
    data = bytearray(gguf_file.read_bytes())
    data[offset : offset + len(content)] = content
    gguf_file.write_bytes(data)
    with pytest.raises(ModelError, match=message) as caught:
        read_gguf_header(gguf_file)
    assert "\n" not in str(caught.value)


ALIGNMENT = "general.alignment"
U16, U32, BOOL = GGUFValueType.UINT16, GGUFValueType.UINT32, GGUFValueType.BOOL
HUGE = struct.pack("<Q", 2**63)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ([entry("k", STRING, HUGE)], [], "truncated"),
        ([struct.pack("<Q", 2**63) + b"k"], [], "truncated"),
        ([entry("k", ARRAY, u32(STRING) + HUGE)], [], "truncated"),
        ([entry("k", ARRAY, u32(U32) + HUGE)], [], "truncated"),
        (
            [entry("k", ARRAY, u32(ARRAY) + struct.pack("<Q", 1))],
            [],
            r"unknown metadata type 9 at byte \d+; the file is",
        ),
        ([entry("k", 13, b"")], [], "unknown metadata type 13"),
        ([entry("k", U32, u32(1))] * 2, [], 'key "k" is in it twice; the file is damaged'),
        ([], [tensor("t", [8])] * 2, 'tensor "t" is in it twice'),
        ([], [tensor("t", [])], 'tensor "t" has 0 dimensions, expected 1 to 4'),
        ([], [tensor("t", [1] * 5)], 'tensor "t" has 5 dimensions, expected 1 to 4'),
        ([], [tensor("t", [1], rank=2**32 - 1)], 'tensor "t" has 4294967295 dimensions'),
        ([], [tensor("t", [8, 0])], r'tensor "t" has the shape \[0, 8\], expected sizes of at least 1'),
        ([], [tensor("t", [-8])], r'tensor "t" has the shape \[-8\], expected sizes'),
        ([], [tensor("t", [8], offset=4)], "tensor t at offset 4 is not aligned to 32"),
        ([entry(ALIGNMENT, U32, u32(64))], [tensor("t", [8], offset=32)], "at offset 32 is not aligned to 64"),
        ([entry(ALIGNMENT, U32, u32(0))], [], "general.alignment is 0, expected a power of two"),
        ([entry(ALIGNMENT, U32, u32(48))], [], "general.alignment is 48, expected a power of two"),
        ([entry(ALIGNMENT, BOOL, b"\x01")], [], "general.alignment is true, expected a power of two"),
    ],
)
def test_header_that_can_not_be_is_refused(
    tmp_path: Path, metadata: list[bytes], tensors: list[bytes], message: str
) -> None:
    path = tmp_path / "crafted.gguf"
    path.write_bytes(join_gguf(metadata, tensors, bytes(64)))
    with pytest.raises(ModelError, match=message) as caught:
        read_gguf_header(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entries",
    [
        [entry("k", ARRAY, u32(U16) + struct.pack("<Q", 2**30))],
        [entry("k", STRING, struct.pack("<Q", 2**31))],
        [entry("k", ARRAY, u32(STRING) + struct.pack("<Q", 2**27))],
    ],
    ids=["numbers", "string", "strings"],
)
def test_damaged_length_in_a_large_file_takes_no_memory(tmp_path: Path, entries: list[bytes]) -> None:
    """The file has the bytes (it is sparse: they take no room), and they would become gigabytes of Python objects."""
    path = tmp_path / "large.gguf"
    path.write_bytes(join_gguf(entries, []))
    with path.open("r+b") as file:
        file.truncate(3 << 30)
    tracemalloc.start()
    with pytest.raises(ModelError, match="a header of more than 100000000 bytes or 8388608 values"):
        read_gguf_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 100 * MAX_VALUES  # bytes: a list's slot, and an object of at most 72 for each value


def test_files_that_can_not_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "folder.gguf").mkdir()
    os.mkfifo(tmp_path / "pipe.gguf")
    for name, message in {
        "none.gguf": "cannot be read: No such file",
        "empty.gguf": "is empty; the file is damaged or cut short, fetch it again",
        "folder.gguf": "is a folder; expected a file",
        "pipe.gguf": "is no regular file",
    }.items():
        with pytest.raises(ModelError, match=rf"{name}: {message}"):
            read_gguf_header(tmp_path / name)
    with pytest.raises(ModelError, match="cannot be read: embedded null byte"):
        read_gguf_header(tmp_path / "nul\0.gguf")


def test_file_without_permission_is_refused(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # chmod would not stop root, as whom containers run
    with pytest.raises(ModelError, match=r"tiny\.gguf: cannot be read: Permission denied"):
        read_gguf_header(gguf_file)
