"""Device memory over time: by how much each allocation and each free changes what whom holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]

OWNERS = ("weights", "KV pages", "activations", "workspace", "step buffers", "other")

# How the names of an owner's buffers begin. They are given where engine/ allocates.
_BEGINNINGS = (
    ("KV pages", ("kv_pages",)),
    ("workspace", ("cublas.workspace",)),
    ("activations", ("activations.", "rope.", "single_queries")),
    ("weights", ("embed", "layers.", "norm.", "lm_head")),
    ("step buffers", ("step", "copies", "chosen", "sampler", "edits", "logprobs", "prompt_logprobs")),
)


def owner(buffer: str) -> str:
    """Which of OWNERS a buffer of this name belongs to."""
    return next((name for name, beginnings in _BEGINNINGS if buffer.startswith(beginnings)), "other")


def changes(calls: Sequence[Record]) -> dict[str, Any]:
    """Row of the call, number of the owner, and signed bytes, of each change; pinned host memory is left out."""
    rows = [(row, call) for row, call in enumerate(calls) if _is_device_memory(call)]
    return {
        "owners": list(OWNERS),
        "call": [row for row, _ in rows],
        "owner": [OWNERS.index(owner(call["buffer"])) for _, call in rows],
        "bytes": [-call["nbytes"] if "Free" in call["call"] else call["nbytes"] for _, call in rows],
    }


def _is_device_memory(call: Record) -> bool:
    return "nbytes" in call and call.get("result") == "ok" and "Host" not in call["call"]
