"""The CPU device's matrix product as an operation for a stream; the arithmetic is in gemm.cpp."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from bindings.cpu import checks, host_compiler
from bindings.cpu.context import Failure
from bindings.cpu.executor import Report, thread_count
from bindings.cpu.memory import blame, heap
from bindings.cpu.operations import Operation, Span

HERE = Path(__file__).resolve().parent
SOURCES = [HERE / "gemm.cpp"]
HEADERS = [HERE / "gemm_elements.h", HERE / "gemm_pool.h", HERE / "gemm_tiles.h"]

# A sum of products is the whole point here: let the compiler fuse them. The order of additions stays as written.
FLAGS = ("-ffp-contract=fast", "-fvisibility=hidden", "-Wno-psabi")

ITEM_SIZE = {0: 4, 2: 2, 14: 2}  # cudaDataType -> bytes: CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF


class GemmCall(ctypes.Structure):
    """struct GemmCall of gemm.cpp: types are cudaDataType, sizes and strides count elements."""

    _fields_ = (
        *((name, c_int32) for name in ("input_type", "output_type", "transpose_a", "transpose_b")),
        *((name, c_int64) for name in ("m", "n", "k", "lda", "ldb", "ldc")),
        *((name, c_int64) for name in ("stride_a", "stride_b", "stride_c", "batch")),
        *((name, c_float) for name in ("alpha", "beta")),
        *((name, c_void_p) for name in ("a", "b", "c")),
    )


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The compiled product with its threads started. Raises CompileError if the host has no compiler."""
    built = host_compiler.load_library(host_compiler.build_library("gemm", SOURCES, HEADERS, FLAGS))
    built.cutaway_gemm.argtypes = (c_void_p,)
    built.cutaway_gemm.restype = None
    built.cutaway_gemm_start(thread_count())
    return built


class Operand(NamedTuple):
    """A batch of column-major matrices: `name` is A, B or C; sizes and strides count elements of `item_size` bytes."""

    name: str
    address: int
    rows: int
    columns: int
    leading: int
    stride: int
    batch: int
    item_size: int

    @property
    def nbytes(self) -> int:
        """From the first to the last element."""
        return ((self.batch - 1) * self.stride + (self.columns - 1) * self.leading + self.rows) * self.item_size

    @property
    def is_dense(self) -> bool:
        """Whether its elements lie one after the other, with nothing else between columns or matrices."""
        without_gaps = self.columns == 1 or self.leading == self.rows
        return without_gaps and (self.batch == 1 or self.stride == self.rows * self.columns)

    def written_map(self) -> NDArray[np.uint8] | None:
        """Which of its bytes were written (checks.py): [batch, columns, bytes of a column]; None if nobody knows."""
        map_ = checks.written_map(self.address, self.nbytes)
        if map_ is None:
            return None
        shape = (self.batch, self.columns, self.rows * self.item_size)
        return as_strided(map_, shape, (self.stride * self.item_size, self.leading * self.item_size, 1))


class Gemm(Operation):
    """One product, or a batch of them, on operands that stay where they are."""

    name = "gemm"
    what = "product"

    def __init__(self, call: GemmCall) -> None:
        self._call = call
        self._function = library().cutaway_gemm
        self._address = ctypes.addressof(call)
        self._output = self._find_output(call)
        self._inputs = self._find_inputs(call) if call.k else []  # else there is nothing to read

    @staticmethod
    def _find_output(call: GemmCall) -> Operand:
        size = ITEM_SIZE[call.output_type]
        return Operand("C", call.c or 0, call.m, call.n, call.ldc, call.stride_c, call.batch, size)

    @staticmethod
    def _find_inputs(call: GemmCall) -> list[Operand]:
        size = ITEM_SIZE[call.input_type]
        shape_a = (call.k, call.m) if call.transpose_a else (call.m, call.k)
        shape_b = (call.n, call.k) if call.transpose_b else (call.k, call.n)
        return [
            Operand("A", call.a or 0, *shape_a, call.lda, call.stride_a, call.batch, size),
            Operand("B", call.b or 0, *shape_b, call.ldb, call.stride_b, call.batch, size),
        ]

    def spans(self) -> list[Span]:
        """The dense operands: in the gaps of the others something else may lie."""
        operands = [(self._output, True), *((operand, False) for operand in self._inputs)]
        return [Span(operand.address, operand.nbytes, written) for operand, written in operands if operand.is_dense]

    def check(self) -> None:
        """A product with an operand outside of one allocation faults, as a kernel that reads it would."""
        for operand in (self._output, *self._inputs):
            if not heap.holds(operand.address, operand.nbytes):
                where = f"{operand.nbytes} bytes at {operand.address:#x}"
                text = f"operand {operand.name} is {where}, not all of them in one allocation"
                raise self._fault("illegal address", operand.address, text)

    def _fault(self, kind: str, address: int, text: str) -> Failure:
        return blame(Report(kind, self.name, None, None, address, None, text))

    def run(self) -> None:
        if checks.checking():
            self._check_written()
        self._function(self._address)

    def _check_written(self) -> None:
        """In a checked run: a product that reads what nobody wrote faults; what it writes is written from now on."""
        reads_output = [self._output] if self._call.beta else []
        for operand in (*self._inputs, *reads_output):
            map_ = operand.written_map()
            if map_ is not None and not map_.all():
                batch, column, byte = (int(i) for i in np.unravel_index(np.argmin(map_), map_.shape))
                offset = (batch * operand.stride + column * operand.leading) * operand.item_size + byte
                text = f"operand {operand.name} has bytes that nobody wrote"
                raise self._fault("read of unwritten memory", operand.address + offset, text)
        output = self._output.written_map()
        if output is not None:
            output[...] = checks.WRITTEN
