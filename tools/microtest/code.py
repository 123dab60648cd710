"""What the compiler made of a kernel: PTX, by NVRTC itself; machine code (SASS), by a disassembler of NVIDIA's."""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from bindings import backend, nvrtc
from bindings.device import Device
from bindings.errors import CutawayError
from tools.cli import UsageError
from tools.microtest.nvidia_programs import find_program
from tools.microtest.products import Product
from tools.microtest.session import chosen, shape_asked
from tools.microtest.shapes import workloads

USUAL_ARCH = "sm_90a"
# Bytes of shared memory that a block may have, by architecture, for those that are compiled for without a device at
# hand. Source: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
SHARED_MEMORY = {
    "75": 64 << 10, "80": 163 << 10, "86": 99 << 10, "87": 163 << 10, "88": 99 << 10, "89": 99 << 10,
    "90": 227 << 10, "100": 227 << 10, "103": 227 << 10, "110": 227 << 10, "120": 99 << 10, "121": 99 << 10,
}  # fmt: skip
_ARCH = re.compile(r"sm_(\d+)[af]?")


def run_ptx(arguments: argparse.Namespace) -> None:
    """Print the PTX of one kernel."""
    source, defines, arch = _what(arguments)
    print(nvrtc.ptx_of(source, defines, arch))


def run_sass(arguments: argparse.Namespace) -> None:
    """Print the machine code of one kernel."""
    source, defines, arch = _what(arguments)
    program = find_program("nvdisasm", "cuobjdump")
    image = nvrtc.compile_kernel(source, defines, arch).image
    options = ["--dump-sass"] if program.name.startswith("cuobjdump") else ["--print-code", "--print-line-info"]
    with tempfile.NamedTemporaryFile(prefix="cutaway-", suffix=".cubin") as file:
        file.write(image)
        file.flush()
        done = subprocess.run([program, *options, file.name], capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CutawayError(f"{program} fails with status {done.returncode}: {said[0] if said else 'no output'}")
    print(done.stdout)


def _what(arguments: argparse.Namespace) -> tuple[Path, dict[str, int], str]:
    """The source, its constants, and the architecture; NVRTC is chosen for this process."""
    op = chosen(arguments)
    if isinstance(op, Product):
        raise UsageError("a matrix product is cuBLAS's: there is no source of ours to compile")
    arch, smem = _target(arguments)
    symbols = workloads(op, "cuda", shape_asked(arguments))[0].symbols
    return nvrtc.KERNEL_SOURCES / op.source, op.defines(symbols, smem), arch


def _target(arguments: argparse.Namespace) -> tuple[str, int]:
    """What to compile for, and the shared memory of a block there: the GPU's own, or as --arch says."""
    if arguments.device == "cpu":
        raise UsageError("--ptx and --sass are for a GPU's code: leave --device out, or give --arch (no GPU is needed)")
    if arguments.arch is None and backend.find_gpu() is None:
        with Device.open("cuda") as device:
            return device.arch, device.max_dynamic_smem
    arch = arguments.arch or USUAL_ARCH
    known = _ARCH.fullmatch(arch)
    if known is None or known[1] not in SHARED_MEMORY:
        names = ", ".join(f"sm_{number}" for number in SHARED_MEMORY)
        raise UsageError(
            f"--arch {arch}: expected one of {names}; from sm_90 on with an a for what is its own (sm_90a)"
        )
    backend.select_nvidia()
    return arch, SHARED_MEMORY[known[1]]
