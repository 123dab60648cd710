"""Who owns the device's memory, now and when it was fullest."""

from __future__ import annotations

from bindings.trace import Event

OWNERS = ("weights", "KV pages", "activations", "workspace", "step buffers", "other")
PINNED = "pinned host memory"

# How the names of an owner's buffers begin; the first that fits. They are given where engine/ allocates.
_BEGINNINGS = (
    ("KV pages", ("kv_pages",)),
    ("workspace", ("cublas.workspace",)),
    ("activations", ("activations.", "rope.", "single_queries")),
    ("weights", ("embed", "layers.", "norm.", "lm_head")),
    ("step buffers", ("step", "copies", "chosen", "sampler", "edits", "logprobs", "prompt_logprobs")),
)


def owner(buffer: str) -> str:
    """The owner of a buffer of device memory, by its name."""
    return next((name for name, beginnings in _BEGINNINGS if buffer.startswith(beginnings)), "other")


class Memory:
    """Follows allocations and frees: bytes by owner now, and as they were when most device memory was taken."""

    def __init__(self) -> None:
        self.now: dict[str, int] = {}
        self.fullest: dict[str, int] = {}

    def see(self, event: Event) -> bool:
        """Count a call; whether it changed anything."""
        if "buffer" not in event or event["result"] != "ok":
            return False
        pinned = "Host" in event["call"]
        name = PINNED if pinned else owner(event["buffer"])
        sign = -1 if "Free" in event["call"] else 1
        self.now[name] = self.now.get(name, 0) + sign * event["nbytes"]
        if device_bytes(self.now) > device_bytes(self.fullest):
            self.fullest = dict(self.now)
        return True


def device_bytes(by_owner: dict[str, int]) -> int:
    """All of the device's own memory."""
    return sum(nbytes for name, nbytes in by_owner.items() if name != PINNED)
