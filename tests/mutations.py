"""Damage for the readers of files: what Hypothesis may do to the bytes, or to the JSON, of a whole file."""

from __future__ import annotations

import copy
import json
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Edit = Callable[[bytes], bytes]
JsonPath = tuple[Any, ...]
Change = Callable[[Any, Any], None]  # of the dict or list that holds a value, at this key

# What a damaged length says: limits of the integer types, their neighbours, and sizes that memory might have.
EXTREMES = [0, 1, 2**15, 2**16 - 1, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
# One of each type, and what a type holds at its edges. Infinity and NaN are what Python's reader takes for JSON.
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**63, 2**64, -(2**63), 10**12, 10**400, 0.5, 1e-320, 1e308),
    *(float("inf"), float("nan"), "", "x", "0", "\x00", "\ud800", "../x", "\n", "{{", "(", "[" * 99, "é" * 999),
    *([], [[]], {}, [None], [0] * 99, {"": {}}, {"type": "Sequence"}, [{"type": "BPE"}], {"content": 0}),
]


ODD_KEYS = ["", "\n", "\x1b[2J", "\ud800", "x" * 5000, "__metadata__", "../x"]


def edits(near: int) -> SearchStrategy[Edit]:
    """One change of a byte string; most of them lie before byte `near`, where a file's header is."""
    places = st.one_of(st.integers(0, near), st.integers(0, near), st.integers(0, 2**20))
    pieces = st.one_of(st.binary(min_size=1, max_size=16), st.sampled_from([b"\xff" * 8, b'"', b"}", b"[", b"\x00"]))
    return st.one_of(
        st.builds(_overwrite, places, st.binary(min_size=1, max_size=2)),
        st.builds(_extreme, places, st.sampled_from(EXTREMES), st.sampled_from([1, 2, 4, 8])),
        st.builds(_cut, places),
        st.builds(_insert, places, pieces),
        st.builds(_repeat, places, st.integers(1, 64)),
        st.builds(_remove, places, st.integers(1, 64)),
    )


def damaged_bytes(whole: bytes, near: int | None = None) -> SearchStrategy[bytes]:
    """`whole` after one to four changes."""

    def apply(chosen: list[Edit]) -> bytes:
        content = whole
        for edit in chosen:
            content = edit(content)
        return content

    return st.lists(edits(len(whole) if near is None else near), min_size=1, max_size=4).map(apply)


def damaged_json(whole: Any) -> SearchStrategy[Any]:
    """`whole` with one to three of its values replaced by one of another kind, taken out, or under another key."""
    paths = [path for path in json_paths(whole) if path]
    changes = st.one_of(
        st.builds(_replace, st.sampled_from(ODD_VALUES)),
        st.just(_delete),
        st.builds(_rename, st.sampled_from(ODD_KEYS)),
    )

    def apply(chosen: Sequence[tuple[JsonPath, Change]]) -> Any:
        value = copy.deepcopy(whole)
        for path, change in chosen:
            holder = _holder(value, path)
            if holder is not None:  # else an earlier change took it away
                change(holder, path[-1])
        return value

    return st.lists(st.tuples(st.sampled_from(paths), changes), min_size=1, max_size=3).map(apply)


def damaged_json_bytes(whole: Any) -> SearchStrategy[bytes]:
    """A JSON file of `whole`, damaged in its values or in its bytes."""
    values = damaged_json(whole).map(lambda value: json.dumps(value).encode())
    return st.one_of(values, values, damaged_bytes(json.dumps(whole).encode()))


def json_paths(value: Any) -> Iterator[JsonPath]:
    """The path of each value inside `value`, its own (the empty one) first; of a long list the first and the last."""
    yield ()
    children: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    for key, child in children if len(children) <= 40 else [*children[:2], children[-1]]:
        yield from ((key, *path) for path in json_paths(child))


@contextmanager
def bounded_memory(nbytes: int) -> Iterator[None]:
    """Within this block the process can't map `nbytes` more than it has: Python's or Rust's, a larger request fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _holder(value: Any, path: JsonPath) -> Any:
    """The dict or list in `value` that has the last key of `path`; None where the path leads nowhere."""
    for key in path[:-1]:
        if not _has(value, key):
            return None
        value = value[key]
    return value if _has(value, path[-1]) else None


def _has(value: Any, key: Any) -> bool:
    if isinstance(value, dict):
        return key in value
    return isinstance(value, list) and isinstance(key, int) and key < len(value)


def _replace(new: Any) -> Change:
    def change(holder: Any, key: Any) -> None:
        holder[key] = copy.deepcopy(new)

    return change


def _delete(holder: Any, key: Any) -> None:
    del holder[key]


def _rename(new: str) -> Change:
    def change(holder: Any, key: Any) -> None:
        if isinstance(holder, dict):
            holder[new] = holder.pop(key)

    return change


def _overwrite(at: int, piece: bytes) -> Edit:
    return lambda content: content[: _at(at, content)] + piece + content[_at(at, content) + len(piece) :]


def _extreme(at: int, value: int, size: int) -> Edit:
    return _overwrite(at, (value % 2 ** (8 * size)).to_bytes(size, "little"))


def _cut(at: int) -> Edit:
    return lambda content: content[: _at(at, content)]


def _insert(at: int, piece: bytes) -> Edit:
    return lambda content: content[: _at(at, content)] + piece + content[_at(at, content) :]


def _repeat(at: int, count: int) -> Edit:
    return lambda content: content[: _at(at, content) + count] + content[_at(at, content) :]


def _remove(at: int, count: int) -> Edit:
    return lambda content: content[: _at(at, content)] + content[_at(at, content) + count :]


def _at(place: int, content: bytes) -> int:
    return place % max(len(content), 1)
