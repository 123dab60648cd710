"""Who wrote an element of an output: in the kernels as they are, and in kernels that are wrong on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bindings.device import Device
from bindings.errors import CutawayError
from bindings.nvrtc import KERNEL_SOURCES
from engine import ops
from engine.spec import Op
from tools.microtest import main, ownership
from tools.microtest.harness import Problem, cases_of
from tools.microtest.ownership import Owner, owner_of


def case_of(op: Op, name: str) -> Problem:
    return next(case for case in cases_of(op) if case.name == name).problem()


def broken(op: Op, old: str, new: str, folder: Path) -> Op:
    """`op` with a fault in its kernel: `old`, which is in it once, became `new`."""
    text = (KERNEL_SOURCES / op.source).read_text()
    assert text.count(old) == 1
    (folder / op.source).write_text(text.replace(old, new))
    return op.variant(source=str(folder / op.source))


def place(owner: Owner | None) -> tuple[int, int]:
    """(block, thread) of a launch of one axis each."""
    assert owner is not None and owner.block[1:] == owner.thread[1:] == (0, 0)
    return owner.block[0], owner.thread[0]


def line_of(op: Op, text: str) -> str:
    """`file:line` of the only line of the kernel with this text."""
    source = KERNEL_SOURCES / op.source
    (line,) = [number for number, line in enumerate(source.read_text().splitlines(), 1) if text in line]
    return f"{source}:{line}"


def test_a_row_belongs_to_its_block_and_eight_columns_to_a_thread(device: Device) -> None:
    """On a GPU too: there another process asks the CPU device."""
    problem = case_of(ops.RMSNORM, "T3-H576")
    owner = owner_of(ops.RMSNORM, problem, "out", (2, 137))
    assert place(owner) == (2, 137 // 8)
    assert owner is not None and owner.location == line_of(ops.RMSNORM, "store16(row + column, part.vectors[i])")
    expected, bound = problem.expected["out"][2, 137], np.broadcast_to(problem.bound["out"], (3, 576))[2, 137]
    assert abs(owner.value - expected) <= bound and owner.writes == 1


def test_another_process_gives_the_same_answer(device: Device, tmp_path: Path) -> None:
    """What a process that drives a GPU asks, the file of a learner's kernel included."""
    problem = case_of(ops.EMBEDDING, cases_of(ops.EMBEDDING)[1].name)
    op = broken(ops.EMBEDDING, "store16(destination + i,", "if (i) store16(destination + i,", tmp_path)
    assert ownership._ask_another_process(op, problem, "out", (0, 0)) is None
    with pytest.raises(CutawayError, match="mine is no operation of engine/"):
        ownership._ask_another_process(op.variant(name="mine", constants={}), problem, "out", (0, 0))
    op = op.variant(source=str(tmp_path / "gone.cu"))
    with pytest.raises(CutawayError, match=r"cannot say who wrote it: .*gone\.cu"):
        ownership._ask_another_process(op, problem, "out", (0, 0))


@pytest.mark.cpu_device_only
class TestOnTheCpuDevice:
    """What takes a compilation of its own, and needs no GPU to be seen."""

    def test_a_wrong_stride(self, device: Device, tmp_path: Path) -> None:
        """Rows 8 elements further apart than they should be: each thread's columns move on by 8 a row."""
        op = broken(ops.RMSNORM, "store_row(out + row, scale_row(part, scale, inverse_rms(part, eps, hidden), "
                    "hidden), hidden);\n}\n\nextern",
                    "store_row(out + row + 8 * blockIdx.x, scale_row(part, scale, inverse_rms(part, eps, hidden), "
                    "hidden), hidden);\n}\n\nextern", tmp_path)  # fmt: skip
        problem = case_of(ops.RMSNORM, "T3-H576")
        assert place(owner_of(op, problem, "out", (0, 137))) == (0, 17)
        assert place(owner_of(op, problem, "out", (1, 137))) == (1, 16)
        assert place(owner_of(op, problem, "out", (2, 137))) == (2, 15)
        assert owner_of(op, problem, "out", (1, 7)) is None  # between the rows

    def test_an_off_by_one_mask(self, device: Device, tmp_path: Path) -> None:
        """The thread behind the row's end writes the first columns of the next row, over or under their owner."""
        op = broken(ops.SILU_MUL, "if (column >= width) return;", "if (column > width) return;", tmp_path)
        problem = two_rows(ops.SILU_MUL)
        width = problem.expected["out"].shape[1]
        last = owner_of(op, problem, "out", (0, width - 1))
        assert last is not None and (last.block, last.thread, last.writes) == ((0, 0, 0), (width // 8 - 1, 0, 0), 1)
        twice = owner_of(op, problem, "out", (1, 0))
        assert twice is not None and twice.writes == 2
        assert (twice.block[1], twice.thread[0]) in {(0, width // 8), (1, 0)}

    def test_a_kernel_that_reads_out_of_bounds_is_watched_to_its_end(self, device: Device, tmp_path: Path) -> None:
        """Checks would have ended the launch at the read; the question is who wrote."""
        op = broken(ops.EMBEDDING, "load16(source + i)", "load16(source + i + (token == 0 ? -8 : 0))", tmp_path)
        problem = case_of(ops.EMBEDDING, cases_of(ops.EMBEDDING)[1].name)
        problem.inputs["token_ids"][:] = 0
        assert place(owner_of(op, problem, "out", (0, 0))) == (0, 0)

    def test_what_no_thread_writes_has_no_owner(self, device: Device) -> None:
        """Pages that are no targets stay as they were, though the operation may write anywhere in them."""
        problem = cases_of(ops.COPY_PAGES)[0].problem()
        shape, targets = problem.expected["kv_pages"].shape, problem.inputs["targets"]
        other = next(page for page in range(shape[1]) if page not in targets)
        assert owner_of(ops.COPY_PAGES, problem, "kv_pages", (0, other, 0, 0, 0)) is None
        owner = owner_of(ops.COPY_PAGES, problem, "kv_pages", (1, int(targets[0]), 0, 0, 0))
        assert owner is not None and (owner.block, owner.thread) == ((0, 1, 0), (0, 0, 0))

    def test_microtest_says_that_no_thread_wrote_it(
        self, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        op = broken(ops.EMBEDDING, "store16(destination + i,", "if (i) store16(destination + i,", tmp_path)
        arguments = ["embedding", "--file", op.source, "--no-time", "--device", "cpu", "--quiet"]
        assert main(arguments) == 1
        assert "    owner: no thread wrote it\n" in capsys.readouterr().out

    def test_wrong_questions_are_refused(self, device: Device) -> None:
        problem = cases_of(ops.RMSNORM)[0].problem()
        with pytest.raises(CutawayError, match="rmsnorm has no output 'x'; it has out"):
            owner_of(ops.RMSNORM, problem, "x", (0, 0))
        for index in ((0, 8), (-1, 0), (0,)):
            with pytest.raises(CutawayError, match=r"out has the shape \[1, 8\]; there is no element"):
                owner_of(ops.RMSNORM, problem, "out", index)

    def test_only_checked_kernels_can_be_watched(self, device: Device) -> None:
        from bindings.cpu import driver

        with pytest.raises(CutawayError, match=r"only with checks on: call set_checks\('memory'\) first"):
            driver.watch_writes(4096, 4)
        weight = device.upload(np.zeros(8, np.float32), ops.BF16, "weight")
        x = device.upload(np.zeros((1, 8), np.float32), ops.BF16, "x")
        out = device.empty((1, 8), ops.BF16, "out")
        ops.RMSNORM(device.stream, out=out, x=x, weight=weight, eps=1e-5)  # compiled without
        driver.set_checks("memory")
        driver.watch_writes(out.address, 16)
        try:
            with pytest.raises(CutawayError, match="rmsnorm was compiled without checks"):
                ops.RMSNORM(device.stream, out=out, x=x, weight=weight, eps=1e-5)
        finally:
            driver.watch_writes(0, 0)
            driver.set_checks("off")
            for tensor in (weight, x, out):
                tensor.free()


def two_rows(op: Op) -> Problem:
    """The first case of several rows that one block of columns covers."""
    problems = (case.problem() for case in cases_of(op))
    return next(p for p in problems if p.expected["out"].shape[0] > 1 and p.expected["out"].shape[1] < 2048)


def test_an_owner_is_told_in_one_line() -> None:
    owner = Owner((3, 0, 0), (17, 0, 0), "/a/cuda_src/rmsnorm.cu:46", 0.25, 1)
    assert str(owner) == "block (3, 0, 0), thread (17, 0, 0) at rmsnorm.cu:46 wrote 0.25"
    twice = Owner((3, 0, 0), (17, 0, 0), None, -1, 2)
    assert str(twice) == "block (3, 0, 0), thread (17, 0, 0) wrote -1 (the last of 2 writes)"
