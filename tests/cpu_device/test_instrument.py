"""What instrument.py adds to a kernel's text: it must change no result and no line's number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bindings.cpu import driver, nvrtc
from bindings.cpu.cpp_declarations import declaration, parameters
from bindings.cpu.cpp_tokens import Tokens
from bindings.cpu.instrument import instrumented
from bindings.cpu.kernel_source import to_inspected_source
from bindings.errors import CutawayError
from bindings.nvrtc import KERNEL_SOURCES
from tests.cpu_device.simt_support import KERNELS, Kernels, compile_source, kernels_of

FILE = KERNELS / "inspected.cu"


@pytest.fixture
def inspecting() -> Iterator[None]:
    """The thread (3, 0, 0) of the first block is listened to."""
    driver.inspect_thread((0, 0, 0), (3, 0, 0))
    yield
    driver.end_inspection()


@cache
def instrumented_kernels() -> Kernels:
    """inspected.cu as it is compiled while a thread is inspected."""
    status, image, log = compile_source(FILE.read_text(), str(FILE))
    assert status == nvrtc.SUCCESS, log
    return Kernels(lambda: image)


@pytest.mark.parametrize("name", ["branches", "loops", "expressions", "together"])
def test_every_form_of_statement_computes_the_same(inspecting: None, name: str) -> None:
    plain, told = np.zeros((2, 64), np.int32)
    assert instrumented_kernels().launch(name, 64, told, 9, shared_bytes=256) is None
    driver.end_inspection()
    assert kernels_of(FILE.name).launch(name, 64, plain, 9, shared_bytes=256) is None
    assert plain.any() and np.array_equal(told, plain)


def events_of(name: str) -> list[list]:
    """What the inspected thread tells of a kernel, without files."""
    instrumented_kernels().launch(name, 64, np.zeros(64, np.int32), 9, shared_bytes=256)
    recording = driver.end_inspection()
    assert not recording.was_cut and {event[1] for event in recording.events} >= {str(FILE)}
    return [[kind, line, *rest] for kind, _, line, *rest in recording.events]


def line_of(text: str) -> int:
    (line,) = [number for number, line in enumerate(FILE.read_text().splitlines(), 1) if text in line]
    return line


def int_(value: int) -> str:
    return f"i4:{np.int32(value).tobytes().hex()}"


def test_each_value_is_told_with_its_line_and_its_subscripts(inspecting: None) -> None:
    told = [[line, name, subscripts, value] for kind, line, name, subscripts, _, value in
            (event for event in events_of("expressions") if event[0] == "v")]  # fmt: skip
    assert [line_of("int x = i, *p"), "x", [], int_(3)] in told
    assert [line_of("many[0]++;"), "x", [], int_(4 + 9)] in told
    assert [line_of("x = r ="), "r", [], int_(4)] in told
    assert [line_of("(&many[0])[i % 4]"), "(&many[0])[{}]", [int_(3)], int_(1)] in told
    assert ["pair.values[{}][{}]", ["i4:01000000", "i4:01000000"]] in [told_[1:3] for told_ in told]


def test_branches_turns_calls_and_results_are_told(inspecting: None) -> None:
    events = events_of("loops")
    assert ["b", line_of("if (total % 7 == 0)"), "total % 7 == 0", "b1:01"] in events
    turns = [event for event in events if event[:2] == ["i", line_of("int a = 0, b = n")]]
    assert len(turns) == 5  # (0, 9), (1, 8) ... (4, 5)
    assert len([event for event in events if event[0] in "ci"]) == len([event for event in events if event[0] == "e"])


def test_barriers_and_exchanges_are_told(inspecting: None) -> None:
    events = events_of("together")
    line = line_of("__shfl_down_sync")
    assert ["x", line, "__shfl_down_sync", int_(60 * 9), int_(57 * 9)] in events
    assert ["x", line, "__shfl_up_sync", int_(-3), int_(-2)] in events
    names = [event[2] for event in events if event[0] == "s"]
    assert names == ["__syncwarp", "__syncthreads"]
    shared = {event[2]: int(event[3].split(":")[2]) for event in events if event[0] == "m"}
    assert shared == {"row": 256, "smem_raw": 0}


def test_who_says_too_much_is_cut_and_that_is_told() -> None:
    driver.inspect_thread((0, 0, 0), (3, 0, 0), most_bytes=2000)
    instrumented_kernels().launch("loops", 64, np.zeros(64, np.int32), 9)
    recording = driver.end_inspection()
    assert recording.was_cut
    told = [event for event in recording.events if event[0] != "e"]  # what had begun still ends
    assert 5 < len(told) < 40


def test_a_negative_coordinate_is_refused() -> None:
    with pytest.raises(CutawayError, match="no coordinate may be negative"):
        driver.inspect_thread((0, -1, 0), (3, 0, 0))


@pytest.mark.parametrize("file", sorted(KERNEL_SOURCES.rglob("*.cu*")), ids=lambda file: file.stem)
def test_text_is_only_added_and_on_the_line_that_it_names(file: Path) -> None:
    before, after = file.read_text().splitlines(), instrumented(file.read_text()).splitlines()
    assert len(before) == len(after)
    for number, (old, new) in enumerate(zip(before, after, strict=True), 1):
        rest = iter(new)
        assert all(character in rest for character in old), f"{file.name}:{number} lost something: {new}"
        named = {int(line) for line in re.findall(r"simt::at\(__FILE__, (\d+)\)", new)}
        assert named <= {number, number + 1, number + 2}  # of a loop it stands before its #pragma unroll


@pytest.mark.parametrize("rung", ["lab/rmsnorm/v4_production.cu", "lab/attention/v4_tensor_cores.cu"])
def test_what_a_kernel_includes_is_instrumented_under_its_own_name(rung: str) -> None:
    path, include = KERNEL_SOURCES / rung, KERNEL_SOURCES / "include"
    text = to_inspected_source(path.read_text(), str(path), [include])
    (name,) = re.findall(r'#include "../../(\w+\.cu)"', path.read_text())
    shipped = KERNEL_SOURCES / name
    at = text.index(f'#line 1 "{shipped}"\n')
    assert "simt::at" not in text[: text.index("#line 1", 10)]  # the rung itself is but a comment
    body = text[at:]
    kernel = next(n for n, line in enumerate(shipped.read_text().splitlines(), 1) if "grid_dependency_wait();" in line)
    assert f"simt::at(__FILE__, {kernel}); grid_dependency_wait();" in body
    assert f'#line 1 "{include / "common.cuh"}"' in body


def test_what_a_file_with_unmatched_brackets_gets_is_the_compilers_own_error(inspecting: None) -> None:
    with pytest.raises(ValueError, match="unmatched"):
        instrumented("void f() { g(; }")
    status, _, log = compile_source('extern "C" __global__ void f(int* out) {\n  out[0 = 1;\n}\n', "broken.cu")
    assert status != nvrtc.SUCCESS and "broken.cu:2" in log


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("const float x = 1", ["x"]),
        ("unsigned long long a, *b = p, c{3}", ["a", "b", "c"]),
        ("const Packed<bf16>& k = load16(p)", ["k"]),
        ("float (&left)[4] = scores[2]", ["left"]),
        ("simt::Index3 where(1, 2, 3)", ["where"]),
        ("__shared__ float scratch[kMaxWarps]", ["scratch"]),
        ("const auto x = f<a, b>(y)", ["x"]),
        ("x = y", None),
        ("f(&x)", None),
        ("a.b[i] += c", None),
        ("*p = 3", None),
        ("gather<kRows, PastEnd::kZero>(tile, cache)", None),
    ],
)
def test_declarations_are_told_from_expressions(text: str, names: list[str] | None) -> None:
    tokens = Tokens(text)
    found = declaration(tokens, 0, len(tokens))
    assert (found and [declared.name for declared in found.names]) == names


def test_parameters_have_names_and_outputs_are_references_that_are_not_const() -> None:
    tokens = Tokens("f(int, const T& a, Rows& b, float (&c)[4], const bf16* __restrict__ d = nullptr, unsigned)")
    found = [(parameter.name, parameter.is_output) for parameter in parameters(tokens, 1)]
    assert found == [("a", False), ("b", True), ("c", True), ("d", False)]
