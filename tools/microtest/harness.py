"""Runs an operation on a case: inputs to the device, launch, every output against its reference.

`tools/microtest/reference/<op>.py` holds, for each operation, the float64 reference and `cases() -> list[Case]`.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bindings.device import Device
from bindings.dtypes import decode, encode
from bindings.errors import CudaError
from bindings.tensor import Tensor
from engine.spec import Op, Symbols, TensorArg
from tools.microtest.comparator import assert_close, assert_same_bits

POISON = 0xFF  # as bytes: NaN in every float format, -1 in every signed integer
GUARD_BYTES = 512  # keeps the 256-byte alignment of an allocation


@dataclass(frozen=True)
class Problem:
    """One set of inputs of an operation and what must come out.

    Floats are host values that the device's dtype holds exactly: round them first, so that the reference and the
    kernel start from the same numbers.

    Attributes:
        inputs: every In and InOut argument by name.
        expected: every Out and InOut argument by name: float64, or integers.
        bound: largest |got - expected| by output, broadcast to its shape; 0 where an output has none.
        scalars: every Scalar and Extra argument by name.
        impossible: by output, which elements must be -infinity (a masked logit); their `expected` does not matter.
        written: by output, which elements the operation promises (boolean, the output's shape); all where there is
            none. The others must keep the bits they had: those of the input for an InOut, the poison for an Out.
    """

    inputs: Mapping[str, NDArray]
    expected: Mapping[str, NDArray]
    bound: Mapping[str, ArrayLike] = field(default_factory=dict)
    scalars: Mapping[str, float | int] = field(default_factory=dict)
    impossible: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    written: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A named problem, built when its test runs and not when tests are collected.

    `name` is the test's id, such as "T3-H576"; `build` takes a random generator seeded by that name.
    """

    name: str
    build: Callable[[np.random.Generator], Problem]

    def problem(self) -> Problem:
        """The inputs and the expected outputs: the same at every call."""
        return self.build(np.random.default_rng(zlib.crc32(self.name.encode())))


def built(cases: Sequence[Case]) -> list[Case]:
    """The same cases with their problems built once, however often they are asked for."""

    def give(problem: Problem, _: np.random.Generator) -> Problem:
        return problem

    return [Case(case.name, partial(give, case.problem())) for case in cases]


def cases_of(op: Op) -> list[Case]:
    """The cases of an operation, from `reference/<entry>.py`: every rung of a ladder shares its entry's."""
    module = importlib.import_module(f"tools.microtest.reference.{op.entry}")
    cases: list[Case] = module.cases()
    return cases


@contextmanager
def placed(
    op: Op, problem: Problem, device: Device, guarded: bool = False, fresh_outputs: bool = False
) -> Iterator[dict[str, Tensor]]:
    """The tensors of a launch of `op` by name, on fresh device memory; freed at the end. The flags are `run`'s."""
    tensors: dict[str, Tensor] = {}
    try:
        for arg in op.tensors:
            carrier = initial(arg, problem)
            if fresh_outputs and arg.role == "out":
                tensors[arg.name] = device.empty(carrier.shape, arg.dtype, arg.name)
            else:
                tensors[arg.name] = _place(device, arg, carrier, guarded)
        yield tensors
    except CudaError:  # the context is dead and frees nothing; what is left goes with the device
        tensors.clear()
        raise
    finally:
        for tensor in tensors.values():
            tensor.free()


def run(
    op: Op, problem: Problem, device: Device, guarded: bool = False, fresh_outputs: bool = False
) -> dict[str, NDArray]:
    """Launch `op` on fresh device memory and return the carrier array of every output.

    Outputs start as poison. With `guarded`, each tensor lies between two zones of poison whose bits must survive;
    without, it has an allocation to itself, where the CPU device's fences (and compute-sanitizer on a GPU) see a stray
    access. With `fresh_outputs` nobody writes the poison, which on the CPU device new memory holds anyway: a checked
    run then finds a kernel that reads its output.

    Raises:
        AssertionError: an input or a guard zone was written, or an input of the problem was not rounded first.
        CudaError: the kernel could not be launched, or did what no kernel may.
    """
    with placed(op, problem, device, guarded, fresh_outputs) as tensors:
        op(device.stream, **tensors, **problem.scalars)
        after = {name: tensor.numpy() for name, tensor in tensors.items()}
        for arg in op.tensors:
            if arg.role == "in":
                assert_same_bits(after[arg.name], initial(arg, problem), f"{op.name}: input {arg.name}")
            if guarded:
                _check_guards(tensors[arg.name])
    return {arg.name: after[arg.name] for arg in op.tensors if arg.role != "in"}


def check(op: Op, problem: Problem, outputs: Mapping[str, NDArray]) -> None:
    """Assert that every output of `run` is within its bound, and untouched where the problem promises nothing."""
    for arg in op.tensors:
        if arg.role == "in":
            continue
        name = f"{op.name}: {arg.name}"
        expected, carrier = problem.expected[arg.name], outputs[arg.name]
        written = problem.written.get(arg.name, np.ones(expected.shape, dtype=bool))
        before = initial(arg, problem)
        assert_same_bits(np.where(written, before, carrier), before, f"{name} where nothing may be written")
        impossible = problem.impossible.get(arg.name, np.zeros(expected.shape, dtype=bool))
        assert np.isneginf(decode(carrier, arg.dtype)[impossible]).all(), f"{name}: a masked element is not -infinity"
        written = written & ~impossible
        got = np.where(written, decode(carrier, arg.dtype), 0)
        bound = np.where(written, problem.bound.get(arg.name, 0.0), 0.0)
        assert_close(got, np.where(written, expected, 0), bound, name)


def symbols_of(op: Op, problem: Problem) -> Symbols:
    """The value of each symbol of the spec in a problem, nothing on a device yet."""
    shapes = {
        arg.name: (problem.expected if arg.role == "out" else problem.inputs)[arg.name].shape for arg in op.tensors
    }
    tensors = {arg.name: SimpleNamespace(dtype=arg.dtype, shape=shapes[arg.name]) for arg in op.tensors}
    return op.bind({**tensors, **problem.scalars})


def initial(arg: TensorArg, problem: Problem) -> NDArray:
    """The carrier array that a tensor starts with."""
    if arg.role == "out":
        shape = problem.expected[arg.name].shape
        return np.full((*shape, arg.dtype.itemsize), POISON, dtype=np.uint8).view(arg.dtype.carrier)[..., 0]
    values = problem.inputs[arg.name]
    carrier = encode(values, arg.dtype)
    exact = np.array_equal(decode(carrier, arg.dtype), values, equal_nan=values.dtype.kind == "f")
    assert exact, f"{arg.name}: the case's values are not {arg.dtype.name} numbers; round them first"
    return carrier


def _place(device: Device, arg: TensorArg, carrier: NDArray, guarded: bool) -> Tensor:
    if not guarded:
        return device.upload(carrier, arg.dtype, arg.name)
    buffer = device.alloc(carrier.nbytes + 2 * GUARD_BYTES, arg.name)
    buffer.fill(POISON)
    tensor = buffer.tensor(arg.dtype, carrier.shape, GUARD_BYTES)
    tensor.upload(carrier)
    return tensor


def _check_guards(tensor: Tensor) -> None:
    everything = np.empty(tensor.buffer.nbytes, dtype=np.uint8)
    tensor.buffer.device.copy_out(everything, tensor.buffer.address)
    for side, zone in (("before", everything[:GUARD_BYTES]), ("after", everything[-GUARD_BYTES:])):
        touched = np.flatnonzero(zone != POISON)
        assert touched.size == 0, (
            f"{tensor.buffer.name}: {touched.size} bytes of the guard zone {side} it were written, "
            f"the first at byte {touched[0]} of {GUARD_BYTES}"
        )
