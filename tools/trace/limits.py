"""What the device of a trace can do at best, so that a kernel's rates have something to be held against."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict

from bindings.trace import Event
from tools.bench.rates import remembered

# What makes a device slower or smaller than it is, or talkative: nothing to remember it by.
_CPU_DEVICE = ("CHECK", "FENCES", "LEAKS", "MEMORY", "SCHEDULE", "STREAMS")
_NOT_MEASURED = ("CUTAWAY_TRACE", *(f"CUTAWAY_CPU_{word}" for word in _CPU_DEVICE))


def limits_of(device: Event) -> Event | None:
    """{read_bytes, flops} a second of a device as its note describes it; None where measuring fails.

    Measured once a device, by another process, since this one is being watched.
    """
    key = device["kind"], device["name"], device["driver_version"]
    rates = remembered(*key)
    if rates is None:
        print("measure the device (once)", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "tools.bench", "device", "--device", device["kind"], "--quiet", "--json"]
        nothing = subprocess.DEVNULL
        subprocess.run(command, stdout=nothing, stdin=nothing, check=False, env=_environment())
        rates = remembered(*key)
    return None if rates is None else asdict(rates)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _NOT_MEASURED}
