"""All probes, and the file with what a GPU made of them."""

from __future__ import annotations

from pathlib import Path

from tests.cpu_device.intrinsics import collectives, scalars

PROBES = [*scalars.PROBES, *collectives.PROBES]
TABLE = Path(__file__).resolve().parents[2] / "fixtures" / "intrinsics.npz"
