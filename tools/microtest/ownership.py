"""Which block and thread wrote an element of an output, and at which line of the kernel.

The CPU device tells: the operation runs once more on the same inputs, compiled so that it calls the device's runtime
before each access, with a watchpoint on the element. A process that drives a GPU asks another one that runs this file.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bindings import backend
from bindings.device import Device
from bindings.dtypes import decode
from bindings.errors import CudaError, CutawayError
from bindings.tensor import Tensor
from engine import lab_ops, ops
from engine.spec import Op
from tools.microtest.cpu_device import checked_device, revive
from tools.microtest.harness import Problem, placed
from tools.microtest.source_files import SourceFiles

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Owner:
    """The thread that wrote an element last.

    Attributes: `location` is `file:line`, None where it is not known; `value` what the element holds after the run;
    `writes` how many writes went to it: more than one may be one too many.
    """

    block: tuple[int, int, int]
    thread: tuple[int, int, int]
    location: str | None
    value: float | int
    writes: int

    def __str__(self) -> str:
        where = f" at {Path(self.location).name}" if self.location else ""
        often = f" (the last of {self.writes} writes)" if self.writes > 1 else ""
        return f"block {self.block}, thread {self.thread}{where} wrote {self.value:g}{often}"


def owner_of(op: Op, problem: Problem, output_name: str, index: Sequence[int]) -> Owner | None:
    """Who wrote `output_name[index]` when `op` runs on `problem`; None if no thread did.

    On a GPU it is who writes it on the CPU device.
    Raises CutawayError if the output or the element does not exist, if the operation fails on the CPU device before
    anybody wrote it, or if a process that drives a GPU asks for an operation that is none of engine/ops.py or
    engine/lab_ops.py, nor one of them with another kernel.
    """
    _check_index(op, problem, output_name, index)
    if backend.select().kind != "cpu":
        return _ask_another_process(op, problem, output_name, index)
    with checked_device() as device, placed(op, problem, device, guarded=True) as tensors:
        return _watch(op, problem, device, tensors, output_name, index)


def _check_index(op: Op, problem: Problem, name: str, index: Sequence[int]) -> None:
    outputs = [arg.name for arg in op.tensors if arg.role != "in"]
    if name not in outputs:
        raise CutawayError(f"{op.name} has no output {name!r}; it has {', '.join(outputs)}")
    shape = problem.expected[name].shape
    fits = len(index) == len(shape) and all(0 <= i < size for i, size in zip(index, shape, strict=True))
    if not fits:
        raise CutawayError(f"{op.name}: {name} has the shape {list(shape)}; there is no element {list(index)}")


def _watch(
    op: Op, problem: Problem, device: Device, tensors: Mapping[str, Tensor], output: str, index: Sequence[int]
) -> Owner | None:
    from bindings.cpu import driver

    tensor = tensors[output]
    element = int(np.ravel_multi_index(tuple(index), tensor.shape))
    driver.watch_writes(tensor.address + element * tensor.dtype.itemsize, tensor.dtype.itemsize)
    try:
        op(device.stream, **tensors, **problem.scalars)
        device.synchronize()
    except CudaError:
        revive()
        if driver.watched_writes() is None:
            raise
    finally:
        writes = driver.watched_writes()
        driver.watch_writes(0, 0)
    if writes is None:
        return None
    value = decode(tensor.numpy(), tensor.dtype)[tuple(index)].item()
    location = SourceFiles(op).own_place(writes.last.location)
    return Owner(writes.last.block, writes.last.thread, location, value, writes.count)


# ---- For a process that drives a GPU, since a process has one backend. ----------------------------------------------


def _ask_another_process(op: Op, problem: Problem, output: str, index: Sequence[int]) -> Owner | None:
    same = (name for name, listed in _listed().items() if _is_variant(op, listed))
    name = next(same, None)  # functions, which an operation has, can't be sent: the other process looks it up
    if name is None:
        raise CutawayError(f"{op.name} is no operation of engine/: run with --device cpu to see who wrote what")
    question = pickle.dumps((name, op.source, op.entry, problem, output, tuple(index)))
    answer = subprocess.run(
        [sys.executable, "-m", "tools.microtest.ownership"],
        input=question,
        capture_output=True,
        cwd=REPOSITORY,
        env=os.environ | {"CUTAWAY_DEVICE": "cpu"},
    )
    if answer.returncode:
        lines = answer.stderr.decode(errors="replace").strip().splitlines()
        raise CutawayError(f"the CPU device cannot say who wrote it: {lines[-1] if lines else 'no answer'}")
    owner: Owner | None = pickle.loads(answer.stdout)
    return owner


def _listed() -> dict[str, Op]:
    return {**ops.ALL, **lab_ops.ALL}


def _is_variant(op: Op, listed: Op) -> bool:
    """Whether `op` is `listed` but for its name and its kernel's file."""
    return (op.launch, op.constants, op.args) == (listed.launch, listed.constants, listed.args)


def _answer() -> None:
    """Read a question of `_ask_another_process` from stdin and write the answer to stdout, both pickled."""
    name, source, entry, problem, output, index = pickle.load(sys.stdin.buffer)
    op = _listed()[name].variant(source=source, entry=entry)
    try:
        owner = owner_of(op, problem, output, index)
    except CutawayError as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(pickle.dumps(owner))


if __name__ == "__main__":
    from tools.microtest import ownership

    ownership._answer()  # by that name, so that what is pickled belongs to the module and not to __main__
