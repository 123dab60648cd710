"""Pieces of the debugger: conditions, indices, figures, the pool, source text, scripts."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bindings.dtypes import BF16, F32
from engine import ops
from tools.trace.debugger.breakpoints import parse_place
from tools.trace.debugger.conditions import Condition
from tools.trace.debugger.console import Console, completer
from tools.trace.debugger.device_memory import DeviceMemory, Region
from tools.trace.debugger.errors import CommandError
from tools.trace.debugger.figures import figures_of, histogram
from tools.trace.debugger.looking import differences
from tools.trace.debugger.pool import Pool, batch_lines, grid_lines, table_lines
from tools.trace.debugger.selection import parse_selection
from tools.trace.debugger.session import Debugger
from tools.trace.debugger.source import kernel_file, kernel_lines
from tools.trace.debugger.table import perform
from tools.trace.terminal import Screen

PLAIN = Screen(io.StringIO())

PRODUCT: dict[str, Any] = {
    "n": 40, "call": "cublasGemmEx", "label": "step 2 / decode / layer 3 / mlp", "op": "gemm", "bytes": 1000,
    "tensors": {"out": "activations.gated:bf16[5, 64]"}, "sizes": {"m": 5, "n": 64, "k": 32, "transpose_b": True},
}  # fmt: skip
LAUNCH: dict[str, Any] = {
    "n": 41, "call": "cuLaunchKernel", "label": "step 2 / decode / layer 3 / attention", "kernel": "rope_kv_write",
    "op": "rope_kv_write", "grid": [5, 1, 1], "params": {"num_heads": "9", "qkv": "activations.qkv"},
    "tensors": {"qkv": "activations.qkv:bf16[5, 15, 64]"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "event", "holds"),
    [
        ("layer == 3", PRODUCT, True),
        ("layer == 3 and step != 2", PRODUCT, False),
        ("m == 5 and n == 64 or k < 0", PRODUCT, True),
        ("number == 40", PRODUCT, True),
        ("transpose_b", PRODUCT, True),
        ("not transpose_b", PRODUCT, False),
        ("bytes // 3 % 2 == -1 + 2", PRODUCT, True),
        ("1 < m <= 5", PRODUCT, True),
        ("1 < m < 5", PRODUCT, False),
        ("out.shape[1] == 64", PRODUCT, True),
        ("op in ['gemm', 'argmax']", PRODUCT, True),
        ("'mlp' in label", PRODUCT, True),
        ("grid[0] >= 5 and num_heads == 9", LAUNCH, True),
        ("qkv.shape == (5, 15, 64)", LAUNCH, True),
        ("grid == [5, 1, 1] and grid == (5, 1, 1)", LAUNCH, True),
        ("qkv.shape == [5, 15, 64]", LAUNCH, True),
        ("label.shape == (1,) or m.shape == (1,)", PRODUCT, False),
        ("grid[7] == 1", LAUNCH, False),
        ("grid[0] > 'a'", LAUNCH, False),
        ("grid[0] // 0 == 1", LAUNCH, False),
        ("m == 5", LAUNCH, False),
        ("grid[0] == 5", PRODUCT, False),
    ],
)
def test_conditions(text: str, event: dict[str, Any], holds: bool) -> None:
    assert Condition(text).holds(event) is holds


def test_a_name_alone_is_a_kernel_or_a_call() -> None:
    assert (parse_place("rmsnorm").kind, parse_place("cuMem*").kind) == ("kernel", "call")
    assert str(parse_place("label 'layer 3 / mlp' if  m==1")) == 'label "layer 3 / mlp" if m==1'


def test_selections_as_tensors_are_shown_elsewhere() -> None:
    wanted = parse_selection("kv_pages+0x600000:bf16[512, 3, 16, 64][1, :, -1, 2:8:3]")
    assert (wanted.name, wanted.offset, wanted.dtype, wanted.shape) == ("kv_pages", 0x600000, BF16, (512, 3, 16, 64))
    assert wanted.index == (1, slice(None), -1, slice(2, 8, 3))
    assert parse_selection("q[..., 0]").index == (..., 0)
    assert parse_selection("layers.0.attention.qkv").index == ()


axis = st.one_of(
    st.integers(-3, 2),
    st.builds(
        slice, st.none() | st.integers(-4, 4), st.none() | st.integers(-4, 4), st.none() | st.sampled_from([1, 2])
    ),
)


@given(st.lists(axis, max_size=3), st.integers(0, 3))
def test_a_narrowed_view_holds_what_the_index_picks(items: list[Any], dots: int) -> None:
    """Against NumPy: reading the narrow run of memory and indexing the rest gives the same values."""
    values = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    index = (*items[:dots], ..., *items[dots:]) if dots < 3 else tuple(items)
    view, rest = Region("x", 4096, F32, values.shape).narrowed(index)
    start = (view.address - 4096) // 4
    narrow = values.reshape(-1)[start : start + view.size].reshape(view.shape)
    np.testing.assert_array_equal(narrow[rest], values[index])


@pytest.mark.parametrize("text", ["x[3]", "x[0, 0, 0, 0]", "x[-4]", "x[..., ...]", "x[::0]"])
def test_an_index_that_does_not_fit_the_shape_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match=r"^x:f32\[3, 4, 5\]: "):
        Region("x", 4096, F32, (3, 4, 5)).narrowed(parse_selection(text).index)


@pytest.mark.parametrize("text", ["x[" + "-" * 20_000 + "1]", "x:f32[" + "9" * 6000 + "]", "x:f32[0]", "x:f32[3, 0]"])
def test_what_nobody_types_is_refused_and_the_session_goes_on(text: str) -> None:
    debugger = SimpleNamespace(operands={}, memory=DeviceMemory())
    with pytest.raises(CommandError, match=r"300 at most|has no elements"):
        perform(cast(Debugger, debugger), f"hexdump {text}")


def test_a_condition_that_is_nested_too_deep_is_refused() -> None:
    with pytest.raises(CommandError, match="300 at most"):
        parse_place("kernel rmsnorm if " + "not " * 30_000 + "m")
    assert not parse_place("kernel rmsnorm if " + "not " * 70 + "m").holds(PRODUCT)


def test_the_parts_of_a_view_are_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.trace.debugger.device_memory.PART", 16)
    parts = list(Region("x", 4096, F32, (3, 3)).parts())
    assert [(part.address, part.shape) for part in parts] == [(4096, (4,)), (4112, (4,)), (4128, (1,))]


def test_figures_count_what_is_not_finite_apart() -> None:
    values = np.array([0, 1, -1, 4, np.nan, np.inf, -np.inf, 0], np.float32)
    figures = figures_of(lambda: [values[:3], values[3:]])
    finite = values[np.isfinite(values)].astype(np.float64)
    assert (figures.count, figures.nans, figures.infs, figures.zeros) == (8, 1, 2, 2)
    assert (figures.low, figures.high, figures.mean) == (-1, 4, finite.mean())
    assert figures.std == pytest.approx(finite.std(), rel=1e-12)  # both are sums of five float64
    counts = [int(line.split()[-1]) for line in histogram(lambda: [values[:3], values[3:]], figures)]
    assert sum(counts) == 5 and counts[-1] == 1


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], [2.0, 2.0]])
def test_figures_of_values_without_a_range(values: list[float]) -> None:
    array = np.array(values, np.float32)
    figures = figures_of(lambda: [array])
    assert histogram(lambda: [array], figures) == []
    assert ("no finite value" in figures.line()) is (figures.finite == 0)


def test_differences_name_the_first_and_the_largest() -> None:
    before = np.array([[1.0, np.nan], [3.0, 4.0]], np.float32)
    after = np.array([[1.0, np.nan], [3.5, 9.0]], np.float32)
    assert differences(before, before) == ["all 4 values are as they were"]
    assert differences(before, after) == [
        "2 of 4 values have changed, by 5 at most",
        "  [1, 0]: 3 -> 3.5",
        "  [1, 1]: 4 -> 9",
    ]
    assert differences(np.float32(1), np.float32(2)) == ["1 of 1 values have changed, by 1 at most", "  [0]: 1 -> 2"]


def note(step: int, **fields: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"decodes": [], "prefills": [], "copies": [], "tables": {}, "released": [], "preempted": []}
    sizes = {"num_pages": 130, "page_size": 16, "free": 120, "cached": [], "waiting": 0, "running": 1}
    return {"kind": "step", "step": step, **empty, **sizes, **fields}


def test_the_pool_follows_the_notes() -> None:
    pool = Pool()
    pool.take({"kind": "device", "device": {}})
    pool.take(note(1, prefills=[[0, 0, 20], [1, 0, 18]], tables={"0": [3, 4], "1": [3, 66]}))
    assert grid_lines(pool, PLAIN)[1:3] == ["      0  ...#0" + "." * 59, "     64  ..1" + "." * 61]
    assert "1 more line of free pages" in grid_lines(pool, PLAIN)[3]
    assert table_lines(pool, 1)[1:] == [
        "  table[0] = page 3      tokens 0 to 15   shared with request 0",
        "  table[1] = page 66     tokens 16 to 31",
    ]
    pool.take(note(2, decodes=[[1, 18]], released=[0], cached=[4], copies=[[3, 7, 2]]))
    assert grid_lines(pool, PLAIN)[1] == "      0  ...1c" + "." * 59
    assert (pool.computed, pool.now(1), pool.now(0)) == ({1: 19}, range(18, 19), range(0))
    assert batch_lines(pool) == [
        "step 2: 1 running, 0 waiting",
        "  request 1 decodes: its token 18",
        "  copy on write: the first 2 tokens of page 3 go to page 7",
        "  released before it: request 0",
    ]
    assert pool.request("") == pool.request("1") == 1
    with pytest.raises(CommandError, match="no request 0 holds pages; those that do: 1"):
        pool.request("0")
    pool.take(note(1, prefills=[[0, 0, 3]], tables={"0": [9]}))
    assert (pool.tables, pool.computed) == ({0: [9]}, {0: 3}), "another engine begins"


@pytest.mark.parametrize("op", ops.ALL.values(), ids=lambda op: op.name)
def test_the_source_of_every_kernel_is_found(op: ops.Op) -> None:
    lines = kernel_file(op.source)
    found = kernel_lines(lines, op.entry)
    text = "\n".join(lines[found.start - 1 : found.stop - 1])
    assert "__global__" in text.splitlines()[0] and f"{op.entry}(" in text
    assert text.endswith("\n}") and text.count("__global__") == 1


def test_a_script_comes_before_what_is_piped_and_instead_of_it() -> None:
    output = io.StringIO()
    console = Console(["n", "", "# a remark", "args; q"], stdin=io.StringIO("more\n"), screen=Screen(output))
    assert [console.read("> ") for _ in range(4)] == ["n", "args", "q", None]
    assert output.getvalue() == "> n\n> args\n> q\n"
    piped = Console(stdin=io.StringIO("n\n\nq\n"), screen=Screen(output))
    assert [piped.read("> ") for _ in range(3)] == ["n", "q", None]


def test_completion_offers_what_begins_alike() -> None:
    complete = completer(lambda line, word: ["peek", "pages", "next"] if line == "p" else [], lambda: "p")
    assert [complete("p", number) for number in range(3)] == ["peek", "pages", None]
