"""Every `.cu` file, the ladders' too, through NVRTC for every architecture from sm_75 on: no GPU is needed for that.

What the log says of registers, spills and static shared memory is held to budgets.json, and the dynamic shared memory
that the spec asks for to what a block may have there. After a deliberate change, write the budgets anew:
`python -m tests.compiler.test_nvrtc_matrix`, then with `--raise` under the other CUDA version (and look at the
difference before you commit it).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import pytest

from bindings.cuda_headers import cuda_headers
from bindings.nvrtc import KERNEL_SOURCES
from engine import lab_ops, ops
from engine.spec import Op

BUDGETS = Path(__file__).with_name("budgets.json")
OPERATIONS = (*ops.ALL.values(), *lab_ops.ALL.values())

# Bytes of shared memory that a block may have (CUDA C++ Programming Guide, "Technical Specifications per Compute
# Capability"), by what is compiled for a GPU of that capability.
SHARED_MEMORY = {
    "sm_75": 64 << 10,
    "sm_80": 163 << 10,
    "sm_86": 99 << 10,
    "sm_89": 99 << 10,
    "sm_90a": 227 << 10,
    "sm_100a": 227 << 10,
    "sm_120a": 99 << 10,
}
REGISTERS = 65536  # of a multiprocessor, on all of them

# Where every set of sizes below is compiled; elsewhere the first two, which is what most models have. These three
# differ most: products by shuffles, the plainest tensor cores, the "a" targets.
EVERY_SIZE = ("sm_75", "sm_80", "sm_90a")

# What the -D constants of the specs are worked out from: the sizes of Llama 3.2 1B, and of models with other heads.
SIZES = {
    "D64": {"D": 64, "B": 16, "NH": 32, "NKV": 8, "H": 2048, "I": 8192, "V": 128256},
    "D128": {"D": 128, "B": 16, "NH": 64, "NKV": 8, "H": 8192, "I": 28672, "V": 128256},
    "D80": {"D": 80, "B": 16, "NH": 32, "NKV": 32, "H": 2560, "I": 6912, "V": 32000},
    "D96": {"D": 96, "B": 16, "NH": 32, "NKV": 32, "H": 3072, "I": 8192, "V": 32064},
    "D64-small": {"D": 64, "B": 16, "NH": 9, "NKV": 3, "H": 576, "I": 1536, "V": 49152},
}
# A batch, for the launch: one token of one sequence. No block's shared memory depends on it.
BATCH = {"T": 1, "S": 1, "C": 1, "M": 1, "P": 1, "R": 1, "N": 64, "MAXQ": 1, "KV": 1, "E": 1, "K": 1, "W": 1}
# Rungs that are the production kernel under another name: compiled once, to see that they do.
SAME_AS_PRODUCTION = {"rmsnorm_v4_production", "prefill_attention_v4_tensor_cores"}

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
        entry, frames, used = _ENTRY.search(part), _STACK.findall(part), _USED.search(part)
        if entry is None:
            continue
        assert frames and used is not None, f"cannot read ptxas' report of {entry[1]}:\n{part}"
        shared = _SHARED.search(used[2])
        usage[entry[1]] = Usage(
            registers=int(used[1]),
            smem=int(shared[1]) if shared else 0,
            stack=sum(int(stack) for stack, _, _ in frames),  # of the kernel, and of what it calls
            spills=sum(int(stores) + int(loads) for _, stores, loads in frames),
        )
    return usage


@cache
def compile_log(source: str, arch: str, defines: Defines) -> str:
    """NVRTC's log for a file of cuda_src. Compiles anew, whatever the kernel cache holds."""
    from bindings import nvrtc_api as nvrtc

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


@dataclass(frozen=True)
class Compilation:
    """One kernel, compiled for one architecture with the constants that one set of sizes gives there."""

    op: Op
    size: str
    arch: str
    defines: Defines

    @property
    def kernel(self) -> str:
        """The kernel and its sizes, as `rmsnorm/D64`."""
        return f"{self.op.name}/{self.size}"

    @property
    def job(self) -> tuple[str, str, Defines]:
        """The arguments of compile_log: the same for kernels of one file."""
        return self.op.source, self.arch, self.defines


def variants(op: Op, arch: str) -> Iterator[Compilation]:
    """The different sets of constants that the sizes above give an operation, each named by the first that gives it."""
    seen = set()
    for size, symbols in islice(SIZES.items(), None if arch in EVERY_SIZE else 2):
        defines = tuple(sorted(op.defines(symbols, SHARED_MEMORY[arch]).items()))
        if defines not in seen:
            seen.add(defines)
            yield Compilation(op, size, arch, defines)


def matrix() -> Iterator[Compilation]:
    """Every compilation."""
    for arch in SHARED_MEMORY:
        for op in ops.ALL.values():
            yield from variants(op, arch)
        for op in lab_ops.ALL.values():  # one set of constants is enough for a rung of a ladder
            if op.name not in SAME_AS_PRODUCTION or arch == "sm_90a":
                yield next(variants(op, arch))


@pytest.fixture(scope="module")
def logs(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str, Defines], Future[str]]]:
    """The logs of what the selected tests compile, on all cores at once: NVRTC lets other threads run meanwhile."""
    chosen = [item for item in request.session.items if "logs" in getattr(item, "fixturenames", ())]
    pool = ThreadPoolExecutor(os.cpu_count())
    jobs = dict.fromkeys(item.callspec.params["compiled"].job for item in chosen)  # type: ignore[attr-defined]
    yield {job: pool.submit(compile_log, *job) for job in jobs}
    pool.shutdown(cancel_futures=True)


def budgets() -> dict[str, dict[str, list[int]]]:
    """{kernel: {architecture: [registers, bytes of static shared memory]}}"""
    return json.loads(BUDGETS.read_text())


@pytest.mark.needs_nvrtc
@pytest.mark.parametrize("compiled", [pytest.param(each, id=f"{each.kernel}/{each.arch}") for each in matrix()])
def test_compiles_within_its_budget(compiled: Compilation, logs: dict[tuple[str, str, Defines], Future[str]]) -> None:
    log = logs[compiled.job].result()
    assert "warning" not in log.lower() and "remark" not in log.lower(), log
    usage = parse_log(log)[compiled.op.entry]
    assert usage.spills == 0, f"it spills registers to memory: {usage}"
    assert usage.stack == 0, f"it keeps an array in local memory: {usage}"
    budget = budgets().get(compiled.kernel, {}).get(compiled.arch)
    assert budget is not None, "it has no budget; run python -m tests.compiler.test_nvrtc_matrix"
    assert usage.registers <= budget[0] and usage.smem <= budget[1], f"{usage}, budget {budget}"
    launch = compiled.op.geometry({**BATCH, **SIZES[compiled.size]}, SHARED_MEMORY[compiled.arch])
    assert launch.block * usage.registers <= REGISTERS, f"{launch} of {usage} does not fit a multiprocessor"
    assert launch.smem + usage.smem <= SHARED_MEMORY[compiled.arch], f"{launch} of {usage} does not fit a block"


def test_every_kernel_file_is_compiled(repository: Path) -> None:
    files = {path.relative_to(KERNEL_SOURCES).as_posix() for path in KERNEL_SOURCES.rglob("*.cu")}
    assert files == {op.source for op in OPERATIONS}, "a .cu file without a spec, or a spec without its file"


def test_no_budget_is_left_over() -> None:
    assert {(kernel, arch) for kernel, row in budgets().items() for arch in row} == {
        (compiled.kernel, compiled.arch) for compiled in matrix()
    }


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


def write_budgets(only_raise: bool) -> None:
    """Take what the compiler reports now, and 8 registers of room for other versions of it.

    Rounded up to 8: the unit in which a GPU hands registers out. With `only_raise` a budget that is larger stays.
    """
    before = budgets() if only_raise else {}
    table: dict[str, dict[str, list[int]]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for job in dict.fromkeys(compiled.job for compiled in matrix()):
            pool.submit(compile_log, *job)
    for compiled in matrix():
        usage = parse_log(compile_log(*compiled.job))[compiled.op.entry]
        old = before.get(compiled.kernel, {}).get(compiled.arch, [0, 0])
        registers = max(-(-usage.registers // 8) * 8 + 8, old[0])
        table.setdefault(compiled.kernel, {})[compiled.arch] = [registers, max(usage.smem, old[1])]
    rows = (f" {json.dumps(kernel)}: {json.dumps(row)}" for kernel, row in table.items())
    BUDGETS.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    write_budgets(only_raise="--raise" in sys.argv)
