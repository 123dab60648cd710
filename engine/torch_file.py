"""Tensors in a file that torch.save wrote, mapped into memory, without torch.

Since torch 1.6 such a file is a zip archive whose members are stored, not compressed: `<root>/data.pkl` is a pickle of
the names, and `<root>/data/<key>` the bytes of one storage, of which a tensor is a window (offset, shape, strides).
https://pytorch.org/docs/stable/notes/serialization.html

A pickle is a program, and it may call anything that it can name. Here it can name only what a dictionary of tensors is
made of; anything else is refused by its name, and never looked up.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelError
from engine.mapped_file import DAMAGED, map_file
from engine.rounding import round_to_bf16

MAX_PICKLE = 100_000_000  # bytes; of a real model it is under one million
_LOCAL_HEADER = 30  # bytes before the name in a zip member's local header
_DTYPES: dict[str, np.dtype[Any]] = {
    "BFloat16Storage": np.dtype("<u2"),
    "HalfStorage": np.dtype("<f2"),
    "FloatStorage": np.dtype("<f4"),
}
_DTYPE_NAMES = {"BFloat16Storage": "bfloat16", "HalfStorage": "float16", "FloatStorage": "float32"}


# Named tuples: a pickle can change any object that has attributes of its own, a frozen dataclass too, but no tuple.
class Storage(NamedTuple):
    """A run of elements: `kind` is torch's name of its type, `key` names the archive's member with its bytes."""

    kind: str
    key: str


class TorchTensor(NamedTuple):
    """A window on a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def last(self) -> int:
        """Index in the storage of the last element, where there is one."""
        return self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))


class TorchFile:
    """One file, mapped: `tensors` by name, checked whole when it is opened.

    Raises ModelError naming the file, and the tensor where it is one, when anything about it is wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = map_file(path)
        self._members = _members(path)
        self._root = self._find_root()
        if self._bytes_of("byteorder", default=b"little") != b"little":
            raise ModelError(f"{path}: is in big-endian byte order, which is not supported")
        self.tensors = self._unpickle()
        for name, tensor in self.tensors.items():
            self._check(name, tensor)

    def dtype(self, name: str) -> str:
        """How the tensor is stored, in config.json's words: "bfloat16"."""
        return _DTYPE_NAMES[self.tensors[name].storage.kind]

    def read(self, name: str) -> NDArray[np.uint16]:
        """The tensor's bf16 bits: a read-only view of the map if stored so, else rounded to nearest even."""
        tensor = self.tensors[name]
        dtype = _DTYPES[tensor.storage.kind]
        begin, _ = self._span(f"data/{tensor.storage.key}")
        window = np.frombuffer(self._map, dtype, tensor.last + 1 if math.prod(tensor.shape) else 0, begin)
        steps = tuple(step * dtype.itemsize for step in tensor.strides)
        stored = np.lib.stride_tricks.as_strided(window[tensor.offset :], tensor.shape, steps, writeable=False)
        if dtype == np.dtype("<u2"):
            return np.require(stored, requirements=["C", "A"])  # copied only where it is not in one piece, or unaligned
        flat = stored.reshape(-1)
        bits = round_to_bf16(flat.size, lambda start, stop: flat[start:stop].astype(np.float32))
        return bits.reshape(tensor.shape)

    def _find_root(self) -> str:
        roots = [name.removesuffix("data.pkl") for name in self._members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ModelError(f"{self.path}: is a zip archive, but none that torch.save wrote (no data.pkl)")
        return roots[0]

    def _span(self, member: str) -> tuple[int, int]:
        """Where the bytes [begin, end) of a member lie. Raises ModelError if it is absent, packed or beyond the end."""
        info = self._members.get(self._root + member)
        if info is None:
            raise ModelError(f"{self.path}: lacks its member {member}; {DAMAGED}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise ModelError(f"{self.path}: its member {member} is compressed or encrypted; torch.save writes neither")
        header = self._map[info.header_offset : info.header_offset + _LOCAL_HEADER]
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        begin = info.header_offset + _LOCAL_HEADER + lengths
        if header[:4] != b"PK\x03\x04" or begin + info.file_size > len(self._map):
            raise ModelError(f"{self.path}: its member {member} is not where the archive says; {DAMAGED}")
        return begin, begin + info.file_size

    def _bytes_of(self, member: str, default: bytes | None = None) -> bytes:
        if default is not None and self._root + member not in self._members:
            return default
        begin, end = self._span(member)
        if end - begin > MAX_PICKLE:
            raise ModelError(f"{self.path}: its member {member} has {end - begin} bytes, more than {MAX_PICKLE}")
        return self._map[begin:end]

    def _unpickle(self) -> dict[str, TorchTensor]:
        content = self._bytes_of("data.pkl")
        try:
            _check_opcodes(content)
            values = _StateDictUnpickler(io.BytesIO(content)).load()
        except _Refused as error:
            raise ModelError(f"{self.path}: {error}") from error
        except Exception as error:  # a damaged pickle can fail in every way in which Python can
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ModelError(f"{self.path}: its data.pkl is not a pickle of tensors ({what}); {DAMAGED}") from error
        if not isinstance(values, dict) or not values:
            raise ModelError(f"{self.path}: holds a {type(values).__name__}; expected tensors by name")
        for name, value in values.items():
            if not isinstance(name, str) or not isinstance(value, TorchTensor):
                raise ModelError(f"{self.path}: its entry {name!r:.60} is a {type(value).__name__}; expected a tensor")
        return dict(values)

    def _check(self, name: str, tensor: TorchTensor) -> None:
        """Every element of the tensor must lie in its storage, and none may be there twice: that would let it grow."""
        begin, end = self._span(f"data/{tensor.storage.key}")
        held, count = (end - begin) // _DTYPES[tensor.storage.kind].itemsize, math.prod(tensor.shape)
        if count > held or (count and tensor.last >= held):
            what = f"reaches element {max(tensor.last, count - 1)} of a storage of {held}"
            raise ModelError(f"{self.path}: tensor {name} {list(tensor.shape)} {what}; {DAMAGED}")


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, UnicodeError, ValueError, OSError) as error:
        kind = "is no zip archive as torch.save has written since version 1.6"
        raise ModelError(f"{path}: {kind} ({error}); {DAMAGED}") from error


def _check_opcodes(content: bytes) -> None:
    """Refuse what CPython's own reader does not take well from a damaged file.

    The buffers of protocol 5 (torch writes 2), of which it complains past all handlers; and memo places beyond the
    number of opcodes, for which it would set aside as much memory as the number says.
    """
    for opcode, argument, _ in pickletools.genops(content):
        beyond = opcode.name in ("PUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= len(content)
        if opcode.proto > 4 or beyond:
            what = f"the opcode {opcode.name}{f' {argument}' if beyond else ''}"
            raise _Refused(f"its data.pkl has {what}, which is no part of a dictionary of tensors; {DAMAGED}")


class _Refused(Exception):
    """What the pickle names is not part of a dictionary of tensors."""


class _RebuildTensor:
    """What torch calls a tensor by; without attributes, which a pickle could set."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TorchTensor:
        numbers = (offset, *shape, *strides)
        whole = all(type(number) is int and number >= 0 for number in numbers) and len(shape) == len(strides)
        if not whole or not isinstance(storage, Storage):
            raise _Refused(f"its data.pkl holds a tensor of offset, shape and strides {numbers!r:.60}")
        return TorchTensor(storage, offset, tuple(shape), tuple(strides))


class _RebuildParameter:
    """A parameter is a tensor with a flag, which says nothing to an engine that does not train."""

    __slots__ = ()

    def __call__(self, tensor: Any, *_: Any) -> Any:
        return tensor


# Names that a pickle may use -> what it gets. Strings stand for types, since nobody asks more of them than their name.
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter(),
    **{("torch", storage): storage for storage in _DTYPES},
}


class _StateDictUnpickler(pickle.Unpickler):
    """Knows the names that a dictionary of tensors needs, and hands out nothing that a pickle could alter."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            storage = module == "torch" and name.endswith("Storage")
            why = f"only {', '.join(_DTYPE_NAMES.values())} are supported" if storage else "it was not run"
            raise _Refused(f"its data.pkl names {module}.{name}, which is no part of a dictionary of tensors; {why}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        """A storage: ("storage", its type, the key of its bytes, the device that it was on, elements)."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or pid[1] not in _DTYPES:
            raise _Refused(f"its data.pkl refers to {pid!r:.60}; expected a storage")
        return Storage(pid[1], str(pid[2]))
