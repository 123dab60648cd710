"""`--watch`: at each save of a kernel's source, or of a header that it includes, test and time it anew.

What matters first comes first: whether it compiles, then whether the cases that share the timed workload's constants
are right, then the change in time against the last version that was right, then all other cases. A save in between
starts over. A fault ends a GPU's context, and with it what this process can do there: then it waits for the next save
and starts itself anew.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bindings import nvrtc
from bindings.device import Device
from bindings.errors import CompileError, CudaError, CutawayError
from bindings.kernel import KernelLibrary
from engine.spec import Op
from tools.cli import UsageError
from tools.microtest import report
from tools.microtest.catalogue import cases_for
from tools.microtest.columns import duration
from tools.microtest.correctness import Verdict, explained, verdicts
from tools.microtest.harness import Case, built, symbols_of
from tools.microtest.paired import in_turns, using
from tools.microtest.products import Product
from tools.microtest.session import chosen, opened, shape_asked
from tools.microtest.shapes import workloads
from tools.microtest.timing import Copies, Launches

POLL_SECONDS = 0.05
PAIRS = {"cuda": 21, "cpu": 9}  # fewer than --compare takes: the answer is wanted now
LOG_LINES = 12

Stamps = dict[Path, "tuple[int, int] | None"]
Constants = tuple[tuple[str, int], ...]


class Saved(Exception):
    """A file changed while the version before it was being tested."""


@dataclass
class Version:
    """A kernel that was right: its modules, and its launches, to be timed against the next one's."""

    library: KernelLibrary
    launches: Launches

    def close(self) -> None:
        self.launches.close()
        self.library.close()


def run(arguments: argparse.Namespace) -> None:
    """Watch until Ctrl-C."""
    op = chosen(arguments)
    if isinstance(op, Product):
        raise UsageError("--watch: a matrix product is cuBLAS's, no kernel of ours")
    with opened(arguments) as device, ExitStack() as stack:
        watch = Watch(device, op, shape_asked(arguments))
        stack.callback(watch.close)
        while True:
            watch.round()
            watch.wait()
            if watch.dead:
                sys.stdout.flush()
                os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class Watch:
    """One kernel under watch. dead: its device can do nothing more."""

    def __init__(self, device: Device, op: Op, shape: dict[str, int]) -> None:
        self.device, self.op = device, op
        self.workload = workloads(op, device.kind, shape)[-1]  # the largest: the others are all start and end
        self.groups = _by_constants(device, op, self._timed())
        self.stamps: Stamps = {}
        self.copies: Copies | None = None
        self.good: Version | None = None
        self.dead = False

    def _timed(self) -> Constants:
        return _constants(self.op, self.workload.symbols, self.device)

    def round(self) -> None:
        """Test the version that is on the disk now, and tell what comes of it."""
        started = time.perf_counter()
        nvrtc.forget_texts()
        self.stamps = self._stamps()
        names = ", ".join(sorted({path.name for path in self.stamps if path.suffix == ".cu"}))
        _say(f"{time.strftime('%H:%M:%S')}  {names}")
        library = KernelLibrary(self.device)
        try:
            with using(self.device, library):
                self._test(library, started)
        except Saved:
            _say("  saved again")
        except CompileError as error:
            _say(_compile_errors(error))
        except CutawayError as error:
            _say(f"  {error}")
            self.dead = isinstance(error, CudaError) and self.device.kind == "cuda"
        if not (self.good and self.good.library is library) and not self.dead:
            library.close()

    def _test(self, library: KernelLibrary, started: float) -> None:
        first, *others = self.groups
        if not self._right(first, started):
            return
        self._time(library)
        if others:
            self._compile_all(library, others)
            if all(self._right(group, started, quiet=True) for group in others):
                total = sum(map(len, self.groups.values()))
                _say(f"  right in all {total} cases ({time.perf_counter() - started:.1f} s)")

    def _right(self, constants: Constants, started: float, quiet: bool = False) -> bool:
        """Judge the cases of these constants."""
        cases = self.groups[constants]
        came = []
        for verdict in verdicts(self.device, self.op, cases):
            came.append(verdict)
            self.dead |= verdict.crashed and self.device.kind == "cuda"
            if self._stamps() != self.stamps:
                raise Saved
        if not all(verdict.passed for verdict in came):
            self._tell_wrong(cases, came)
            return False
        if not quiet:
            of = sum(map(len, self.groups.values()))
            _say(f"  right in {len(cases)} of {of} cases ({time.perf_counter() - started:.1f} s)")
        return True

    def _tell_wrong(self, cases: Sequence[Case], came: Sequence[Verdict]) -> None:
        """What is wrong at once; who did it when that is known."""
        _say("\n".join(report.failure_lines(came)))
        first = next(verdict for verdict in explained(self.device, self.op, cases, came) if not verdict.passed)
        for line in report.explanation_lines(first):
            _say(line)

    def _time(self, library: KernelLibrary) -> None:
        """Time this version, against the last good one if there is one; from now on it is the last good one."""
        if self.copies is None:
            self.copies = Copies(self.device, self.op, self.workload)
        mine = Launches(self.copies, self.op, self.good.launches.count if self.good else 0)
        where = f"at {self.workload.name} ({self.workload})"
        if self.good is None:
            _say(f"  {duration(min(mine.sample() for _ in range(5)))} {where}")
        else:
            found = in_turns(self.good.launches, mine, PAIRS[self.device.kind])
            _say(f"  {duration(found.after)} {where}; was {duration(found.before)}: {found}")
            self.good.close()
        self.good = Version(library, mine)

    def _compile_all(self, library: KernelLibrary, groups: Sequence[Constants]) -> None:
        """On all cores."""
        library.precompile([(self.op.source, dict(constants)) for constants in groups], lambda done, total: None)

    def _stamps(self) -> Stamps:
        """Time and size of every file that compiling may read; None for one that is being replaced."""
        source = nvrtc.KERNEL_SOURCES / self.op.source
        try:
            closure = nvrtc.include_closure(source, nvrtc.include_folders(self.device.arch))
        except OSError:  # an editor puts a new file in the old one's place
            closure = [source]
        return {path: _stamp(path) for path in closure}

    def wait(self) -> None:
        """Until a file is saved."""
        while {path: _stamp(path) for path in self.stamps} == self.stamps or not all(map(_stamp, self.stamps)):
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Free what the last good version holds."""
        if self.dead:
            return  # a dead context frees nothing
        if self.good:
            self.good.close()
        if self.copies:
            self.copies.close()


def _say(text: str) -> None:
    print(text, flush=True)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _constants(op: Op, symbols: dict[str, int], device: Device) -> Constants:
    return tuple(sorted(op.defines(symbols, device.max_dynamic_smem).items()))


def _by_constants(device: Device, op: Op, first: Constants) -> dict[Constants, list[Case]]:
    """The cases by what they are compiled with, those of `first` in front; their problems are built here, once."""
    groups: dict[Constants, list[Case]] = {first: []}
    for case in built(cases_for(op)):
        constants = _constants(op, symbols_of(op, case.problem()), device)
        groups.setdefault(constants, []).append(case)
    return groups if groups[first] else {key: cases for key, cases in groups.items() if cases}


def _compile_errors(error: CompileError) -> str:
    """The first error with its line of source and the mark beneath it, as the compiler wrote them."""
    lines = error.log.splitlines()
    first = next((place for place, line in enumerate(lines) if "error" in line), 0)
    shown = lines[first : first + LOG_LINES]
    return "\n".join(["  does not compile:", *(f"    {line}" for line in shown)])
