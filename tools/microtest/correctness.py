"""Whether a kernel is right: every case against its reference, the worst element of each output, and who wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bindings.device import Device
from bindings.dtypes import BF16, F16, F32, DType, decode
from bindings.errors import CompileError, CudaError, CutawayError
from engine.spec import Op, TensorArg
from tools.microtest.comparator import difference
from tools.microtest.cpu_device import checked_device, revive, wrong_access
from tools.microtest.harness import Case, Problem, check, initial, run
from tools.microtest.ownership import Owner, owner_of

# Of each float type: the bits of its fraction, and the exponent of its smallest normal number.
FORMATS: dict[DType, tuple[int, int]] = {BF16: (7, -126), F16: (10, -14), F32: (23, -126)}


@dataclass(frozen=True)
class Worst:
    """The element of an output that uses up most of its bound.

    share: error / bound, infinity where nothing may differ and something does; ulps: the error in units of the last
    place of the output's dtype, None for integers.
    """

    output: str
    index: tuple[int, ...]
    got: float
    expected: float
    error: float
    bound: float
    share: float
    ulps: float | None


@dataclass(frozen=True)
class Verdict:
    """What came of a case. failure: "" if it passed, else what is wrong.

    Of the first case that fails: owner, who wrote its worst element, or unwritten: no thread did; and on the CPU device
    cause, the first access of it that is wrong, with block, thread and line ("" if none is: then it is the arithmetic
    or the indices).
    crashed: the kernel did not come to its end, and on a GPU no other can run after it.
    """

    case: str
    worst: tuple[Worst, ...] = ()
    failure: str = ""
    cause: str = ""
    owner: Owner | None = None
    unwritten: bool = False
    crashed: bool = False

    @property
    def passed(self) -> bool:
        return not self.failure


def verdicts(device: Device, op: Op, cases: Sequence[Case], sanitized: bool = False) -> Iterator[Verdict]:
    """One verdict a case. Where a GPU's context is dead, the last is that of the case that killed it.

    sanitized: compute-sanitizer looks at the accesses.
    """
    for case in cases:
        verdict = _judge(device, op, case.name, case.problem(), sanitized)
        if verdict.crashed and device.kind == "cpu":
            revive()
        yield verdict
        if verdict.crashed and device.kind != "cpu":
            return


def _judge(device: Device, op: Op, name: str, problem: Problem, sanitized: bool) -> Verdict:
    """Run one case.

    On a GPU tensors lie between guard zones; the CPU device has fences around every allocation. compute-sanitizer
    knows the ends of allocations, and which bytes nobody wrote, if outputs that are written whole begin as such.
    """
    try:
        guarded = device.kind == "cuda" and not sanitized
        outputs = run(op, problem, device, guarded, fresh_outputs=sanitized and not problem.written)
    except CudaError as error:
        return Verdict(name, failure=_told(device, error), crashed=True)
    except AssertionError as error:
        return Verdict(name, failure=str(error))
    worst = tuple(worst_of(op, arg, problem, outputs) for arg in op.tensors if arg.role != "in")
    try:
        check(op, problem, outputs)
    except AssertionError as error:
        return Verdict(name, worst, str(error))
    return Verdict(name, worst)


def _told(device: Device, error: CudaError) -> str:
    """What the CPU device reports of a fault says more than the call that met it."""
    return error.detail if device.kind == "cpu" and error.detail else str(error)


def explained(device: Device, op: Op, cases: Sequence[Case], came: Sequence[Verdict]) -> list[Verdict]:
    """These verdicts, the first failure among them with its cause and its owner; that takes a second or more."""
    failed = next((place for place, verdict in enumerate(came) if not verdict.passed), None)
    if failed is None or not op.source:  # what cuBLAS does inside nobody can tell
        return list(came)
    problem = next(case for case in cases if case.name == came[failed].case).problem()
    return [*came[:failed], _explained(device, op, problem, came[failed]), *came[failed + 1 :]]


def _explained(device: Device, op: Op, problem: Problem, verdict: Verdict) -> Verdict:
    """A failure with its cause and its owner, as far as they can be told."""
    with suppress(CompileError):  # a compiler that cannot make checked kernels
        if device.kind == "cpu":
            with checked_device() as checked:
                verdict = replace(verdict, cause=wrong_access(op, problem, checked))
    if verdict.worst:
        with suppress(CutawayError):  # it fails on the CPU device, where it is looked for
            owner = _owner(op, problem, verdict.worst)
            return replace(verdict, owner=owner, unwritten=owner is None)
    return verdict


def _owner(op: Op, problem: Problem, worst: Sequence[Worst]) -> Owner | None:
    """The block and thread that wrote the worst element of all outputs; None if no thread did."""
    off = max(worst, key=lambda one: one.share)
    return owner_of(op, problem, off.output, off.index)


def worst_of(op: Op, arg: TensorArg, problem: Problem, outputs: Mapping[str, NDArray]) -> Worst:
    """The worst element of an output, those among them that nothing may write, or that must be -infinity."""
    expected, carrier = problem.expected[arg.name], outputs[arg.name]
    written = problem.written.get(arg.name, np.ones(expected.shape, dtype=bool))
    masked = problem.impossible.get(arg.name, np.zeros(expected.shape, dtype=bool)) & written
    bits = np.dtype(f"u{carrier.dtype.itemsize}")
    kept = carrier.view(bits) == initial(arg, problem).view(bits)
    got = decode(carrier, arg.dtype)
    bound = np.broadcast_to(np.asarray(problem.bound.get(arg.name, 0.0), np.float64), expected.shape)
    compared = written & ~masked
    errors = np.where(compared, difference(np.where(compared, got, 0), np.where(compared, expected, 0)), 0.0)
    errors = np.where((written | kept) & (~masked | np.isneginf(got)), errors, np.inf)
    share = _share(errors, np.where(compared, bound, 0.0))
    index = tuple(int(i) for i in np.unravel_index(np.argmax(share), share.shape))
    wanted = -np.inf if masked[index] else expected[index]
    ulps = _ulps(errors[index], wanted, arg.dtype)
    numbers = (got[index], wanted, errors[index], bound[index], share[index])
    return Worst(arg.name, index, *map(float, numbers), ulps)


def _share(errors: NDArray, bound: NDArray) -> NDArray[np.float64]:
    """errors / bound, where no error is 0 of any bound, and a NaN infinitely much."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(errors == 0, 0.0, errors / bound)
    return np.where(np.isnan(share), np.inf, share)


def _ulps(error: float, expected: float, dtype: DType) -> float | None:
    """`error` in units of the last place of `dtype` at `expected`."""
    if dtype not in FORMATS:
        return None
    if not np.isfinite(expected):
        return float(error)
    fraction, smallest = FORMATS[dtype]
    exponent = max(np.frexp(abs(expected))[1] - 1, smallest) if expected else smallest
    return float(error / 2.0 ** (int(exponent) - fraction))
