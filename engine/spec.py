"""How an operation is written down once, and what reads it.

An `Op` names its `.cu` file, its arguments in the kernel's own order with dtypes and symbolic shapes, its launch
geometry, and the bytes and FLOPs it must spend. Launching, checking, tracing, testing and timing all read this one
record. Shapes are words separated by blanks: a symbol (`T`), an int, or an expression of symbols (`NH+2*NKV`). A symbol
is bound by the first tensor that has it and must agree everywhere else. One symbol is the device's: SMEM, the bytes of
shared memory that a block may have, which launches and constants may choose the size of their tiles by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from bindings.device import Device, Stream
from bindings.dtypes import I32, DType
from bindings.errors import CutawayError
from bindings.kernel import Kernel, Parameter
from bindings.spelled import Spelled, spelled
from bindings.tensor import Tensor
from bindings.trace import recorder

Symbols = dict[str, int]


@dataclass(frozen=True)
class TensorArg:
    """A device tensor: the kernel sees a pointer. `role` is `in`, `out` or `inout`."""

    name: str
    dtype: DType
    shape: str
    role: str

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The words of the shape."""
        return tuple(self.shape.split())


def In(name: str, dtype: DType, shape: str) -> TensorArg:
    """A tensor that the kernel reads."""
    return TensorArg(name, dtype, shape, "in")


def Out(name: str, dtype: DType, shape: str) -> TensorArg:
    """A tensor that the kernel writes whole."""
    return TensorArg(name, dtype, shape, "out")


def InOut(name: str, dtype: DType, shape: str) -> TensorArg:
    """A tensor that the kernel reads and changes."""
    return TensorArg(name, dtype, shape, "inout")


@dataclass(frozen=True)
class Scalar:
    """A number given at the call and passed by value."""

    name: str
    dtype: DType


@dataclass(frozen=True)
class Size:
    """An int32 kernel parameter worked out from the symbols."""

    name: str
    expression: str


@dataclass(frozen=True)
class Extra:
    """A symbol that no shape binds: given at the call (or `default`, an expression); never passed to the kernel."""

    symbol: str
    default: str | None = None


@dataclass(frozen=True)
class Launch:
    """Launch geometry: blocks, threads a block, bytes of dynamic shared memory."""

    grid: tuple[int, ...]
    block: int
    smem: int = 0


Arg = TensorArg | Scalar | Size | Extra

# A traced launch is shown at the line that called the operation, not at the line here that passes it on.
TRACE_PASSES_OVER = True


class SpecError(CutawayError):
    """A call does not fit its operation's spec: names the operation, the argument and both sizes."""


@dataclass(frozen=True, eq=False)
class Op:
    """One operation. Calling it checks the arguments against the spec and launches the kernel on a stream."""

    name: str
    source: str
    entry: str
    summary: str
    args: tuple[Arg, ...]
    launch: Callable[[Any], Launch]
    bytes: Callable[[Any], int]
    flops: Callable[[Any], int]
    constants: Mapping[str, int | str] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> tuple[TensorArg, ...]:
        """The tensor arguments, in order."""
        return tuple(arg for arg in self.args if isinstance(arg, TensorArg))

    @cached_property
    def extras(self) -> tuple[Extra, ...]:
        """The launch-only symbols."""
        return tuple(arg for arg in self.args if isinstance(arg, Extra))

    @cached_property
    def keywords(self) -> frozenset[str]:
        """What a call must or may name."""
        named = {arg.name for arg in self.args if isinstance(arg, (TensorArg, Scalar))}
        return frozenset(named | {extra.symbol for extra in self.extras})

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """(name, scalar type or None for a pointer) of each kernel parameter, in the kernel's order."""
        return tuple((arg.name, _scalar_type(arg)) for arg in self.args if not isinstance(arg, Extra))

    def variant(self, **changes: Any) -> Op:
        """The same arguments under another source, entry or launch: a rung of a ladder."""
        return replace(self, **changes)

    def defines(self, symbols: Mapping[str, int], smem: int) -> dict[str, int]:
        """The `-D` constants for these symbols on a device whose blocks may have `smem` bytes of shared memory."""
        known = {**symbols, "SMEM": smem}
        return {name: evaluate(value, known) for name, value in self.constants.items()}

    def geometry(self, symbols: Mapping[str, int], smem: int) -> Launch:
        """The launch for these symbols on such a device."""
        return self.launch(SimpleNamespace(**symbols, SMEM=smem))

    def kernel(self, device: Device, symbols: Mapping[str, int]) -> Kernel:
        """The kernel specialised for these symbols, compiled and loaded at its first use."""
        defines = self.defines(symbols, device.max_dynamic_smem)
        return device.kernels.get(self.source, self.entry, defines, self.parameters)

    def bind(self, given: Mapping[str, Any]) -> Symbols:
        """The symbols of a call. Raises SpecError when names, dtypes or shapes do not fit."""
        self._check_names(given)
        symbols = {extra.symbol: int(given[extra.symbol]) for extra in self.extras if extra.symbol in given}
        for arg in self.tensors:
            self._bind_tensor(arg, given[arg.name], symbols)
        for arg in self.tensors:
            self._check_expressions(arg, given[arg.name], symbols)
        for extra in self.extras:
            if extra.symbol not in symbols:
                symbols[extra.symbol] = evaluate(extra.default or "", symbols)
        return symbols

    def _check_names(self, given: Mapping[str, Any]) -> None:
        optional = {extra.symbol for extra in self.extras if extra.default is not None}
        unknown, missing = given.keys() - self.keywords, self.keywords - given.keys() - optional
        if unknown or missing:
            problem = f"missing {', '.join(sorted(missing))}" if missing else f"unknown {', '.join(sorted(unknown))}"
            raise SpecError(f"{self.name}: {problem}; it takes {', '.join(sorted(self.keywords))}")

    def _bind_tensor(self, arg: TensorArg, tensor: Tensor, symbols: Symbols) -> None:
        if tensor.dtype is not arg.dtype or len(tensor.shape) != len(arg.axes):
            raise SpecError(f"{self.name}: {arg.name} must be {arg.dtype.name}[{arg.shape}], not {tensor!r}")
        for axis, size in zip(arg.axes, tensor.shape, strict=True):
            if axis.isidentifier() and symbols.setdefault(axis, size) != size:
                raise SpecError(f"{self.name}: {axis} is {symbols[axis]} but {size} in {arg.name} ({tensor!r})")

    def _check_expressions(self, arg: TensorArg, tensor: Tensor, symbols: Symbols) -> None:
        for axis, size in zip(arg.axes, tensor.shape, strict=True):
            if not axis.isidentifier() and evaluate(axis, symbols) != size:
                expected = evaluate(axis, symbols)
                raise SpecError(f"{self.name}: {axis} is {expected} but {size} in {arg.name} ({tensor!r})")

    def values(self, given: Mapping[str, Any], symbols: Symbols) -> list[int | float]:
        """The kernel's arguments in order: addresses, scalars, sizes."""
        values: list[int | float] = []
        for arg in self.args:
            if isinstance(arg, TensorArg):
                values.append(given[arg.name].address)
            elif isinstance(arg, Scalar):
                values.append(given[arg.name])
            elif isinstance(arg, Size):
                values.append(evaluate(arg.expression, symbols))
        return values

    def __call__(self, stream: Stream, *, dependent: bool = False, **given: Any) -> None:
        """Check the arguments against the spec and launch. `dependent`: see Kernel.launch."""
        symbols = self.bind(given)
        geometry = self.geometry(symbols, stream.device.max_dynamic_smem)
        kernel = self.kernel(stream.device, symbols)
        values = self.values(given, symbols)
        if recorder.is_detailed:
            key = (self, tuple(values), tuple(symbols.values()))
            operands = {arg.name: given[arg.name] for arg in self.tensors}
            recorder.tell(operands, **spelled(key, lambda: self._describe(given, symbols)))
        x, y, z = (*geometry.grid, 1, 1)[:3]
        try:
            kernel.launch(stream, (x, y, z), (geometry.block, 1, 1), values, geometry.smem, dependent)
        except BaseException:
            recorder.forget()  # it may have failed before there was a call
            raise

    def _describe(self, given: Mapping[str, Any], symbols: Symbols) -> dict[str, Any]:
        names = SimpleNamespace(**symbols)
        tensors = Spelled((arg.name, repr(given[arg.name])) for arg in self.tensors)
        roles = Spelled((arg.name, arg.role) for arg in self.tensors)
        sums = {"bytes": self.bytes(names), "flops": self.flops(names)}
        return {"op": self.name, "tensors": tensors, "roles": roles, **sums}


def _scalar_type(arg: TensorArg | Scalar | Size) -> DType | None:
    if isinstance(arg, Scalar):
        return arg.dtype
    return I32 if isinstance(arg, Size) else None


_compiled: dict[str, Any] = {}


def evaluate(expression: int | str, symbols: Mapping[str, int]) -> int:
    """The value of an int, a symbol or an expression of symbols from a spec (never from user input)."""
    if isinstance(expression, int):
        return expression
    if expression in symbols:
        return symbols[expression]
    code = _compiled.get(expression)
    if code is None:
        code = _compiled[expression] = compile(expression, "<spec>", "eval")
    return int(eval(code, {"__builtins__": {}}, dict(symbols)))
