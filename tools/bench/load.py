"""Weights from the page cache to the device."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools import cli
from tools.bench import options
from tools.bench.figures import Figures

SUMMARY = "loading, from the page cache to the device"
REPEATS = 3


def add_options(parser: cli.Parser) -> None:
    options.add_model_options(parser)


@contextmanager
def stored(arguments: argparse.Namespace) -> Iterator[str | None]:
    """The model to load: --model, or a random one that lies in a file as long as the block lasts."""
    if arguments.random_weights is None:
        yield arguments.model
        return
    from engine.random_model import write_random_model

    with tempfile.TemporaryDirectory(prefix="cutaway-bench-") as folder:
        target = Path(folder) / "model"
        write_random_model(arguments.random_weights, target)
        yield str(target)


def bench(arguments: argparse.Namespace) -> Figures:
    """The best of a few loads, opening the file included."""
    from bindings.device import Device
    from engine.checkpoint import open_checkpoint
    from engine.model_files import resolve_model
    from engine.progress import silent
    from engine.weights import load_weights

    with stored(arguments) as model, Device.open(arguments.device) as device:
        path = resolve_model(model, silent)
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            with open_checkpoint(path) as checkpoint:
                weights = load_weights(device, checkpoint, silent)
            times.append(time.perf_counter() - start)
            nbytes = weights.nbytes
            weights.free()
        best = min(times)
        return {"device": device.name, "seconds": best, "bytes": nbytes, "GB_per_s": nbytes / best / 1e9}
