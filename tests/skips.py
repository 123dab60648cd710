"""The only reasons for which a test may be skipped.

A test asks by marker (`@pytest.mark.needs_gpu`); conftest.py makes it a skip with the text below. Any other
skip fails the session, so that a suite cannot go green by quietly running less. Out of memory is a
failure, not a skip.
"""

from __future__ import annotations

# marker name -> the reason shown and counted
REASONS = {
    "needs_gpu": "needs an NVIDIA GPU",
    "cpu_device_only": "checks the CPU device itself",
    "needs_nvrtc": "needs NVRTC: pip install nvidia-cuda-nvrtc",
    "needs_cupti": 'needs CUPTI: pip install -e ".[trace]"',
    "needs_chromium": "needs playwright and a Chromium: pip install playwright, and a browser or $CUTAWAY_CHROMIUM",
    "needs_mount": "needs the right to mount a tmpfs in a namespace of its own",
}


def allowed(reason: str) -> bool:
    """Whether `reason`, as pytest reports it, is on the list."""
    return reason.removeprefix("Skipped: ") in REASONS.values()
