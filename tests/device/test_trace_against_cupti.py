"""The trace misses no driver call and invents none: CUPTI, inside NVIDIA's driver, counts the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# cuda-bindings looks the driver's functions up by these; the trace shows what is called through the door.
LOOKING_UP = {"cuGetProcAddress", "cuDriverGetVersion", "cuGetExportTable"}


@pytest.mark.needs_gpu
@pytest.mark.needs_cupti
def test_counts_are_equal(repository: Path) -> None:
    command = [sys.executable, "-m", "tests.device.count_driver_calls"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    traced = {name: n for name, n in counts["trace"].items() if name not in LOOKING_UP}
    seen = {name: n for name, n in counts["cupti"].items() if name not in LOOKING_UP}
    assert seen == traced
    for family in ("cuLaunchKernel", "cuMemAlloc", "cuMemcpy", "cuGraphLaunch"):
        assert sum(n for name, n in traced.items() if name.startswith(family)) > 0, f"{family}: nothing was compared"
