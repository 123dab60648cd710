"""`python -m tools.microtest OP --inspect block=3,thread=17`: what one thread computed, line by line.

The operation runs on one of its cases on the CPU device, its kernel compiled so that the chosen thread tells each value
that it assigns (bindings/cpu/inspection.py). What comes of it is a tree (inspection_tree.py) to print or to write as
JSON (inspection_view.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bindings import backend
from bindings.cpu.driver import end_inspection, inspect_thread
from bindings.device import Device
from bindings.errors import CompileError, CudaError, CutawayError
from bindings.nvrtc import KERNEL_SOURCES, compile_kernel
from engine.spec import Op, Symbols
from tools.cli import UsageError
from tools.microtest.cpu_device import revive
from tools.microtest.harness import Case, Problem, placed, symbols_of
from tools.microtest.inspection_tree import Call, tree
from tools.microtest.inspection_values import Memory
from tools.microtest.source_files import SourceFiles

Dim3 = tuple[int, int, int]

_PLACE = re.compile(r"block=(\d+(?::\d+){0,2}),thread=(\d+(?::\d+){0,2})")


@dataclass(frozen=True)
class Inspection:
    """What a thread did.

    Attributes: `calls` is the kernel's call, with all that it called inside; `was_cut` whether the thread said more
    than the recorder keeps; `failure` why the launch failed, None if it did not: then the tree ends where it did.
    """

    op: Op
    case: str
    grid: Dim3
    block_size: Dim3
    block: Dim3
    thread: Dim3
    calls: list[Call]
    was_cut: bool
    failure: str | None


def parse_place(text: str) -> tuple[Dim3, Dim3]:
    """(block, thread) of `block=3,thread=17`; `block=1:2:0` gives x, y and z. Raises UsageError on anything else."""
    match = _PLACE.fullmatch(text.replace(" ", ""))
    if match is None:
        raise UsageError(
            f"--inspect {text}: expected block=X,thread=X such as block=3,thread=17 or block=1:2:0,thread=5"
        )
    return _three(match[1]), _three(match[2])


def _three(text: str) -> Dim3:
    x, y, z = (*map(int, text.split(":")), 0, 0)[:3]
    return x, y, z


def spelled(place: Dim3) -> str:
    """(3, 0, 0) as `3`, (1, 2, 0) as `1:2`: as --inspect takes it."""
    last = 3 if place[2] else 2 if place[1] else 1
    return ":".join(map(str, place[:last]))


def inspect(op: Op, case: Case, block: Dim3, thread: Dim3) -> Inspection:
    """Run `op` on `case` and record what this thread of this block does.

    Raises UsageError if this process drives a GPU or the launch has no such thread, CompileError if the kernel does not
    compile, CutawayError if it compiles only without what tells.
    """
    if backend.select().kind != "cpu":
        raise UsageError("--inspect shows what a thread of the CPU device does: add --device cpu")
    problem = case.problem()
    symbols = symbols_of(op, problem)
    with _inspecting_device(block, thread) as device, placed(op, problem, device, guarded=True) as tensors:
        launch = op.geometry(symbols, device.max_dynamic_smem)
        grid, block_size = shape_of(op, problem, device.max_dynamic_smem)
        _check_place(op, case, (grid, block_size), block, thread)
        _compile(op, device, symbols)
        failure = _run(op, device, {**tensors, **problem.scalars})
        recording = end_inspection()
        files = SourceFiles(op)
        events = ([kind, files.own(file), *rest] for kind, file, *rest in recording.events)
        calls = tree(events, Memory(tensors, launch.smem))
    return Inspection(op, case.name, grid, block_size, block, thread, calls, recording.was_cut, failure)


@contextmanager
def _inspecting_device(block: Dim3, thread: Dim3) -> Iterator[Device]:
    """A CPU device whose kernels tell: one of its own, since another may have some that do not."""
    from bindings.cpu import checks, driver

    device = Device.open("cpu")
    were_on = checks.checking()
    driver.set_checks("off")  # what tells reads more than the kernel does
    try:
        inspect_thread(block, thread)
        yield device
    finally:
        end_inspection()
        device.close()
        driver.set_checks("memory" if were_on else "off")


def _compile(op: Op, device: Device, symbols: Symbols) -> None:
    try:
        op.kernel(device, symbols)
    except CompileError as error:
        end_inspection()
        defines = op.defines(symbols, device.max_dynamic_smem)
        compile_kernel(KERNEL_SOURCES / op.source, defines, device.arch)  # says what is wrong in the .cu itself
        text = f"{op.source} compiles, but not in the form in which its threads can be inspected: {error}"
        raise CutawayError(text) from error


def shape_of(op: Op, problem: Problem, smem: int) -> tuple[Dim3, Dim3]:
    """The grid and the block of a launch of `op` on `problem`; a block may have `smem` bytes of shared memory."""
    launch = op.geometry(symbols_of(op, problem), smem)
    x, y, z = (*launch.grid, 1, 1)[:3]
    return (x, y, z), (launch.block, 1, 1)


def _check_place(op: Op, case: Case, shape: tuple[Dim3, Dim3], block: Dim3, thread: Dim3) -> None:
    for what, place, size in (("block", block, shape[0]), ("thread", thread, shape[1])):
        if any(i >= n for i, n in zip(place, size, strict=True)):
            grid, threads = (" x ".join(map(str, size)) for size in shape)
            raise UsageError(
                f"--inspect: there is no {what} {spelled(place)}: {op.name} on the case {case.name} is launched with "
                f"a grid of {grid} blocks of {threads} threads"
            )


def _run(op: Op, device: Device, given: dict[str, Any]) -> str | None:
    """Launch; why it failed, None if it did not."""
    try:
        op(device.stream, **given)
        device.synchronize()
    except CudaError as error:
        revive()
        return error.detail or str(error)
    return None
