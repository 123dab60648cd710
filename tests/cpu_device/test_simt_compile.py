"""The CPU device's NVRTC and the host compiler behind it: status codes, logs, options, and what is left on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda.bindings.nvrtc import nvrtcResult

from bindings import cuda_headers
from bindings.cpu import executor, host_compiler, nvrtc
from bindings.cpu.kernel_source import find_kernels, to_host_source
from bindings.errors import CompileError, CutawayError
from tests.cpu_device.simt_support import Kernels, compile_source

REPOSITORY = Path(__file__).resolve().parents[2]
KERNEL = 'extern "C" __global__ void fill(int* out) { out[threadIdx.x] = VALUE; }\n'


def program_of(source: str) -> nvrtc.Program:
    return nvrtc.nvrtcCreateProgram(source.encode(), b"/kernels/my.cu", 0, None, None)[1]


def log_of(program: nvrtc.Program) -> str:
    status, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * size
    assert (status, nvrtc.nvrtcGetProgramLog(program, log)) == (nvrtc.SUCCESS, (nvrtc.SUCCESS,))
    return log.rstrip(b"\0").decode()


def test_compile_load_and_launch() -> None:
    program = program_of(KERNEL)
    assert nvrtc.nvrtcCompileProgram(program, 2, [b"-DVALUE=7", b"--std=c++17"]) == (nvrtc.SUCCESS,)
    image = b" " * nvrtc.nvrtcGetCUBINSize(program)[1]
    assert nvrtc.nvrtcGetCUBIN(program, image) == (nvrtc.SUCCESS,)
    assert nvrtc.nvrtcDestroyProgram(program) == (nvrtc.SUCCESS,)
    out = np.zeros(40, np.int32)
    assert Kernels(lambda: image).launch("fill", 40, out) is None
    assert (out == 7).all()


def test_an_error_names_the_line_of_the_cu() -> None:
    program = program_of("// one\n" + KERNEL + "int broken = ;\n")
    assert nvrtc.nvrtcCompileProgram(program, 1, [b"-DVALUE=7"]) == (nvrtcResult.NVRTC_ERROR_COMPILATION,)
    assert "/kernels/my.cu:3:" in log_of(program)
    assert nvrtc.nvrtcGetCUBINSize(program)[0] == nvrtcResult.NVRTC_ERROR_INVALID_PROGRAM


def test_an_unknown_limit_of_threads_is_an_error_on_the_kernels_line() -> None:
    source = '\n\nextern "C" __global__ void __launch_bounds__(MISSING) f(int* out) {}\n'
    status, _, log = compile_source(source, "/kernels/my.cu")
    assert status == nvrtcResult.NVRTC_ERROR_COMPILATION
    assert "/kernels/my.cu:3:" in log and "MISSING" in log


@pytest.mark.parametrize("option", ["--gpu-architecture=sm_90a", "-lineinfo", "--fast-math", "-D", "x.cu"])
def test_an_option_that_is_not_known_is_refused(option: str) -> None:
    status, _, log = compile_source(KERNEL, options=("-DVALUE=1", option))
    assert status == nvrtcResult.NVRTC_ERROR_INVALID_OPTION
    assert option in log


def test_misuse_gives_cudas_status() -> None:
    program = program_of(KERNEL)
    assert nvrtc.nvrtcCompileProgram(program, 2, [b"-DVALUE=1"]) == (nvrtcResult.NVRTC_ERROR_INVALID_INPUT,)
    assert nvrtc.nvrtcCreateProgram(b"", b"", 1, [b"x"], [b"y"])[0] == nvrtcResult.NVRTC_ERROR_INVALID_INPUT
    assert nvrtc.nvrtcGetProgramLog(program, b"") == (nvrtcResult.NVRTC_ERROR_INVALID_INPUT,)
    assert nvrtc.nvrtcDestroyProgram(program) == (nvrtc.SUCCESS,)
    invalid = nvrtcResult.NVRTC_ERROR_INVALID_PROGRAM
    assert nvrtc.nvrtcDestroyProgram(program) == (invalid,)
    assert nvrtc.nvrtcCompileProgram(program, 0, None) == (invalid,)
    assert nvrtc.nvrtcGetProgramLogSize(program)[0] == invalid
    assert nvrtc.nvrtcCompileProgram(None, 0, None) == (invalid,)
    assert nvrtc.nvrtcGetErrorString(invalid) == (nvrtc.SUCCESS, b"NVRTC_ERROR_INVALID_PROGRAM")


def test_kernels_are_found_in_the_source() -> None:
    source = """
        // extern "C" __global__ void commented_out(int* p)
        /* extern "C" __global__ void this_too(int* p) */
        const char* text = "extern \\"C\\" __global__ void quoted(int* p)";
        extern "C" __global__ void plain(int* p) {}
        extern "C" __global__ void __launch_bounds__(kThreads * (2 + 1), 2) bounded(int* p) {}
        extern "C" __global__ __launch_bounds__(64)
        void other_order(const float (*p)[4]) {}
        __global__ void not_exported(int* p) {}
    """
    found = {kernel.name: kernel.max_threads for kernel in find_kernels(source)}
    assert found == {"plain": "1024", "bounded": "kThreads * (2 + 1)", "other_order": "64"}


def test_a_cu_may_include_another(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "shared.cuh").write_text("constexpr int kValue = 5;\n")
    (tmp_path / "inner.cu").write_text(
        'extern "C" __global__ void fill(int* out) {\n'
        "  extern __shared__ int smem[];\n  smem[threadIdx.x] = kValue;\n  out[threadIdx.x] = smem[threadIdx.x];\n}\n"
        'extern "C" __global__ void stop() { __trap(); }\n'
    )
    outer = '#include "../shared.cuh"\n#include "../inner.cu"\nextern "C" __global__ void stop_here() { __trap(); }\n'
    status, image, log = compile_source(outer, str(tmp_path / "lab" / "outer.cu"))
    assert status == nvrtc.SUCCESS, log
    kernels, out = Kernels(lambda: image), np.zeros(8, np.int32)
    assert kernels.launch("fill", 8, out, shared_bytes=32) is None
    assert (out == 5).all()
    places = [report.location for name in ("stop", "stop_here") if (report := kernels.launch(name, 1))]
    assert places == [f"{tmp_path}/inner.cu:6", f"{tmp_path}/lab/outer.cu:3"]


def test_dynamic_shared_memory_keeps_its_line_and_must_be_in_a_function() -> None:
    declaration = "extern __shared__ __align__(16)\n  unsigned char smem_raw[];"
    source = f'extern "C" __global__ void f(int* p) {{\n{declaration}\n  smem_raw[0] = 1;\n}}\nint broken = ;\n'
    assert "SIMT_DYNAMIC_SHARED(unsigned char, smem_raw);\n" in to_host_source(source, "x.cu")
    assert "x.cu:6:" in compile_source(source, "x.cu")[2]
    status, _, log = compile_source(f'{declaration}\nextern "C" __global__ void f(int* p) {{}}\n', "x.cu")
    assert status == nvrtcResult.NVRTC_ERROR_COMPILATION and "x.cu:1:" in log


def test_a_file_without_kernels_compiles() -> None:
    status, image, log = compile_source("inline int helper() { return 1; }\n")
    assert status == nvrtc.SUCCESS, log
    assert Kernels(lambda: image).module.kernels == {}


@pytest.mark.parametrize("image", [b"", b"not a library", b"\x7fELF" + bytes(100)])
def test_an_image_that_is_none_is_refused(image: bytes) -> None:
    with pytest.raises(CutawayError, match="cannot be loaded"):
        executor.load_module(image)


def test_a_library_that_is_no_module_is_refused() -> None:
    runtime = executor.RUNTIME
    library = host_compiler.build_library("fiber", [runtime / "fiber.cpp"], [runtime / "fiber.h"])
    with pytest.raises(CutawayError, match="no kernel table"):
        executor.load_module(library.read_bytes())


def test_the_toolchain_names_all_that_matters() -> None:
    text = nvrtc.toolchain()
    compiler = host_compiler.find_compiler()
    assert compiler.version in text and "-ffp-contract=off" in text
    assert nvrtc.toolchain() == text


@pytest.fixture
def fresh_compiler() -> object:
    """Forget which compiler was found, now and afterwards."""
    host_compiler.find_compiler.cache_clear()
    yield
    host_compiler.find_compiler.cache_clear()


def test_no_compiler_is_one_clear_error(fresh_compiler: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(CompileError) as caught:
        host_compiler.find_compiler()
    for part in ("g++", "clang++", "ziglang", "apt install g++", "pip install ziglang"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cxx_that_does_not_work_is_named(fresh_compiler: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/my-c++ -m64")
    with pytest.raises(CompileError, match="/nowhere/my-c"):
        host_compiler.find_compiler()


@pytest.mark.parametrize("present", [[], ["cuda_bf16.h"]], ids=["nothing", "no crt"])
def test_missing_cuda_headers_name_the_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, present: list[str]
) -> None:
    for name in present:
        (tmp_path / name).touch()
    monkeypatch.setattr(cuda_headers, "find_nvidia_header_directory", lambda name: str(tmp_path))
    wheel = "nvidia-cuda-crt" if present else "nvidia-cuda-runtime"
    with pytest.raises(CompileError, match=f"pip install {wheel}$"):
        cuda_headers.host_cuda_headers.__wrapped__()


def test_a_library_is_built_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "one.cpp"
    source.write_text('extern "C" int one() { return 1; }\n')
    library = host_compiler.build_library("one", [source])
    stamp = library.stat().st_mtime_ns
    assert host_compiler.build_library("one", [source]).stat().st_mtime_ns == stamp
    assert host_compiler.build_library("one", [source], flags=["-DX=1"]) != library
    source.write_text("int broken = ;\n")
    with pytest.raises(CompileError, match=r"one\.cpp does not compile.*error"):
        host_compiler.build_library("one", [source])
    assert len(list((tmp_path / "cache" / "cpu").iterdir())) == 2


INTERRUPTED = """
import os, signal, subprocess, sys
from bindings.cpu import host_compiler, nvrtc
def interrupt(*arguments, **keywords):
    raise KeyboardInterrupt
host_compiler.find_compiler()
subprocess.run = interrupt
program = nvrtc.nvrtcCreateProgram(b"", b"x.cu", 0, None, None)[1]
try:
    nvrtc.nvrtcCompileProgram(program, 0, None)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_leaves_nothing_half_written(tmp_path: Path) -> None:
    environment = {**os.environ, "CUTAWAY_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "interrupted\n", done.stderr
    assert list((tmp_path / "cache" / "cpu").iterdir()) == []
    assert not list(tmp_path.glob("cutaway-*"))


@pytest.mark.parametrize("threads", ["0", "-1", "many", "1e3", "2000"])
def test_a_bad_number_of_threads_is_refused(threads: str) -> None:
    environment = {**os.environ, "CUTAWAY_CPU_THREADS": threads}
    script = "from bindings.cpu import executor; executor.set_schedule('greedy')"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"CUTAWAY_CPU_THREADS is '{threads}'" in done.stderr.splitlines()[-1]


UCONTEXT = """
from bindings.cpu import executor
executor.RUNTIME_FLAGS += ("-DSIMT_UCONTEXT",)
import numpy as np
from tests.cpu_device.simt_support import kernels_of
blocks, faults = kernels_of("simt_blocks.cu"), kernels_of("simt_faults.cu")
values, out = np.arange(200, dtype=np.int32), np.zeros(200, np.int32)
for _ in range(3):
    assert blocks.launch("reverse", 200, out, values) is None
    assert (out == values[::-1]).all()
    assert blocks.launch("early_return", 200, out, 70) is None
    assert faults.launch("overflow_stack", 64, np.zeros(64, np.int32)).kind == "stack overflow"
    assert faults.launch("barrier_in_branch", 32, out).kind == "divergent barrier"
print("all right")
"""


def test_portable_fibers_work_too() -> None:
    done = subprocess.run([sys.executable, "-c", UCONTEXT], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == "all right\n", done.stderr


@pytest.mark.parametrize("compiler", [name for name in ("g++", "clang++") if shutil.which(name)])
def test_cxx_chooses_the_compiler(compiler: str, fresh_compiler: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(shutil.which(compiler)))
    status, image, log = compile_source(KERNEL, options=("-DVALUE=3",))
    assert status == nvrtc.SUCCESS, log
    assert host_compiler.find_compiler().command == (shutil.which(compiler),)
    out = np.zeros(8, np.int32)
    assert Kernels(lambda: image).launch("fill", 8, out) is None
    assert (out == 3).all()
