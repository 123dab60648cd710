"""What the device of a trace can do at best, so that a kernel's rates have something to be held against."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict

from bindings.trace import Event
from tools.bench.rates import remembered


def limits_of(device: Event) -> Event | None:
    """{read_bytes, flops} a second of a device as its note describes it; None where measuring fails.

    Measured once a device, by another process, since this one is being watched.
    """
    key = device["kind"], device["name"], device["driver_version"]
    rates = remembered(*key)
    if rates is None:
        print("measure the device (once)", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "tools.bench", "device", "--device", device["kind"], "--quiet", "--json"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)
        rates = remembered(*key)
    return None if rates is None else asdict(rates)
