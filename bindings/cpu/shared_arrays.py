"""A module's `__shared__` arrays: their names and places, and the gaps that a checked kernel has between them.

A static shared array is a thread-local variable (`simt/simt_language.h`); the symbol table of the image has each with
its mangled name, such as `_ZZ7rmsnormE7scratch`, its place among all of them, and its size.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

_SECTION_HEADERS_AT, _SECTION_COUNT_AT = 0x28, 0x3C  # in the header of an ELF file of 64 bits, little-endian
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMBOL_TABLE, _THREAD_LOCAL = 2, 6  # SHT_SYMTAB, STT_TLS
_SECTION_DIRECTIVE = re.compile(r"\s+\.(?:section\s+([^,\s]+)|text|data|bss)\b")
_ZEROS = re.compile(r"(\s+\.(?:zero|skip)\s+)(\d+)\s*$")
GAP = 64  # bytes behind each array that belong to none: an overrun of one of them does not hit the next
_LENGTH_AND_NAME = re.compile(r"E(\d+)(?=[A-Za-z_])")


@dataclass(frozen=True)
class SharedArray:
    """`nbytes` at `offset` in the static shared memory of a module."""

    name: str
    offset: int
    nbytes: int


def _variable(mangled: str) -> str:
    """The variable's own name, without its function's (Itanium C++ ABI: `_ZZ <function> E <length> <name>`)."""
    for match in reversed(list(_LENGTH_AND_NAME.finditer(mangled))):
        name = mangled[match.end() : match.end() + int(match.group(1))]
        if len(name) == int(match.group(1)):
            return name
    return mangled


def shared_arrays(image: bytes) -> list[SharedArray]:
    """The static shared arrays of a compiled module, by offset; none where its symbols were stripped."""
    (headers,) = struct.unpack_from("<Q", image, _SECTION_HEADERS_AT)
    (count,) = struct.unpack_from("<H", image, _SECTION_COUNT_AT)
    sections = [_SECTION.unpack_from(image, headers + i * _SECTION.size) for i in range(count)]
    found = []
    for _, kind, _, _, offset, nbytes, link, *_ in sections:
        if kind != _SYMBOL_TABLE:
            continue
        names = sections[link][4]
        for name, info, _, section, value, size in _SYMBOL.iter_unpack(image[offset : offset + nbytes]):
            if info & 15 == _THREAD_LOCAL and section:
                text = image[names + name : image.index(b"\0", names + name)].decode()
                found.append(SharedArray(_variable(text), value, size))
    return sorted(found, key=lambda array: array.offset)


def with_gaps(assembly: str) -> str:
    """A compiled module's assembly text with GAP more bytes behind each thread-local variable; their sizes stay."""
    lines, in_arrays = [], False
    for line in assembly.splitlines(keepends=True):
        if directive := _SECTION_DIRECTIVE.match(line):
            in_arrays = (directive[1] or "").startswith(".tbss")
        elif in_arrays and (zeros := _ZEROS.match(line)):
            line = f"{zeros[1]}{int(zeros[2]) + GAP}\n"
        lines.append(line)
    return "".join(lines)


def array_at(image: bytes, offset: int) -> SharedArray | None:
    """The array that is nearest to `offset` in the module's static shared memory; None if there is none."""

    def distance(array: SharedArray) -> int:
        return max(array.offset - offset, offset - (array.offset + array.nbytes) + 1, 0)

    return min(shared_arrays(image), key=distance, default=None)
