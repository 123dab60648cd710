"""Reads the declarations of a kernel: the names that a statement declares, the parameters of a function.

Told by their shape alone, as a reader does it: `T name`, `T* name`, `T (&name)[n]`. What does not look like a
declaration is an expression.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bindings.cpu.cpp_tokens import Tokens

_QUALIFIERS = {
    "const",
    "constexpr",
    "static",
    "volatile",
    "extern",
    "inline",
    "thread_local",
    "mutable",
    "typename",
    "struct",
} | {"__shared__", "__constant__", "__device__", "__host__", "__restrict__", "__forceinline__", "__noinline__"}
_BUILT_IN = {"void", "bool", "char", "short", "int", "long", "float", "double", "signed", "unsigned", "auto"}
_ATTRIBUTES = {"alignas", "__align__", "__attribute__", "__launch_bounds__", "decltype"}


@dataclass(frozen=True)
class Declared:
    """One name that a statement declares, and whether it gets a value there."""

    name: str
    has_value: bool


@dataclass(frozen=True)
class Declaration:
    """The names that a statement declares, and the words before its type (`const`, `__shared__`, ...)."""

    names: tuple[Declared, ...]
    qualifiers: frozenset[str]


@dataclass(frozen=True)
class Parameter:
    """A function's parameter. `is_output`: a reference through which the function may write."""

    name: str
    is_output: bool


def skip_attributes(tokens: Tokens, index: int) -> int:
    """The index behind `alignas(16)`, `__launch_bounds__(...)`, `[[...]]` and their kin that stand at `index`."""
    while True:
        if tokens.is_(index, *_ATTRIBUTES) and tokens.is_(index + 1, "("):
            index = tokens.partner[index + 1] + 1
        elif tokens.is_(index, "[") and tokens.is_(index + 1, "["):
            index = tokens.partner[index] + 1
        else:
            return index


def declaration(tokens: Tokens, first: int, end: int) -> Declaration | None:
    """What the statement first .. end - 1 (without its `;`) declares; None if it is an expression."""
    qualifiers, index = _type(tokens, first, end)
    if index is None:
        return None
    names: list[Declared] = []
    while index < end:
        found = _declarator(tokens, index, end)
        if found is None:
            break
        declared, index = found
        names.append(declared)
        index = next((i for i in tokens.outer(index, end) if tokens.is_(i, ",")), end) + 1
    return Declaration(tuple(names), frozenset(qualifiers)) if names else None


def _type(tokens: Tokens, index: int, end: int) -> tuple[list[str], int | None]:
    """(qualifiers, the index behind the type), or None as the index where there is no type."""
    qualifiers: list[str] = []
    has_type = False
    while index < end:
        index = skip_attributes(tokens, index)
        word = tokens[index].text if index < end else ""
        if word in _QUALIFIERS:
            qualifiers.append(word)
        elif word in _BUILT_IN:
            has_type = True
        elif index < end and tokens[index].kind == "word" and not has_type:
            index, has_type = _behind_name(tokens, index) - 1, True
        else:
            break
        index += 1
    return qualifiers, index if has_type else None


def _behind_name(tokens: Tokens, index: int) -> int:
    """The index behind a type's name at `index`, such as `Packed<bf16>` or `simt::Index3`."""
    while True:
        index += 1
        if tokens.is_(index, "<"):
            closing = tokens.template_end(index)
            if closing is None:
                return index
            index = closing + 1
        if not (tokens.is_(index, "::") and index + 1 < len(tokens) and tokens[index + 1].kind == "word"):
            return index
        index += 1


def _declarator(tokens: Tokens, index: int, end: int) -> tuple[Declared, int] | None:
    """The name declared at `index` behind its type, and the index behind the name and its `[n]`s."""
    while tokens.is_(index, "*", "&", "&&", "const", "__restrict__", "volatile"):
        index += 1
    if tokens.is_(index, "(") and tokens.is_(index + 1, "&", "*") and tokens.is_(tokens.partner[index] + 1, "["):
        name, index = tokens[tokens.partner[index] - 1], tokens.partner[index] + 1
    elif index < end and tokens[index].kind == "word":
        name, index = tokens[index], index + 1
    else:
        return None
    if name.kind != "word":
        return None
    while tokens.is_(index, "["):
        index = tokens.partner[index] + 1
    if index < end and not tokens.is_(index, "=", "{", "(", ",", ":"):
        return None
    return Declared(name.text, index < end and tokens.is_(index, "=", "{", "(")), index


def parameters(tokens: Tokens, opening: int) -> Iterator[Parameter]:
    """The named parameters of the list that begins with the `(` at `opening`."""
    for first, end in tokens.split(opening + 1, tokens.partner[opening]):
        end = next((i for i in tokens.outer(first, end) if tokens.is_(i, "=")), end)
        found = declaration(tokens, first, end)
        if found is None or len(found.names) != 1:
            continue
        words = [tokens[index].text for index in range(first, end)]
        yield Parameter(found.names[0].name, "&" in words and "const" not in words)
