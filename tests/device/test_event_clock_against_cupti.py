"""Pairs of events and CUPTI time the same kernels, in the same run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# A pair holds the launch of the kernel between its events, too: a microsecond on an H100.
LAUNCH_US = 2.0


@pytest.mark.needs_gpu
@pytest.mark.needs_cupti
def test_pairs_of_events_agree_with_cupti(repository: Path) -> None:
    command = [sys.executable, "-m", "tests.device.time_kernels_twice"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    times = json.loads(done.stdout)
    assert len(times) > 200 and sum(cupti > 100 for _, _, cupti in times) > 20, "too few kernels, or none that is long"
    for name, pair, cupti in times:
        allowed = 0.02 * cupti if cupti > 100 else 0.02 * cupti + LAUNCH_US
        assert abs(pair - cupti) <= allowed, f"{name}: {pair:.2f} us by events, {cupti:.2f} us by CUPTI"
