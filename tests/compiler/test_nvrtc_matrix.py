"""Every `.cu` file, the ladders' too, through NVRTC for several architectures: no GPU is needed for that.

What the log says of registers, spills and static shared memory is held to budgets.json. After a deliberate change,
write the budgets anew: `python -m tests.compiler.test_nvrtc_matrix` (and look at the difference before you commit it).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from bindings.cuda_headers import cuda_headers
from bindings.nvrtc import KERNEL_SOURCES
from engine import lab_ops, ops
from engine.spec import Op, evaluate

BUDGETS = Path(__file__).with_name("budgets.json")
ARCHITECTURES = ("sm_80", "sm_90a")
NEWER_ARCHITECTURES = ("sm_100a", "sm_120a")  # with the first set of constants only, to save time
OPERATIONS = (*ops.ALL.values(), *lab_ops.ALL.values())

# What the -D constants of the specs are worked out from: the sizes of Llama 3.2 1B, and of models with other heads.
SIZES = {
    "D64": {"D": 64, "B": 16, "NH": 32, "NKV": 8, "H": 2048, "I": 8192, "V": 128256},
    "D80": {"D": 80, "B": 16, "NH": 32, "NKV": 32, "H": 2560, "I": 6912, "V": 32000},
    "D96": {"D": 96, "B": 16, "NH": 32, "NKV": 32, "H": 3072, "I": 8192, "V": 32064},
    "D128": {"D": 128, "B": 16, "NH": 64, "NKV": 8, "H": 8192, "I": 28672, "V": 128256},
}
SMALL = {"D64": {"D": 64, "B": 16, "NH": 9, "NKV": 3, "H": 576, "I": 1536, "V": 49152}}

Defines = tuple[tuple[str, int], ...]

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(.*)")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Usage:
    """What ptxas reports of one kernel."""

    registers: int
    smem: int
    stack: int
    spills: int


def parse_log(log: str) -> dict[str, Usage]:
    """Usage by entry from the log of a compilation with --ptxas-options=-v."""
    usage: dict[str, Usage] = {}
    for part in re.split(r"(?=ptxas info\s+: Compiling entry function)", log):
        entry, stack, used = _ENTRY.search(part), _STACK.search(part), _USED.search(part)
        if entry is None:
            continue
        assert stack is not None and used is not None, f"cannot read ptxas' report of {entry[1]}:\n{part}"
        shared = _SHARED.search(used[2])
        usage[entry[1]] = Usage(
            registers=int(used[1]),
            smem=int(shared[1]) if shared else 0,
            stack=int(stack[1]),
            spills=int(stack[2]) + int(stack[3]),
        )
    return usage


@cache
def compile_log(source: str, arch: str, defines: Defines) -> str:
    """NVRTC's log for a file of cuda_src. Compiles anew, whatever the kernel cache holds."""
    from cuda.bindings import nvrtc

    path = KERNEL_SOURCES / source
    options = [f"-I{KERNEL_SOURCES / 'include'}", f"-I{cuda_headers()}", "--std=c++17", f"--gpu-architecture={arch}"]
    options += ["-lineinfo", "--ptxas-options=-v", *(f"-D{name}={value}" for name, value in defines)]
    _, program = nvrtc.nvrtcCreateProgram(path.read_bytes(), str(path).encode(), 0, None, None)
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    size = nvrtc.nvrtcGetProgramLogSize(program)[1]
    buffer = b" " * max(size, 2)
    nvrtc.nvrtcGetProgramLog(program, buffer)
    nvrtc.nvrtcDestroyProgram(program)
    log = buffer.rstrip(b"\0 ").decode(errors="replace")
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, f"{source} for {arch} with {defines}: {status.name}\n{log}"
    return log


def variants(op: Op) -> Iterator[tuple[str, Defines]]:
    """The different sets of constants that the sizes above give an operation, each named by the first that gives it."""
    seen = set()
    for name, symbols in [*SIZES.items(), *((f"{name}-small", sizes) for name, sizes in SMALL.items())]:
        defines = tuple(sorted((key, evaluate(value, symbols)) for key, value in op.constants.items()))
        if defines not in seen:
            seen.add(defines)
            yield name, defines


def matrix() -> Iterator[tuple[str, Op, Defines, str]]:
    """(name, operation, constants, architecture) of every compilation."""
    for op in ops.ALL.values():
        for index, (size, defines) in enumerate(variants(op)):
            for arch in ARCHITECTURES + (NEWER_ARCHITECTURES if index == 0 else ()):
                yield f"{op.name}/{size}/{arch}", op, defines, arch
    for op in lab_ops.ALL.values():  # one set of constants is enough for a rung of a ladder
        size, defines = next(variants(op))
        for arch in ARCHITECTURES:
            yield f"{op.name}/{size}/{arch}", op, defines, arch


def usage_of(op: Op, defines: Defines, arch: str) -> Usage:
    return parse_log(compile_log(op.source, arch, defines))[op.entry]


def budgets() -> dict[str, dict[str, int]]:
    return json.loads(BUDGETS.read_text())


@pytest.mark.needs_nvrtc
@pytest.mark.parametrize(("name", "op", "defines", "arch"), [pytest.param(*row, id=row[0]) for row in matrix()])
def test_compiles_within_its_budget(name: str, op: Op, defines: Defines, arch: str) -> None:
    log = compile_log(op.source, arch, defines)
    assert "warning" not in log.lower() and "remark" not in log.lower(), log
    usage = usage_of(op, defines, arch)
    assert usage.spills == 0, f"{name} spills registers to memory: {usage}"
    assert usage.stack == 0, f"{name} keeps an array in local memory: {usage}"
    budget = budgets().get(name)
    assert budget is not None, f"{name} has no budget; run python -m tests.compiler.test_nvrtc_matrix"
    assert usage.registers <= budget["registers"], f"{name}: {usage}, budget {budget}"
    assert usage.smem <= budget["smem"], f"{name}: {usage}, budget {budget}"


def test_every_kernel_file_is_compiled(repository: Path) -> None:
    files = {path.relative_to(KERNEL_SOURCES).as_posix() for path in KERNEL_SOURCES.rglob("*.cu")}
    assert files == {op.source for op in OPERATIONS}, "a .cu file without a spec, or a spec without its file"


def test_no_budget_is_left_over() -> None:
    assert set(budgets()) == {name for name, *_ in matrix()}


def test_the_log_parser_sees_spills() -> None:
    log = (
        "ptxas info    : Compiling entry function 'a' for 'sm_90a'\nptxas info    : Function properties for a\n"
        "ptxas         .     8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n"
        "ptxas info    : Used 48 registers, used 1 barriers, 8 bytes cumulative stack size, 128 bytes smem\n"
        "ptxas info    : Compiling entry function 'b' for 'sm_90a'\nptxas info    : Function properties for b\n"
        "ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 7 registers, used 0 barriers\n"
    )
    assert parse_log(log) == {"a": Usage(48, 128, 8, 28), "b": Usage(7, 0, 0, 0)}


def write_budgets() -> None:
    """Take what the compiler reports now, and 8 registers of room for other versions of it.

    Rounded up to 8: the unit in which a GPU hands registers out.
    """
    table = {}
    for name, op, defines, arch in matrix():
        usage = usage_of(op, defines, arch)
        table[name] = {"registers": -(-usage.registers // 8) * 8 + 8, "smem": usage.smem}
    BUDGETS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    write_budgets()
