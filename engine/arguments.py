"""Checks of what a caller passes: one clear line for what can't be taken."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from engine.errors import UsageError
from engine.vllm_options import OneWay

T = TypeVar("T")


def check_options(call: str, given: Mapping[str, Any], table: Mapping[str, OneWay], known: Iterable[str]) -> None:
    """Raise UsageError for an option of `call` that is not in `table`, or that has a value which the engine can't do.

    known: the call's own parameters, to guess what a misspelt name was meant to be.
    """
    for name, value in given.items():
        if name not in table:
            near = difflib.get_close_matches(name, [*known, *table], n=1)
            raise UsageError(f"{call} has no option {name!r}{f'; did you mean {near[0]}?' if near else ''}")
        if not any(_same(value, accepted) for accepted in table[name].accepted):
            raise UsageError(f"{call} can't take {name}={value!r:.60}: {table[name].why}; {_remedy(table[name])}")


def _same(value: Any, accepted: Any) -> bool:
    # The type first: an array compares element by element, and True is not a count of 1.
    return type(value) is type(accepted) and bool(value == accepted)


def _remedy(option: OneWay) -> str:
    values = " or ".join(repr(value) for value in option.accepted)
    return f"leave it out{f', or give {values}' if values else ''}"


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """`value`, if it is one of `choices`. Raises UsageError otherwise."""
    if value not in choices:
        raise UsageError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
    return value


def either(name: str, value: T | None, other_name: str, other: T | None) -> T | None:
    """What was given under one of two names of the same option. Raises UsageError where both are used."""
    if value is not None and other is not None:
        raise UsageError(f"{name} and {other_name} are the same: give one of them")
    return other if value is None else value


def one_each(name: str, given: Sequence[T], kind: type[T], count: int) -> Sequence[T]:
    """`given`, one entry for each of `count` prompts. Raises UsageError for more, fewer, or something else."""
    if not isinstance(given, Sequence):
        raise UsageError(f"{name} is a {type(given).__name__}; expected a list of {kind.__name__}")
    if len(given) != count:
        raise UsageError(f"{name} has {len(given)} entries for {count} prompts: give one for each")
    for number, entry in enumerate(given):
        if not isinstance(entry, kind):
            raise UsageError(f"{name}[{number}] is a {type(entry).__name__}; expected {kind.__name__}")
    return given
