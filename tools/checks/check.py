"""One thing that was looked at, and what may run when which things are well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["ok", "missing", "broken"]

# What the main job needs on each kind of device, by the ids of the checks.
_EVERYWHERE = ("python", "packages", "kernel_cache")
NEEDS = {
    "cuda": (*_EVERYWHERE, "driver", "device", "nvrtc", "cublas", "headers"),
    "cpu": (*_EVERYWHERE, "host_headers", "compiler", "cpu"),
}


@dataclass(frozen=True)
class Check:
    """The state of one thing.

    id: stable, for scripts; `area.detail` for a part of an area. found: what is there, in a few words. meaning: what
    follows from it, where it is not plain. fix: the command that mends it. facts: the same as numbers, for --json.
    """

    id: str
    name: str
    state: State
    found: str
    meaning: str = ""
    fix: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def usable_devices(checks: Sequence[Check]) -> list[str]:
    """The kinds of device that the main job can run on, the faster first."""
    well = {check.id: check.state == "ok" for check in checks}
    return [kind for kind, needs in NEEDS.items() if all(well.get(need, False) for need in needs)]


def size(nbytes: float) -> str:
    """Bytes as a person says them."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if nbytes >= limit:
            return f"{nbytes / limit:.1f} {unit}"
    return f"{nbytes:.0f} bytes"


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
