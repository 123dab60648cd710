"""One thread of a kernel under the lamp: what is shown is what was computed, and looking changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bindings import backend
from bindings.device import Device
from bindings.dtypes import decode
from bindings.errors import CompileError, CutawayError
from bindings.nvrtc import KERNEL_SOURCES
from engine import lab_ops, ops
from engine.spec import Op
from tools.cli import UsageError
from tools.microtest import inspection_view, main
from tools.microtest.comparator import assert_close, assert_same_bits
from tools.microtest.harness import Case, Problem, cases_of, run
from tools.microtest.inspection import Dim3, Inspection, inspect, parse_place
from tools.microtest.inspection_tree import Barrier, Branch, Call, Exchange, Line, Loop, Turn, values
from tools.microtest.inspection_values import Number
from tools.microtest.rounding import F32_EPS, sum_eps
from tools.microtest.source_files import SourceFiles

pytestmark = pytest.mark.cpu_device_only

# The last rungs of two ladders are the shipped kernels themselves; test_instrument.py looks at how they are included.
SHIPPED = {"rmsnorm_v4_production", "prefill_attention_v4_tensor_cores"}
EVERY = [op for op in (*ops.ALL.values(), *lab_ops.ALL.values()) if op.name not in SHIPPED]
# Cases of constants that another kernel of the same file has, too: one compilation for both.
SHARED = {"combine_splits": "mixed-D64-NH9", "decode_attention": "mixed-D64-NH9-NKV3"}


def case_of(op: Op, name: str = "") -> Case:
    """The case of this name, or the second one."""
    cases = cases_of(op)
    return next(case for case in cases if case.name == name) if name else cases[1]


@pytest.fixture(scope="module")
def telling() -> Iterator[Device]:
    """A device whose kernels tell what thread 5 of block 0 does."""
    from bindings.cpu import driver

    driver.inspect_thread((0, 0, 0), (5, 0, 0))
    device = Device.open("cpu")
    yield device
    driver.end_inspection()
    device.close()


@pytest.mark.parametrize("op", EVERY, ids=lambda op: op.name)
def test_looking_changes_no_bit(device: Device, telling: Device, op: Op) -> None:
    """Every kernel, shipped or of a ladder, compiles with what tells, and computes the same."""
    from bindings.cpu import driver

    problem = case_of(op, SHARED.get(op.name, "")).problem()
    driver.inspect_thread((0, 0, 0), (5, 0, 0))
    told = run(op, problem, telling)
    recording = driver.end_inspection()
    for name, carrier in run(op, problem, device).items():
        assert_same_bits(told[name], carrier, f"{op.name}: {name}")
    assert recording.events[0][0] == "c" and recording.events[0][3] == op.entry
    assert not recording.was_cut


def numbers(found: Inspection, name: str) -> list[Any]:
    """All values that a name had, in order."""
    return [v.value.value if isinstance(v.value, Number) else v.value for v in values(found.calls) if v.name == name]


def parts(part: Any) -> Iterator[Any]:
    """Every part of a tree, in order."""
    yield part
    inner = {Call: "body", Line: "parts", Loop: "turns", Turn: "body"}.get(type(part))
    for one in getattr(part, inner) if inner else ():
        yield from parts(one)


def parts_of(found: Inspection, kind: type) -> list[Any]:
    return [part for call in found.calls for part in parts(call) if isinstance(part, kind)]


def outputs_of(op: Op, problem: Problem, device: Device) -> dict[str, np.ndarray]:
    return {arg.name: decode(carrier, arg.dtype) for arg in op.tensors if arg.role != "in"
            for name, carrier in run(op, problem, device).items() if name == arg.name}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Inspection:
    """Thread 17 of block 2 of rmsnorm: it has columns 136 to 143 of row 2."""
    return inspect(ops.RMSNORM, case_of(ops.RMSNORM), (2, 0, 0), (17, 0, 0))


@pytest.fixture(scope="module")
def problem() -> Problem:
    return case_of(ops.RMSNORM).problem()


def row_line() -> int:
    """The line of rmsnorm's kernel that works out its row."""
    source = (KERNEL_SOURCES / "rmsnorm.cu").read_text()
    return source[: source.index("const int64_t row")].count("\n") + 1


class TestRmsnorm:
    """What thread 17 of block 2 did."""

    def test_arguments_have_the_names_of_the_tensors(self, found: Inspection) -> None:
        (kernel,) = found.calls
        told = {value.name: str(value.value) for value in kernel.parameters}
        expected = {"out": "out[0, 0]", "x": "x[0, 0]", "weight": "weight[0]", "eps": "1e-05", "hidden": "576"}
        assert told == expected

    def test_the_row_is_read_from_its_place(self, found: Inspection, problem: Problem) -> None:
        loads = [call for call in parts_of(found, Call) if call.name == "load16"]
        assert [str(call.parameters[0].value) for call in loads] == ["weight[136]", "x[2, 136]"]
        assert loads[1].result is not None
        row = [number.value for number in loads[1].result.value["values"]]
        assert row == problem.inputs["x"][2, 136:144].tolist()

    def test_the_sum_of_squares_grows_as_it_should(self, found: Inspection, problem: Problem) -> None:
        """A bf16's square has 16 bits: float64 adds it exactly, and float32 rounds as the fused operation does."""
        total, expected = np.float32(0), [0.0]
        for value in problem.inputs["x"][2, 136:144].astype(np.float64):
            total = np.float32(np.float64(total) + value * value)
            expected.append(float(total))
        assert numbers(found, "squares") == expected

    def test_the_block_gets_the_sum_of_the_row(self, found: Inspection, problem: Problem) -> None:
        results = {call.name: call.result.value.value for call in parts_of(found, Call) if call.result
                   and isinstance(call.result.value, Number)}  # fmt: skip
        squares = np.sum(problem.inputs["x"][2].astype(np.float64) ** 2)
        assert abs(results["block_sum"] - squares) <= sum_eps(576) * squares
        factor = 1 / np.sqrt(squares / 576 + float(np.float32(1e-5)))
        assert abs(results["inverse_rms"] - factor) <= (sum_eps(576) / 2 + 5.5 * F32_EPS) * factor

    def test_what_it_stores_is_what_comes_out(self, found: Inspection, problem: Problem, device: Device) -> None:
        (store,) = [call for call in parts_of(found, Call) if call.name == "store16"]
        address, packed = store.parameters
        assert str(address.value) == "out[2, 136]"
        out = decode(run(ops.RMSNORM, problem, device)["out"], ops.BF16)
        assert [number.value for number in packed.value["values"]] == out[2, 136:144].tolist()
        assert [v.place for v in values([store]) if v.name == "*reinterpret_cast<int4*>(address)"] == ["out[2, 136]"]

    def test_it_meets_its_warp_seven_times_and_the_block_once(self, found: Inspection) -> None:
        exchanges = parts_of(found, Exchange)
        assert [e.name for e in exchanges] == ["__shfl_xor_sync"] * 7  # 32 lanes, then the sums of 3 warps as 4
        assert [barrier.name for barrier in parts_of(found, Barrier)] == ["__syncthreads"]
        neighbour = inspect(ops.RMSNORM, case_of(ops.RMSNORM), (2, 0, 0), (17 ^ 16, 0, 0))
        assert exchanges[0].got == parts_of(neighbour, Exchange)[0].given

    def test_what_was_never_assigned_is_unset(self) -> None:
        """Thread 90 has columns from 720 on, and the row ends at 576."""
        idle = inspect(ops.RMSNORM, case_of(ops.RMSNORM), (1, 0, 0), (90, 0, 0))
        text = "\n".join(inspection_view.lines(idle))
        assert "column < hidden is false" in text
        assert "load_row returns [[unset, unset, unset, unset, unset, unset, unset, unset]]" in text

    def test_the_text_has_each_line_and_what_happened_there(self, found: Inspection) -> None:
        text = list(inspection_view.lines(found))
        assert text[0] == (
            "rmsnorm on the case T3-H576: block 2, thread 17 (lane 17 of warp 0) of a grid of 3 x 1 x 1 blocks of "
            "96 x 1 x 1 threads"
        )
        at = text.index(f"{row_line():5}    const int64_t row = static_cast<int64_t>(blockIdx.x) * hidden;")
        assert text[at + 1].strip() == "row = 1152"
        assert sum("... 5 turns more (--all shows them)" in line for line in text) == 2
        whole = list(inspection_view.lines(found, everything=True))
        assert not any("--all" in line for line in whole) and len(whole) > len(text)
        assert not any("\x1b" in line for line in whole)
        assert any("\x1b[36mrow\x1b[0m = 1152" in line for line in inspection_view.lines(found, colour=True))

    def test_the_json_has_everything(self, found: Inspection) -> None:
        told = json.loads(json.dumps(inspection_view.as_json(found), allow_nan=False))
        assert (told["op"], told["case"], told["block"], told["thread"]) == (
            "rmsnorm",
            "T3-H576",
            [2, 0, 0],
            [17, 0, 0],
        )
        (kernel,) = told["calls"]
        line = next(line for line in kernel["body"] if line["line"] == row_line())
        assert line["parts"] == [{"kind": "value", "name": "row", "value": 1152, "place": None}]
        assert Path(line["file"]) == KERNEL_SOURCES / "rmsnorm.cu"


def test_online_softmax(device: Device) -> None:
    """Thread 3 has columns 3, 259, 515, ... of its row: the running maximum, the sum, what it writes and where."""
    op = lab_ops.ALL["softmax_v3_online"]
    case = case_of(op, "T5-N1025")
    problem = case.problem()
    found = inspect(op, case, (4, 0, 0), (3, 0, 0))
    row = problem.inputs["x"][4].astype(np.float64)
    own = row[3::256]
    maxima = np.unique(np.maximum.accumulate(own))
    assert numbers(found, "largest") == [*maxima.tolist(), row.max()]  # its own, and then the row's
    total = np.exp(row - row.max()).sum()
    assert (
        abs(numbers(found, "sum")[-1] - total) <= 1e-5 * total
    )  # far more than the few roundings, far less than a term
    written = [(v.place, v.value.value) for v in values(found.calls) if v.name.startswith("out[")]
    out = outputs_of(op, problem, device)["out"]
    assert written == [(f"out[4, {i}]", float(out[4, i])) for i in range(3, 1025, 256)]


def test_the_running_maximum_of_attention() -> None:
    """Lane 5 has queries 1 and 9 of its warp: after each tile of 64 keys the largest score so far, times log2(e)."""
    op, case = ops.PREFILL_ATTENTION, case_of(ops.PREFILL_ATTENTION, "Q17-after200")
    given = case.problem().inputs
    found = inspect(op, case, (1, 0, 0), (5, 0, 0))
    table = given["block_tables"][0]
    keys = np.concatenate([given["k_cache"][table[t // 16], 0, t % 16][None] for t in range(217)]).astype(np.float64)
    for r, row in ((0, 1), (1, 9)):
        query = given["qkv"][row, 1].astype(np.float64)
        scale = float(np.float32(64**-0.5)) * np.log2(np.e)
        scores = scale * keys[: 201 + row] @ query
        expected = np.array([scores[: tile * 64].max() for tile in range(1, 5)])
        # 64 products and their sums, on a tensor core: see reference/paged_attention.py.
        bound = (64 * 17 / 16 + 4) * 2 * F32_EPS * scale * (np.abs(keys) @ np.abs(query)).max()
        told = np.array(numbers(found, f"rows.max[{r}]"))
        assert told[0] == -np.inf
        assert_close(told[1:], expected, bound, f"rows.max[{r}]")


def test_a_loop_of_many_turns_is_folded_and_told_whole() -> None:
    op = lab_ops.ALL["rmsnorm_v1_naive"]
    found = inspect(op, case_of(op), (0, 0, 0), (2, 0, 0))
    loops = parts_of(found, Loop)
    assert [len(loop.turns) for loop in loops] == [576, 576]
    assert [turn.values[0].value for turn in loops[0].turns] == list(range(576))
    text = list(inspection_view.lines(found))
    assert sum("... 573 turns more (--all shows them)" in line for line in text) == 2 and len(text) < 60
    idle = inspect(op, case_of(op), (0, 0, 0), (3, 0, 0))
    assert [(branch.condition, branch.taken) for branch in parts_of(idle, Branch)] == [("row >= rows", True)]


def test_the_files_are_those_of_this_checkout(found: Inspection) -> None:
    """Though a kernel of the cache may have been compiled in another, which may be gone."""
    files = SourceFiles(ops.RMSNORM)
    assert files.own("/gone/cuda_src/include/common.cuh") == str(KERNEL_SOURCES / "include" / "common.cuh")
    assert files.own_place("/gone/cuda_src/rmsnorm.cu:46") == f"{KERNEL_SOURCES / 'rmsnorm.cu'}:46"
    assert files.own_place("/usr/include/math.h:3") == "/usr/include/math.h:3"
    assert {Path(part.file).parent for part in parts_of(found, Line)} == {KERNEL_SOURCES, KERNEL_SOURCES / "include"}


def broken(old: str, new: str, folder: Path) -> Op:
    """rmsnorm with a fault in its kernel."""
    text = (KERNEL_SOURCES / "rmsnorm.cu").read_text()
    assert text.count(old) >= 1
    (folder / "rmsnorm.cu").write_text(text.replace(old, new))
    return ops.RMSNORM.variant(source=str(folder / "rmsnorm.cu"))


def test_a_launch_that_fails_is_told_up_to_there(device: Device, tmp_path: Path) -> None:
    op = broken("if (hidden >", "if (hidden <", tmp_path)
    found = inspect(op, case_of(op), (0, 0, 0), (0, 0, 0))
    assert found.failure is not None and "trap in rmsnorm at " in found.failure
    text = list(inspection_view.lines(found))
    assert text[-2].strip().endswith("is true") and text[-1].startswith("the launch failed here: trap in rmsnorm")
    assert device.upload(np.zeros(4, np.float32), ops.F32, "afterwards").numpy().tolist() == [0, 0, 0, 0]


def test_a_kernel_that_does_not_compile_is_told_with_its_own_line(tmp_path: Path) -> None:
    op = broken("  return scaled;\n", "  return scaled\n", tmp_path)
    with pytest.raises(CompileError, match=r"rmsnorm.cu does not compile: .*rmsnorm\.cu:\d+:16: error: expected ';'"):
        inspect(op, case_of(op), (0, 0, 0), (0, 0, 0))


def test_a_kernel_that_can_only_be_run_is_told_from_a_wrong_one(tmp_path: Path) -> None:
    op = broken("RowPart scaled;", "RowPart scaled; struct simt {};", tmp_path)  # hides what is added
    with pytest.raises(CutawayError, match="compiles, but not in the form in which its threads can be inspected"):
        inspect(op, case_of(op), (0, 0, 0), (0, 0, 0))


@pytest.mark.parametrize(
    ("block", "thread", "what"), [((3, 0, 0), (0, 0, 0), "block 3"), ((0, 1, 0), (0, 0, 0), "block 0:1"),
                                  ((0, 0, 0), (96, 0, 0), "thread 96"), ((0, 0, 0), (0, 0, 1), "thread 0:0:1")]
)  # fmt: skip
def test_a_thread_that_is_not_there_is_refused(block: Dim3, thread: Dim3, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        inspect(ops.RMSNORM, case_of(ops.RMSNORM), block, thread)
    assert str(caught.value) == (
        f"--inspect: there is no {what}: rmsnorm on the case T3-H576 is launched with a grid of 3 x 1 x 1 blocks of "
        "96 x 1 x 1 threads"
    )


def test_a_process_that_drives_a_gpu_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = backend.select()
    other = backend.Backend("cuda", chosen.driver, chosen.nvrtc, chosen.cublas, "")
    monkeypatch.setattr(backend, "_selected", other)
    with pytest.raises(UsageError, match="add --device cpu"):
        inspect(ops.RMSNORM, case_of(ops.RMSNORM), (0, 0, 0), (0, 0, 0))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("block=3,thread=17", ((3, 0, 0), (17, 0, 0))),
        ("block=1:2:0,thread=5", ((1, 2, 0), (5, 0, 0))),
        ("block=1:2, thread=0:1:2", ((1, 2, 0), (0, 1, 2))),
    ],
)
def test_a_place_is_read(text: str, place: tuple[Dim3, Dim3]) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    "text", ["", "block=1", "thread=1", "block=x,thread=1", "block=-1,thread=0", "block=1:2:3:4,thread=0"]
)
def test_another_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected block=X,thread=X such as block=3,thread=17 or block=1:2:0,thread=5"):
        parse_place(text)


# ---- The command line -----------------------------------------------------------------------------------------------


def test_the_command_prints_the_first_case_that_has_such_a_thread(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["rmsnorm", "--inspect", "block=2,thread=17", "--device", "cpu", "--quiet"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith("rmsnorm on the case T3-H576: block 2, thread 17 (lane 17 of warp 0) of a grid of 3 x 1 x 1 ")
    assert "__shfl_xor_sync gives" in out and "--all" in out and "\x1b" not in out and not err
    assert main([*arguments, "--all"]) == 0
    assert "--all" not in capsys.readouterr().out


def test_the_command_prints_json_of_the_case_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rmsnorm", "--inspect", "block=1,thread=2", "--case", "T3-H576", "--json", "--device", "cpu"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["case"], told["block"], told["calls"][0]["name"]) == ("T3-H576", [1, 0, 0], "rmsnorm")


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (KERNEL_SOURCES.parent / "docs" / "microtest.md").read_text()
    section = page[page.index("## What one thread computed") :]
    command, text = (block.split("```")[0] for block in re.split(r"```(?:bash|text)\n", section)[1:3])
    assert main([*command.split()[3:], "--device", "cpu", "--quiet"]) == 0
    printed = capsys.readouterr().out
    for part in text.split("[...]\n"):
        assert part in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inspect", "block=3"], "expected block=X,thread=X"),
        (["--inspect", "block=3,thread=17", "--case", "T3"], "rmsnorm has no case 'T3'; it has "),
        (["--inspect", "block=3,thread=17", "--case", "T1-H8"], "there is no block 3: rmsnorm on the case T1-H8"),
        (
            ["--inspect", "block=300,thread=17"],
            "no case of rmsnorm is launched with a block 300 that has a thread 17; ",
        ),
        (["--case", "T3-H576"], "--case does not go with testing a kernel"),
    ],
)
def test_the_command_refuses_what_cannot_be(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rmsnorm", *arguments, "--device", "cpu", "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out


def test_the_command_fails_with_the_launch(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    op = broken("if (hidden >", "if (hidden <", tmp_path)
    place = ["--inspect", "block=0,thread=0", "--case", "T3-H576"]
    assert main(["--file", op.source, *place, "--device", "cpu", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert "the launch failed here: trap in rmsnorm" in out
    assert err.startswith("cutaway microtest: error: rmsnorm fails in T3-H576: trap in rmsnorm at ")
