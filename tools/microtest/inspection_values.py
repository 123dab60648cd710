"""The values of an inspected thread: from the recorder's spelling to numbers, and pointers to names.

A number comes as its type and its bits (`f4:0000803f`), a pointer as its address and what it points to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bindings.dtypes import bf16_to_float32
from bindings.tensor import Tensor


@dataclass(frozen=True)
class Number:
    """A float with its type ("f4", "f2", "f8", "bf"), which decides how many digits tell it from its neighbours."""

    value: float
    type: str

    def __str__(self) -> str:
        if self.type == "bf":
            return f"{self.value:.4g}"
        precise = {"f2": np.float16, "f4": np.float32}.get(self.type, np.float64)(self.value)
        return np.format_float_positional(precise, trim="-") if 1e-4 <= abs(precise) < 1e6 else _short(precise)


def _short(value: np.floating) -> str:
    if not np.isfinite(value) or value == 0:
        return f"{value:g}"
    return np.format_float_scientific(value, trim="-")


@dataclass(frozen=True)
class Pointer:
    """An address by the name of what it points to: `x[3, 17]`, `shared scratch + 4`, `local`, `null`."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Unset:
    """A local variable, or a part of one, that nothing has been assigned to."""

    def __str__(self) -> str:
        return "unset"


@dataclass(frozen=True)
class Large:
    """A value that is too large to be told whole, such as all of a block's shared memory."""

    nbytes: int

    def __str__(self) -> str:
        return f"({self.nbytes} bytes)"


# What the compiler fills the thread's local variables with (bindings/cpu/nvrtc.py); as a float it is -1.7e38.
UNSET_BYTE = b"\xfe"


class Memory:
    """What addresses of a launch belong to: the operation's tensors, and its shared memory as the thread met it."""

    def __init__(self, tensors: Mapping[str, Tensor], dynamic_shared_bytes: int) -> None:
        self._tensors = [(name, t.address, t.nbytes, t.dtype.itemsize, t.shape) for name, t in tensors.items()]
        self._shared: dict[str, tuple[int, int]] = {}
        self._dynamic = dynamic_shared_bytes

    def add_shared(self, name: str, spelled: str) -> None:
        """A __shared__ variable and its address; one of 0 bytes is the launch's dynamic shared memory."""
        _, address, size, _ = spelled.split(":")
        self._shared[name] = int(address, 16), int(size) or self._dynamic

    def place(self, spelled: str) -> str | None:
        """Where in a tensor or in shared memory a value lies; None if it is the thread's own."""
        name = self.pointer(spelled).text
        return None if name in ("local", "null") or name.startswith("0x") else name

    def pointer(self, spelled: str) -> Pointer:
        """What the recorder spelled `p:ADDRESS:SIZE:TYPE`, or `l:...` for the thread's own stack."""
        kind, digits, size, type_ = spelled.split(":")
        address = int(digits, 16)
        if address == 0:
            return Pointer("null")
        found = self._in_tensor(address) or self._in_shared(address, int(size), type_)
        return Pointer(found or ("local" if kind == "l" else hex(address)))

    def _in_tensor(self, address: int) -> str | None:
        for name, start, nbytes, itemsize, shape in self._tensors:
            offset = address - start
            if 0 <= offset < nbytes and offset % itemsize == 0:
                index = np.unravel_index(offset // itemsize, shape)
                return f"{name}[{', '.join(str(int(i)) for i in index)}]"
            if 0 <= offset <= nbytes:
                return f"the end of {name}" if offset == nbytes else f"{name} + {offset} bytes"
        return None

    def _in_shared(self, address: int, size: int, type_: str) -> str | None:
        for name, (start, nbytes) in self._shared.items():
            offset = address - start
            if 0 <= offset < nbytes:
                if type_ and offset % size == 0:
                    return f"shared {name} + {offset // size} {TYPE_NAMES.get(type_, type_)}"
                return f"shared {name} + {offset} bytes" if offset else f"shared {name}"
        return None


TYPE_NAMES = {"bf": "bf16", "f2": "half", "f4": "float", "f8": "double", "i4": "int", "u4": "unsigned"}


def decoded(spelled: Any, memory: Memory) -> Any:
    """A value: bool, int, Number, Pointer, Large, Unset, a list of such, or a dictionary of such by field name."""
    if isinstance(spelled, list):
        return [decoded(element, memory) for element in spelled]
    if isinstance(spelled, dict):
        return {name: decoded(element, memory) for name, element in spelled.items()}
    type_, _, bits = spelled.partition(":")
    if type_ in ("p", "l"):
        return memory.pointer(spelled)
    data = bytes.fromhex(bits)
    if type_ == "b1":
        return data != b"\0"
    if type_ == "large":
        return Large(int.from_bytes(data, "little"))
    if len(data) > 1 and data.strip(UNSET_BYTE) == b"":
        return Unset()
    if type_ == "bf":
        return Number(float(bf16_to_float32(np.frombuffer(data, np.uint16))[0]), "bf")
    value = np.frombuffer(data, np.dtype(f"<{type_}"))[0].item()
    return Number(value, type_) if isinstance(value, float) else value


def jsonable(value: Any) -> Any:
    """`value` as JSON has it: numbers as they are, NaN and the infinities as text, pointers as names, null if unset."""
    if isinstance(value, list):
        return [jsonable(element) for element in value]
    if isinstance(value, dict):
        return {name: jsonable(element) for name, element in value.items()}
    if isinstance(value, Number):
        return value.value if math.isfinite(value.value) else str(value.value)
    if isinstance(value, Unset):
        return None
    return str(value) if isinstance(value, (Pointer, Large)) else value
