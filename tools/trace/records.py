"""What a record of a trace must hold, so that views need not ask: bindings/trace.py says what it means.

Checked where a file is read; what a run tells is made by ourselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bindings.trace import Event

Types = Mapping[str, tuple[type, ...]]

_TEXT, _WORDS, _LIST, _COUNT, _NUMBER = (str,), (dict,), (list,), (int,), (int, float)
_NOTHING = type(None)

_ALWAYS: dict[str, Types] = {
    "header": {"command": _TEXT, "device": (dict, _NOTHING), "clock": _TEXT, "rates": (dict, _NOTHING)},
    "call": {
        "n": _COUNT, "t_us": _NUMBER, "call": _TEXT, "args": _WORDS, "label": _TEXT, "site": _TEXT,
        "host_us": _NUMBER, "result": _TEXT,
    },
    "step": {
        "t_us": _NUMBER, "step": _COUNT, "decodes": _LIST, "prefills": _LIST, "copies": _LIST, "tables": _WORDS,
        "preempted": _LIST, "released": _LIST, "num_pages": _COUNT, "page_size": _COUNT, "free": _COUNT,
        "cached": _LIST, "waiting": _COUNT, "running": _COUNT,
    },
}  # fmt: skip

# What a call may hold besides.
_AT_TIMES: Types = {
    "kernel": _TEXT, "source": _TEXT, "defines": _WORDS, "params": _WORDS, "op": _TEXT, "tensors": _WORDS,
    "roles": _WORDS, "sizes": _WORDS, "bytes": _NUMBER, "flops": _NUMBER, "grid": _LIST, "block": _LIST,
    "smem": _NUMBER, "registers": _COUNT, "stream": _TEXT, "buffer": _TEXT, "nbytes": _NUMBER, "captured": _COUNT,
    "graph": _COUNT, "activities": _LIST,
}  # fmt: skip

# What comes with what: a launch has a geometry, arithmetic its bytes.
_TOGETHER = {
    "kernel": ("params", "grid", "block", "smem", "stream"),
    "op": ("tensors", "roles", "bytes", "flops"),
    "buffer": ("nbytes",),
    "flops": ("bytes",),
}

_ACTIVITY: Types = {"what": _TEXT, "name": _TEXT, "start_us": _NUMBER, "end_us": _NUMBER, "stream": _TEXT}
_DEVICE: Types = {"kind": _TEXT, "name": _TEXT, "arch": _TEXT, "sm_count": _COUNT, "total_memory": _COUNT}
_RATES: Types = {"read_bytes": _NUMBER, "flops": _NUMBER}
_SIZES: Types = {"m": _COUNT, "n": _COUNT, "k": _COUNT, "transpose_b": (bool,)}


def problem(record: Any) -> str:
    """What is wrong with a record as JSON gives it; "" where nothing is."""
    if not isinstance(record, dict) or "kind" not in record:
        return "is no record of a trace: it has no kind"
    kind = record["kind"]
    if not isinstance(kind, str) or kind not in _ALWAYS:
        return f"is a record of the kind {kind!r}; there are {', '.join(_ALWAYS)}"
    return next(_problems(kind, record), "")


def _problems(kind: str, record: Event) -> Iterator[str]:
    yield from _misfits(f"a {kind}", record, _ALWAYS[kind])
    if kind == "header":
        for name, types in (("device", _DEVICE), ("rates", _RATES)):
            if record[name] is not None:
                yield from _misfits(f"the header's {name}", record[name], types)
    elif kind == "call":
        yield from _problems_of_call(record)


def _problems_of_call(call: Event) -> Iterator[str]:
    yield from _misfits("a call", call, {name: types for name, types in _AT_TIMES.items() if name in call})
    for name, others in _TOGETHER.items():
        if name in call:
            yield from _misfits(f"a call with {name}", call, {other: _AT_TIMES[other] for other in others})
    if str(call.get("op", "")).startswith("gemm"):
        yield from _misfits("a product", call, {"sizes": _WORDS})
        yield from _misfits("the sizes of a product", call["sizes"], _SIZES)
        yield from _misfits("the tensors of a product", call["tensors"], dict.fromkeys(("out", "a", "b"), _TEXT))
    for activity in call.get("activities", ()):
        yield from _misfits("an activity", activity, _ACTIVITY)


def _misfits(what: str, record: Any, wanted: Types) -> Iterator[str]:
    if not isinstance(record, dict):
        yield f"has {record!r} where {what} should be"
    for name, types in wanted.items():
        if name not in record:
            yield f"is not whole: {what} has {name!r}, and this has none"
        elif not isinstance(record[name], types):
            yield f"is wrong: {name!r} of {what} is {record[name]!r}, which is no {types[0].__name__}"
