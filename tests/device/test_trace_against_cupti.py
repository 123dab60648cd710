"""The trace misses no driver call and invents none: CUPTI, inside NVIDIA's driver, counts the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Not calls of the engine: cuda-bindings looks functions up, and the door asks what an error means.
ASIDE = {"cuGetProcAddress", "cuDriverGetVersion", "cuGetExportTable", "cuGetErrorString"}


@pytest.mark.needs_gpu
@pytest.mark.needs_cupti
def test_counts_are_equal(repository: Path) -> None:
    command = [sys.executable, "-m", "tests.device.count_driver_calls"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    traced, seen = ({name: n for name, n in counts[who].items() if name not in ASIDE} for who in ("trace", "cupti"))
    assert seen == traced
    for family in ("cuLaunchKernel", "cuMemAlloc", "cuMemcpy", "cuGraphLaunch"):
        assert sum(n for name, n in traced.items() if name.startswith(family)) > 0, f"{family}: nothing was compared"
