"""A row of a kernel or of a matrix product has the same bits whatever other rows there are, and wherever it stands."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from bindings.cublas import Blas, invariant_rows
from bindings.device import Device
from bindings.dtypes import BF16, F32, DType
from bindings.errors import CutawayError
from engine import ops
from engine.spec import Op
from tools.microtest.comparator import assert_same_bits
from tools.microtest.harness import Problem, cases_of, run
from tools.microtest.reference.paged_attention import Batch, random_batch
from tools.microtest.reference.prefill_attention import problem

Chunk = tuple[int, int]

# Sequences that cut, and do not cut, tiles of queries and of keys at each other's edges: whole, in halves, around the
# edges of 16 and 64 and within them, token by token at the end.
LENGTH = 150
CUTS = ((75,), (1, 2, 17, 33), (63, 64, 65, 66), (5, 69, 133), (64, 128), tuple(range(140, LENGTH)))


def attend(device: Device, sequences: Sequence[Batch], chunks: Sequence[Chunk], seed: int) -> list[NDArray]:
    """One launch: the queries begin .. end - 1 of each sequence over its keys up to there; the carrier rows of each."""
    parts = Batch(
        [batch.queries[0][begin:end] for batch, (begin, end) in zip(sequences, chunks, strict=True)],
        [batch.keys[0][:end] for batch, (_, end) in zip(sequences, chunks, strict=True)],
        [batch.values[0][:end] for batch, (_, end) in zip(sequences, chunks, strict=True)],
    )
    shape = (sum(len(q) for q in parts.queries), *parts.queries[0].shape[1:])
    given = problem(np.random.default_rng(seed), parts, np.zeros(shape), 0.0)
    rows = run(ops.PREFILL_ATTENTION, given, device)["out"]
    return np.split(rows, np.cumsum([len(q) for q in parts.queries])[:-1])


@pytest.mark.parametrize("shape", [(64, 4, 2), (80, 2, 1), (128, 4, 1)], ids=str)
def test_a_query_attends_alike_in_any_chunk_and_batch(device: Device, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(shape[0])
    # Two sequences of other lengths share the batch; a spread of 6 makes maxima rise late, so that sums are rescaled.
    mine, short, long = (random_batch(rng, [(n, 0)], shape, spread=6.0) for n in (LENGTH, 3, 211))
    (whole,) = attend(device, [mine], [(0, LENGTH)], seed=0)
    for number, cuts in enumerate(CUTS):
        bounds = [0, *cuts, LENGTH]
        for begin, end in pairwise(bounds):
            chunks = [(0, 3), (begin, end), (210 - 7 * number, 211)]
            _, rows, _ = attend(device, [short, mine, long], chunks, seed=number)
            assert_same_bits(rows, whole[begin:end], f"queries {begin}..{end - 1}")


ROW_WISE = (ops.EMBEDDING, ops.RMSNORM, ops.ADD_RMSNORM, ops.ROPE_KV_WRITE, ops.SILU_MUL, ops.ARGMAX, ops.GUMBEL_SAMPLE)


def some_rows(op: Op, given: Problem, rows: slice) -> Problem:
    """The problem of these tokens (or sequences) alone; what all of them share stays."""
    axis = op.tensors[0].shape[0]  # each of these operations writes a row a token T, or a sequence S, first
    own = {arg.name for arg in op.tensors if arg.shape[0] == axis}
    inputs, expected = (
        {name: values[rows] if name in own else values for name, values in arrays.items()}
        for arrays in (given.inputs, given.expected)
    )
    return Problem(inputs, expected, scalars=given.scalars)


@pytest.mark.parametrize("op", ROW_WISE, ids=lambda op: op.name)
def test_a_row_does_not_depend_on_the_others(device: Device, op: Op) -> None:
    first = op.tensors[0].name
    given = next(p for p in (case.problem() for case in cases_of(op)) if len(p.expected[first]) >= 3)
    count = len(given.expected[first])
    whole = run(op, given, device)[first]
    for rows in (slice(0, 1), slice(1, 2), slice(count - 1, count), slice(1, count)):
        assert_same_bits(run(op, some_rows(op, given, rows), device)[first], whole[rows], f"{op.name}: {rows}")


# (N, K, output) of products: small ones, and those of Llama-3.2-1B: q, k and v; o; gate and up; down; the vocabulary.
SMALL = [(n, k, out) for n, k in ((17, 40), (96, 128), (768, 576)) for out in (BF16, F32)]
LARGE = [(3072, 2048, BF16), (2048, 2048, BF16), (16384, 2048, BF16), (2048, 8192, BF16), (128256, 2048, F32)]


def shape_name(shape: tuple[int, int, DType]) -> str:
    return f"N{shape[0]}-K{shape[1]}-{shape[2].name}"


every_product = pytest.mark.parametrize(
    "shape",
    [
        *(pytest.param(shape, id=shape_name(shape)) for shape in SMALL),
        *(pytest.param(shape, id=shape_name(shape), marks=pytest.mark.needs_gpu) for shape in LARGE),
    ],
)


class Products:
    """`rows @ weight^T` through `Blas.linear`, with NaN in the spare rows that a block is filled up with."""

    def __init__(self, device: Device, shape: tuple[int, int, DType], block_rows: int) -> None:
        n, k, self.out_dtype = shape
        self.device, self.block, self.random = device, block_rows, np.random.default_rng(n + k)
        self.weight = device.upload(self.random_rows(n, k), BF16, "weight")
        self.blas = Blas(device, device.stream, block_rows)

    def __call__(self, rows: NDArray) -> NDArray:
        """The carrier [M, N] of bf16 carrier rows [M, K]."""
        spare = -len(rows) % self.block
        padded = np.concatenate([rows, np.full((spare, rows.shape[1]), 0x7FC0, np.uint16)])
        x = self.device.upload(padded, BF16, "x")
        out = self.device.empty((len(padded), self.weight.shape[0]), self.out_dtype, "out")
        try:
            self.blas.linear(out[0 : len(rows)], x[0 : len(rows)], self.weight)
            return out[0 : len(rows)].numpy()
        finally:
            x.free()
            out.free()

    def random_rows(self, count: int, columns: int) -> NDArray:
        """Carrier rows: of either sign, from 2^-8 to 1, so that float32 rounds nearly every sum."""
        magnitude = self.random.integers(0x3B80, 0x3F80, (count, columns), dtype=np.uint16)
        return magnitude | self.random.integers(0, 2, (count, columns), dtype=np.uint16) << 15

    def close(self) -> None:
        self.blas.close()
        self.weight.free()


@pytest.mark.parametrize("block_rows", [None, 8], ids=["own-block", "block-8"])
@every_product
def test_a_row_of_a_product_has_the_same_bits_alone_and_anywhere(
    device: Device, shape: tuple[int, int, DType], block_rows: int | None
) -> None:
    block = block_rows or invariant_rows()
    products = Products(device, shape, block)
    try:
        many = products.random_rows(max(2 * block, 40) + 3, shape[1])
        together = products(many)
        for row in (0, 1, 37, len(many) - 1):
            assert_same_bits(products(many[row : row + 1])[0], together[row], f"row {row} alone")
        assert_same_bits(products(many[5:31]), together[5:31], "rows 5..30 alone")
        # One row at every place of two blocks: a kernel that splits the sums of its tiles unequally shows here.
        everywhere = products(np.tile(many[1], (2 * block, 1)))
        assert_same_bits(everywhere, np.tile(together[1], (2 * block, 1)), "one row at every place")
    finally:
        products.close()


def test_a_product_without_room_for_its_last_block_is_refused(device: Device) -> None:
    x, weight, out = (
        device.empty(shape, BF16, name) for shape, name in (((4, 8), "x"), ((8, 8), "w"), ((3, 8), "out"))
    )
    blas = Blas(device, device.stream, block_rows=4)
    with pytest.raises(CutawayError, match=r"bf16\[4, 8\] at byte 0 does not fit in out"):
        blas.linear(out, x[0:3], weight)
    blas.close()
    for tensor in (x, weight, out):
        tensor.free()


def test_every_block_of_a_product_has_the_same_shape(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes a library choose the same kernel for each, seen on devices too whose products never depend on it."""
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(Blas, "gemm", lambda self, out, x, weight, transpose_b: seen.append((*out.shape, *x.shape)))
    x, weight, out = (device.empty((24, 16), BF16, name) for name in ("x", "weight", "out"))
    blas = Blas(device, device.stream, block_rows=8)
    for rows in (1, 8, 9, 24):
        blas.linear(out[0:rows], x[0:rows], weight)
    assert seen == [(8, 16, 8, 16)] * (1 + 1 + 2 + 3)
    blas.close()
    for tensor in (x, weight, out):
        tensor.free()
