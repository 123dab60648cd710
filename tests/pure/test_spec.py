"""A call that does not fit its spec is refused before anything is launched, in words that name both sides."""

from types import SimpleNamespace

import pytest

from bindings.dtypes import BF16, F32, I32
from bindings.errors import CutawayError
from bindings.tensor import Tensor
from engine import ops
from engine.spec import SpecError, evaluate


def tensor(name, dtype, *shape):
    """A tensor that no device stands behind: binding looks at names, dtypes and shapes only."""
    return Tensor(SimpleNamespace(address=0x1000, nbytes=1 << 40, name=name), dtype, shape)


def rmsnorm_call(**changes):
    call = {
        "out": tensor("out", BF16, 3, 64),
        "x": tensor("x", BF16, 3, 64),
        "weight": tensor("norm", BF16, 64),
        "eps": 1e-5,
    }
    return call | changes


def test_symbols_are_bound_by_the_shapes():
    assert ops.RMSNORM.bind(rmsnorm_call()) == {"T": 3, "H": 64}


def test_two_sizes_of_one_symbol_are_both_named():
    with pytest.raises(SpecError, match=r"rmsnorm: H is 64 but 32 in weight \(norm:bf16\[32\]\)"):
        ops.RMSNORM.bind(rmsnorm_call(weight=tensor("norm", BF16, 32)))


def test_a_wrong_dtype_or_rank_names_what_was_wanted():
    with pytest.raises(SpecError, match=r"x must be bf16\[T H\], not x:f32\[3, 64\]"):
        ops.RMSNORM.bind(rmsnorm_call(x=tensor("x", F32, 3, 64)))
    with pytest.raises(SpecError, match=r"weight must be bf16\[H\]"):
        ops.RMSNORM.bind(rmsnorm_call(weight=tensor("norm", BF16, 1, 64)))


def test_missing_and_unknown_arguments_are_named():
    call = rmsnorm_call()
    del call["weight"]
    with pytest.raises(SpecError, match="rmsnorm: missing weight; it takes eps, out, weight, x"):
        ops.RMSNORM.bind(call)
    with pytest.raises(SpecError, match="rmsnorm: unknown bias"):
        ops.RMSNORM.bind(rmsnorm_call(bias=1))


def test_expressions_of_symbols_are_checked():
    with pytest.raises(SpecError, match=r"2\*I is 16 but 12 in gate_up"):
        ops.SILU_MUL.bind({"out": tensor("out", BF16, 1, 8), "gate_up": tensor("gate_up", BF16, 1, 12)})


def test_values_come_in_the_kernels_order():
    call = rmsnorm_call(x=tensor("x", BF16, 4, 64)[1:4])
    values = ops.RMSNORM.values(call, ops.RMSNORM.bind(call))
    assert values == [0x1000, 0x1000 + 64 * 2, 0x1000, 1e-5, 64]


@pytest.mark.parametrize("op", ops.ALL.values(), ids=lambda op: op.name)
def test_parameters_match_the_kernels_signature(op, repository):
    """The order in ops.py is the order in the .cu: compare each name with the declaration's."""
    source = (repository / "cuda_src" / op.source).read_text()
    heads = [part.split("{", 1)[0] for part in source.split('extern "C" __global__')[1:]]
    after = next(head for head in heads if f" {op.entry}(" in head).split(f" {op.entry}(", 1)[1].split(")", 1)[0]
    declared = [word.split()[-1].lstrip("*") for word in after.replace("\n", " ").split(",")]
    assert declared == [name for name, _ in op.parameters]


@pytest.mark.parametrize("op", ops.ALL.values(), ids=lambda op: op.name)
def test_bytes_and_flops_are_whole_numbers(op):
    sizes = {"T": 3, "S": 2, "H": 64, "NH": 4, "NKV": 2, "D": 64, "I": 128, "V": 100, "P": 9, "B": 16, "M": 4, "R": 32}
    symbols = SimpleNamespace(**sizes, C=2, MAXQ=2, KV=40, N=7, E=5, K=1, W=4)
    assert op.bytes(symbols) > 0 and op.flops(symbols) >= 0
    assert isinstance(op.bytes(symbols), int) and isinstance(op.flops(symbols), int)


def test_evaluate():
    assert evaluate("NH+2*NKV", {"NH": 9, "NKV": 3}) == 15
    assert evaluate("NH//NKV", {"NH": 9, "NKV": 3}) == 3
    assert evaluate(256, {}) == 256


def test_views_stay_inside_their_buffer():
    rows = tensor("x", I32, 8, 4)
    assert rows[2:5].shape == (3, 4) and rows[2:5].offset == 2 * 4 * 4
    assert rows.view(32).shape == (32,)
    with pytest.raises(CutawayError, match="cannot view"):
        rows.view(31)
    small = SimpleNamespace(address=0x1000, nbytes=16, name="small")
    with pytest.raises(CutawayError, match="does not fit in small"):
        Tensor(small, I32, (5,))
