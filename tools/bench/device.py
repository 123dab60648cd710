"""What this device can do at best, measured anew, and remembered for the tools that hold a kernel against it."""

from __future__ import annotations

import argparse

from tools import cli
from tools.bench import rates
from tools.bench.figures import Figures

SUMMARY = "what this device can do at best: the ceiling that kernels are held against"


def add_options(parser: cli.Parser) -> None:
    """None of its own."""


def bench(arguments: argparse.Namespace) -> Figures:
    """Bytes read a second, and FLOPs a second of the fastest large bf16 product."""
    from bindings.device import Device

    with Device.open(arguments.device) as device:
        found = rates.known(device, again=True)
        return {
            "device": device.name,
            "read_gb_per_second": found.read_bytes / 1e9,
            "product_tflop_per_second": found.flops / 1e12,
        }
