"""Device memory over time: by how much each allocation and each free changes what whom holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tools.trace.memory import OWNERS, PINNED, owner

Record = dict[str, Any]

SHOWN = [name for name in OWNERS if name != PINNED]


def changes(calls: Sequence[Record]) -> dict[str, Any]:
    """Row of the call, number of the owner, and signed bytes, of each change; pinned host memory is left out."""
    rows = [(row, call) for row, call in enumerate(calls) if _is_device_memory(call)]
    return {
        "owners": SHOWN,
        "call": [row for row, _ in rows],
        "owner": [SHOWN.index(owner(call["buffer"])) for _, call in rows],
        "bytes": [-call["nbytes"] if "Free" in call["call"] else call["nbytes"] for _, call in rows],
    }


def _is_device_memory(call: Record) -> bool:
    return "nbytes" in call and call.get("result") == "ok" and "Host" not in call["call"]
