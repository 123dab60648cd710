"""What every way of testing shares: the device as long as it is needed, and the one line that a failure ends with."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bindings.device import Device
from bindings.errors import CutawayError
from engine.spec import Op
from tools.bench import rates
from tools.bench.rates import Rates
from tools.microtest.catalogue import find, from_file, others_in
from tools.microtest.products import GEMM
from tools.microtest.shapes import parse, require_dtype
from tools.progress import Progress


class TestFailure(CutawayError):
    """A kernel is wrong, or a measurement can't be right: what was printed says why."""

    __test__ = False  # no class of tests, whatever its name


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[Device]:
    """The device that --device asks for."""
    with Device.open(arguments.device) as device:
        if device.why and not arguments.quiet:
            print(f"{device.why}: running on the CPU device", file=sys.stderr, flush=True)
        try:
            yield device
        finally:
            GEMM.close()


def chosen(arguments: argparse.Namespace) -> Op:
    """The one kernel that the command line names, by its name or by --file. Raises UsageError."""
    op: Op = from_file(arguments.file, arguments.kernel) if arguments.file else find(arguments.kernel)
    if getattr(arguments, "dtype", None):
        require_dtype(op, arguments.dtype)
    if arguments.file and not arguments.kernel and not arguments.quiet:
        _tell_others(arguments.file, op)
    return op


def _tell_others(path: Path, op: Op) -> None:
    """What a file is tested as, where it has several kernels, or one that several specs launch."""
    others = others_in(path, op)
    if others:
        print(f"{path}: tested as {op.name}; name another to test it as that: {', '.join(others)}", file=sys.stderr)


def shape_asked(arguments: argparse.Namespace) -> dict[str, int]:
    """What --shape says; nothing where it is not given."""
    return parse(arguments.shape) if arguments.shape is not None else {}


def ceiling_of(device: Device, arguments: argparse.Namespace) -> Rates:
    """The device's measured rates, as known or, with --measure-rates, anew."""
    with Progress(quiet=arguments.quiet) as progress:
        return rates.known(
            device, again=arguments.measure_rates, tell=lambda: progress("measure the device", 0, 1, "run")
        )
