"""The GGUF header against the gguf package's reader, and damaged files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

from engine.errors import ModelError
from engine.gguf_header import read_gguf_header

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
    theirs = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.metadata == theirs
    assert list(header.tensors) == [tensor.name for tensor in reader.tensors] == ["norm", "matrix"]
    for tensor in reader.tensors:
        ours = header.tensors[tensor.name]
        assert ours.shape == tuple(reversed(tensor.shape.tolist()))
        assert (ours.ggml_type, ours.offset) == (tensor.tensor_type, tensor.data_offset)


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
        (4, struct.pack("<I", 1), "GGUF version 1 is not supported"),
        (4, struct.pack(">I", 3), "GGUF version 50331648 is not supported"),
        (8, struct.pack("<Q", 2**60), "truncated"),
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


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.gguf: cannot be read"):
        read_gguf_header(tmp_path / "none.gguf")
    (tmp_path / "empty.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"empty\.gguf: cannot be read"):
        read_gguf_header(tmp_path / "empty.gguf")
