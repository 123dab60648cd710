"""Weights in safetensors files, mapped into memory.

A file is a little-endian u64 length, a JSON header of that length (name -> dtype, shape, data_offsets), then the
tensors' bytes without gaps; offsets count from the end of the header (https://github.com/huggingface/safetensors).
The package of that name can't hand bf16 to NumPy without PyTorch, and the format is small, so it is read here: a
bf16 tensor is a view of the map, and nothing is copied before the upload.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelError
from engine.fields import read_json, shown
from engine.mapped_file import DAMAGED, map_file
from engine.rounding import round_to_bf16

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors package
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_BOTH = "they are of different models or versions, fetch them again"

_ITEMSIZE = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
_ITEMSIZE |= {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}
_READABLE: dict[str, np.dtype[Any]] = {"BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
_SHARD = re.compile(r".*-\d+(?P<of>-of-(?P<count>\d+)\.safetensors)")
# Buffers that old converters saved and that the engine computes itself.
_HARMLESS = re.compile(r"\.rotary_emb\.inv_freq$")


@dataclass(frozen=True)
class StoredTensor:
    """One entry of a header: dtype as the format spells it, shape, and the bytes [begin, end) of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """One file, mapped; its header is checked whole when it is opened.

    Raises ModelError naming the file, and the tensor where it is one, when anything about it is wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = map_file(path)
        self.data_start, header = _read_header(path, self._map)
        header.pop("__metadata__", None)
        self.tensors = {name: _entry(path, name, value) for name, value in header.items()}
        _check_layout(path, self.tensors, len(self._map) - self.data_start)

    def read(self, name: str) -> NDArray[np.uint16]:
        """The tensor's bf16 bits: a read-only view of the map if stored so, else rounded to nearest even."""
        tensor = self.tensors[name]
        dtype = _READABLE.get(tensor.dtype)
        if dtype is None:
            raise _unsupported(self.path, name, tensor.dtype)
        stored = np.frombuffer(self._map, dtype, math.prod(tensor.shape), self.data_start + tensor.begin)
        if tensor.dtype == "BF16":
            # An odd header length, allowed by the format, leaves the values unaligned; then they are copied.
            return np.require(stored, requirements="A").reshape(tensor.shape)
        bits = round_to_bf16(stored.size, lambda start, stop: stored[start:stop].astype(np.float32))
        return bits.reshape(tensor.shape)


class SafetensorsWeights:
    """All weights of a Hugging Face folder: model.safetensors, or the files that its index names.

    A file that the index does not name is not read: such folders hold other forms of the model too.
    """

    def __init__(self, folder: Path) -> None:
        self.source = str(folder)
        self._file_of: dict[str, SafetensorsFile] = {}
        sharded = not (folder / SINGLE).is_file()
        if sharded:
            _check_shards_are_there(folder)
        for file in (SafetensorsFile(folder / name) for name in weight_files(folder)):
            for name in file.tensors:
                if name in self._file_of:
                    raise ModelError(f"{file.path}: tensor {name} is in {self._file_of[name].path.name} too; {_BOTH}")
                self._file_of[name] = file
        if sharded:
            self._check_index(folder)

    def _check_index(self, folder: Path) -> None:
        """The index and the files must agree on where each tensor lies."""
        placed = _weight_map(folder)
        for name, file_name in placed.items():
            if name not in self._file_of or self._file_of[name].path.name != file_name:
                what = f"lacks tensor {name}, which {INDEX} places there"
                raise ModelError(f"{folder / file_name}: {what}; {_BOTH}")
        for name, file in self._file_of.items():
            if name not in placed and not _HARMLESS.search(name):
                raise ModelError(f"{file.path}: has tensor {name}, which {INDEX} does not name; {_BOTH}")

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each tensor by name, without those that a model is complete without."""
        names = (name for name in self._file_of if not _HARMLESS.search(name))
        return {name: self._file_of[name].tensors[name].shape for name in names}

    def read(self, name: str) -> NDArray[np.uint16]:
        """The tensor's bf16 bits, in its shape."""
        return self._file_of[name].read(name)

    def close(self) -> None:
        """Let go of the files. Arrays handed out stay valid: each keeps its map alive."""
        self._file_of.clear()


def weight_files(folder: Path) -> list[str]:
    """Names of the files with the weights of a Hugging Face folder. Raises ModelError if its index is broken."""
    return [SINGLE] if (folder / SINGLE).is_file() else sorted(set(_weight_map(folder).values()))


def _check_shards_are_there(folder: Path) -> None:
    """Every file that the index names, and every one that their names speak of: model-00002-of-00003 and its kin."""
    placed = _weight_map(folder)
    names = sorted(set(placed.values()))
    for file_name in names:
        if not (folder / file_name).is_file():
            tensors = [name for name, place in placed.items() if place == file_name]
            others = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
            raise ModelError(f"{folder / file_name}: is missing; {INDEX} places {tensors[0]}{others} there; fetch it")
    for shard in filter(None, map(_SHARD.fullmatch, names)):
        series = [name for name in names if name.endswith(shard["of"])]
        if len(series) != int(shard["count"]):
            what = f"names {', '.join(series[:3])}, which are not {int(shard['count'])}"
            raise ModelError(f"{folder / INDEX}: {what}; fetch the model again")


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor name -> file name, from the index."""
    path = folder / INDEX
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{path}: weight_map is {shown(names)}; expected an object of file names by tensor")
    for name in names.values():
        if Path(name).name != name or "\0" in name:  # an index must not lead out of its folder
            raise ModelError(f"{path}: weight_map names {shown(name)}; expected a file of the same folder")
    return names


def _read_header(path: Path, data: mmap.mmap) -> tuple[int, dict[str, Any]]:
    """Where the tensors' bytes start, and the header."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, MAX_HEADER):
        raise ModelError(f"{path}: a header of {length} bytes in a file of {len(data)}; {DAMAGED}")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its header is not valid JSON ({error}); {DAMAGED}") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path}: its header is {shown(header)}; expected a JSON object; {DAMAGED}")
    return 8 + length, header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is in it twice")
    return values


def _entry(path: Path, name: str, value: Any) -> StoredTensor:
    """One tensor's entry, checked in itself: types, a known dtype, as many bytes as its shape needs."""
    entry = value if isinstance(value, dict) else {}
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and _whole_numbers(shape) and _whole_numbers(offsets) and len(offsets) == 2):
        what = f"is {shown(value)}; expected dtype, shape and two data_offsets"
        raise ModelError(f"{path}: tensor {name} {what}; {DAMAGED}")
    if dtype not in _ITEMSIZE:
        raise _unsupported(path, name, dtype)
    needed, given = math.prod(shape) * _ITEMSIZE[dtype], offsets[1] - offsets[0]
    if needed != given:
        raise ModelError(f"{path}: tensor {name} {shape} {dtype} needs {needed} bytes, has {given}; {DAMAGED}")
    return StoredTensor(dtype, tuple(shape), *offsets)


def _unsupported(path: Path, name: str, dtype: str) -> ModelError:
    readable = ", ".join(_READABLE)
    return ModelError(f"{path}: tensor {name} is stored as {dtype}; only {readable} are supported")


def _whole_numbers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_layout(path: Path, tensors: dict[str, StoredTensor], nbytes: int) -> None:
    """The tensors must cover the data exactly: no overlap, no gap, nothing missing, nothing left."""
    position, previous = 0, "the header"
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position:
            what = "overlaps" if tensor.begin < position else "leaves a gap after"
            raise ModelError(f"{path}: tensor {name} at byte {tensor.begin} {what} {previous}; {DAMAGED}")
        position, previous = tensor.end, name
        if position > nbytes:
            raise ModelError(f"{path}: tensor {name} ends at byte {position} of {nbytes}; {DAMAGED}")
    if position != nbytes:
        raise ModelError(f"{path}: {nbytes - position} bytes follow the last tensor; {DAMAGED}")
