"""The working tree's kernel against another version of it, in one run: `--compare BASE`."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bindings.device import Device
from bindings.errors import CutawayError
from bindings.kernel import KernelLibrary
from bindings.nvrtc import KERNEL_SOURCES
from engine.spec import Op
from tools.cli import UsageError
from tools.microtest.columns import duration, table
from tools.microtest.examine import examine, require_right
from tools.microtest.paired import PAIRS, Difference, in_turns, using
from tools.microtest.products import Product
from tools.microtest.session import TestFailure, chosen, opened, shape_asked
from tools.microtest.shapes import Workload, workloads
from tools.microtest.timing import Copies, Launches


@dataclass(frozen=True)
class Compared:
    """One workload, before against after."""

    workload: Workload
    difference: Difference


def run(arguments: argparse.Namespace) -> None:
    """Test the working tree's kernel, then time it in turns with the base's. Raises TestFailure if it is wrong."""
    op = chosen(arguments)
    if isinstance(op, Product):
        raise UsageError("--compare: a matrix product is cuBLAS's, no kernel of ours")
    with _sources(arguments.compare, op) as base, opened(arguments) as device:
        wanted = workloads(op, device.kind, shape_asked(arguments))
        require_right([examine(device, op, None, {})], arguments.json)
        found = [compare(device, op, base, workload) for workload in wanted]
        _tell(arguments, op, device, found)


def _tell(arguments: argparse.Namespace, op: Op, device: Device, found: list[Compared]) -> None:
    if arguments.json:
        rows = [
            {"workload": one.workload.name, "symbols": one.workload.symbols, "seen": one.difference.seen}
            | asdict(one.difference)
            for one in found
        ]
        print(json.dumps({"kernel": op.name, "base": arguments.compare, "device": device.name, "times": rows}))
        return
    print(f"{op.name} against {arguments.compare}, on {device.name}: {PAIRS[device.kind]} pairs, 95 % confidence")
    head = ("workload", "sizes", "before", "after", "now ")
    rows = [
        (one.workload.name, str(one.workload), duration(one.difference.before), duration(one.difference.after),
         str(one.difference))
        for one in found
    ]  # fmt: skip
    print(table(head, rows, words=2))


def compare(device: Device, op: Op, base: Path, workload: Workload) -> Compared:
    """Time `op` as the source tree `base` has it and as it is now, in turns, on the same buffers."""
    older = KernelLibrary(device, base)
    try:
        with Copies(device, op, workload) as copies:
            try:
                with using(device, older):
                    before = Launches(copies, op)
            except CutawayError as error:
                raise TestFailure(f"the base's kernel can't be run under the spec of today: {error}") from error
            with before, Launches(copies, op, before.count) as after:
                return Compared(workload, in_turns(before, after, PAIRS[device.kind]))
    finally:
        older.close()


@contextmanager
def _sources(base: str, op: Op) -> Iterator[Path]:
    """The source tree that BASE means, as long as it is needed. Raises UsageError if it means none."""
    folder = Path(base)
    if folder.is_dir():
        inner = folder / KERNEL_SOURCES.name
        yield _with_kernel((inner if inner.is_dir() else folder).resolve(), op, base)
        return
    with tempfile.TemporaryDirectory(prefix="cutaway-base-") as scratch:
        with tarfile.open(fileobj=io.BytesIO(_archive(base))) as archive:
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.10.12 on
            archive.extractall(scratch, **safely)
        yield _with_kernel(Path(scratch) / KERNEL_SOURCES.name, op, base)


def _with_kernel(root: Path, op: Op, base: str) -> Path:
    if not (root / op.source).is_file():
        raise UsageError(f"--compare {base}: it has no {KERNEL_SOURCES.name}/{op.source}")
    return root


def _archive(revision: str) -> bytes:
    """The kernels of a git revision, as a tar file."""
    if revision.startswith("-"):
        raise UsageError(f"--compare {revision}: expected a git revision or a folder")
    command = ["git", "archive", "--format=tar", revision, KERNEL_SOURCES.name]
    try:
        done = subprocess.run(command, cwd=KERNEL_SOURCES.parent, capture_output=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise UsageError(f"--compare {revision}: there is no such folder, and git can't be run: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = said[0] if said else "git failed"
        raise UsageError(f"--compare {revision}: neither a folder nor a git revision ({why})")
    return done.stdout
