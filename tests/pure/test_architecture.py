"""The walls of the project: who imports whom, who calls a device, where PTX lives, what a kernel brings."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import ops
from tests.source_tree import (
    REPOSITORY,
    cuda_files,
    imports,
    opening_comment,
    parse,
    python_files,
    without_comments,
)

# Imports point one way: tools -> engine -> bindings.
FORBIDDEN = {
    "bindings": {"engine", "tools", "tests"},
    "engine": {"tools", "tests", "ctypes", "cuda"},
    "tools": {"tests", "ctypes", "cuda"},
}
# Packages that would do the engine's work for it.
FOREIGN = {"torch", "triton", "cupy", "jax", "tensorflow", "transformers", "vllm", "numba", "pycuda"}

# A function of the driver, NVRTC or cuBLAS; types (CUresult, CUdevice_attribute, nvrtcResult) don't match.
ENTRY_POINT = re.compile(r"(cu|nvrtc|cublas)[A-Z]\w*(?<!Result)")
# The choice of the backend, and the backends themselves. All others call through bindings/calls.py.
BEHIND_THE_DOOR = (
    "bindings/backend.py",
    "bindings/toolkit.py",
    "bindings/nvrtc_api.py",
    "bindings/cublas_api.py",
    "bindings/cpu/",
)
LOADERS = {"CDLL", "PyDLL", "cdll", "pydll", "LoadLibrary", "load_nvidia_dynamic_lib"}

KERNELS = sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "cuda_src").glob("*.cu"))


def outside_the_door() -> list[Path]:
    files = python_files("bindings", "engine", "tools")
    return [path for path in files if not path.as_posix().startswith(BEHIND_THE_DOOR)]


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_one_way(room: str) -> None:
    banned = FORBIDDEN[room] | FOREIGN
    wrong = [
        f"{path}:{line}: imports {name}"
        for path in python_files(room)
        for name, _, line in imports(parse(path))
        if name.split(".")[0] in banned
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_are_absolute() -> None:
    """A relative import would slip past the walk above."""
    relative = [
        f"{path}:{line}"
        for path in python_files("bindings", "engine", "tools")
        for name, _, line in imports(parse(path))
        if name.startswith(".")
    ]
    assert not relative, "\n".join(relative)


def calls_around_the_door(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(name, line) for each foreign function taken from cuda.* directly, and for each library loaded."""
    foreign = {alias for name, alias, _ in imports(tree) if name.split(".")[0] == "cuda"}
    for name, _, line in imports(tree):
        last = name.rsplit(".", 1)[-1]
        if last in LOADERS or (name.startswith("cuda.") and ENTRY_POINT.fullmatch(last)):
            yield name, line
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        if node.attr in LOADERS or (owner in foreign and ENTRY_POINT.fullmatch(node.attr)):
            yield f"{owner}.{node.attr}", node.lineno


def test_every_foreign_call_goes_through_the_door() -> None:
    wrong = [
        f"{path}:{line}: {name} is reached without bindings/calls.py"
        for path in outside_the_door()
        for name, line in calls_around_the_door(parse(path))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "from cuda.bindings import driver\ndriver.cuMemAlloc(4)",
        "def f():\n    from cuda.bindings import driver as names\n    return names.cuInit(0)",
        "from cuda.bindings.nvrtc import nvrtcVersion",
        "import ctypes\nctypes.CDLL('libcuda.so')",
        "from ctypes import CDLL",
        "from cuda.pathfinder import load_nvidia_dynamic_lib",
    ],
)
def test_the_walk_sees_a_call_around_the_door(source: str) -> None:
    assert list(calls_around_the_door(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "from bindings.calls import driver\ndriver.cuMemAlloc(4)",
        "from cuda.bindings import driver as names\nnames.CUresult.CUDA_SUCCESS",
        "from cuda.bindings import nvrtc as names\nnames.nvrtcResult.NVRTC_SUCCESS",
        "import ctypes\nctypes.c_int32(4)",
    ],
)
def test_the_walk_lets_types_pass(source: str) -> None:
    assert not list(calls_around_the_door(ast.parse(source)))


def test_ptx_lives_in_one_file() -> None:
    wrong = [
        str(path)
        for path in cuda_files()
        if path.name != "ptx.cuh"
        and re.search(r"\b(asm|__asm__|__asm)\b", without_comments((REPOSITORY / path).read_text()))
    ]
    assert not wrong, f"inline PTX outside cuda_src/include/ptx.cuh: {', '.join(wrong)}"


def test_dynamic_shared_memory_has_one_name_and_type() -> None:
    """The CPU device defines this array; a second name or type would be another array there."""
    agreed = "extern __shared__ __align__(16) unsigned char smem_raw[];"
    wrong = [
        f"{path}: {line.strip()}"
        for path in cuda_files()
        for line in without_comments((REPOSITORY / path).read_text()).splitlines()
        if re.search(r"\bextern\s+__shared__", line) and " ".join(line.split()) != agreed
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_kernel_opens_with_how_to_test_it(path: Path) -> None:
    comment = opening_comment((REPOSITORY / path).read_text())
    command = re.search(r"python -m pytest (tests/device)[^\n]*? -k \"?([\w ]+)", comment)
    assert command, f"{path}: the opening comment must name its test: python -m pytest tests/device -k {path.stem}"
    selected = set(command.group(2).split()) - {"or"}
    mine = {op.name for op in ops.ALL.values() if op.source == path.name}
    missed = [name for name in sorted(mine) if not any(word in name for word in selected)]
    assert not missed, f"{path}: its test command does not select {', '.join(missed)}"


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_kernel_file_belongs_to_an_op(path: Path) -> None:
    assert any(op.source == path.name for op in ops.ALL.values()), f"{path}: no entry of engine/ops.py uses it"


@pytest.mark.parametrize("op", ops.ALL.values(), ids=lambda op: op.name)
def test_op_has_its_kernel(op: ops.Op) -> None:
    source = without_comments((REPOSITORY / "cuda_src" / op.source).read_text())
    declared = rf"__global__[^;{{}}]*?\bvoid\b[^;{{}}]*?\b{op.entry}\s*\("
    assert re.search(declared, source), f"cuda_src/{op.source} declares no kernel {op.entry}"


@pytest.mark.parametrize("name", ops.ALL)
def test_op_has_its_reference_and_cases(name: str) -> None:
    reference = importlib.import_module(f"tools.microtest.reference.{name}")
    names = [case.name for case in reference.cases()]
    assert names and len(set(names)) == len(names), f"the cases of {name} must have different names: {names}"
