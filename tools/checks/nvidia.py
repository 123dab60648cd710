"""NVIDIA's side: driver, GPUs, NVRTC, cuBLAS, CUDA's headers. Without a GPU none of it but the headers is needed."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from bindings import architecture, probe, toolkit
from bindings.cuda_headers import cuda_headers, host_cuda_headers
from bindings.errors import CudaError, CutawayError
from tools.checks.check import Check, State, first_line, size

NO_GPU = "no GPU needed: the CPU device runs everything"
ARCH_WITHOUT_GPU = "sm_80"


def spell_version(number: int) -> str:
    """CUDA's version number as its manuals write it: 13000 -> "13.0"."""
    return f"{number // 1000}.{number % 1000 // 10}"


def package_version(name: str) -> str:
    """The version of a package, or an empty string where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def kernel_module_version() -> str:
    """The driver's own version, such as 580.159.04, as its kernel module tells; empty where there is none."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return ""


def driver() -> list[Check]:
    """Whether there is a driver, and whether it is new enough for the installed cuda-bindings."""
    try:
        version = probe.driver_version()
    except CutawayError as error:
        if kernel_module_version():
            found = f"kernel module {kernel_module_version()}, but the library does not answer: {first_line(error)}"
            fix = "install the driver's library too (in a container: run it with --gpus all)"
            return [Check("driver", "NVIDIA driver", "broken", found, NO_GPU, fix)]
        return [Check("driver", "NVIDIA driver", "missing", "no libcuda.so.1 found", NO_GPU)]
    module, path = kernel_module_version(), probe.loaded_library("cuda")
    found = ", ".join(filter(None, (module, f"CUDA {spell_version(version)}", path)))
    facts = {"version": module or None, "cuda": version, "library": path, "cuda_bindings": toolkit.bindings_version()}
    shortfall = toolkit.driver_shortfall(version)
    if shortfall is not None:
        return [Check("driver", "NVIDIA driver", "broken", found, *shortfall, facts)]
    return [Check("driver", "NVIDIA driver", "ok", found, facts=facts)]


def device() -> list[Check]:
    """`device` for the GPU that would be used, `device.N` for each."""
    try:
        found = probe.gpus()
    except CutawayError as error:
        if getattr(error, "name", "") == "CUDA_ERROR_NO_DEVICE":
            return [no_device()]
        if isinstance(error, CudaError):
            return [Check("device", "GPU", "broken", first_line(error), NO_GPU)]
        return [Check("device", "GPU", "missing", "none without a driver", NO_GPU)]
    if not found:
        return [no_device()]
    checks = [check_gpu(gpu) for gpu in found]
    first = checks[0]
    whole = Check("device", "GPU", first.state, f"{len(found)} found, the first is used", first.meaning, first.fix)
    return [whole, *checks]


def no_device() -> Check:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        fix = "unset CUDA_VISIBLE_DEVICES"
        return Check("device", "GPU", "missing", f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}", NO_GPU, fix)
    return Check("device", "GPU", "missing", "the driver finds none", NO_GPU)


def check_gpu(gpu: probe.Gpu) -> Check:
    """One GPU: supported, and with memory that can be had."""
    major, minor = gpu.capability
    free = "unknown" if gpu.free is None else size(gpu.free)
    found = f"{gpu.name}, compute capability {major}.{minor}, {free} of {size(gpu.total)} free"
    facts = {"name": gpu.name, "capability": [major, minor], "free": gpu.free, "total": gpu.total}
    identity, name = f"device.{gpu.ordinal}", f"GPU {gpu.ordinal}"
    if 10 * major + minor < architecture.OLDEST:
        meaning = f"too old: kernels need compute capability {architecture.OLDEST / 10} or newer"
        return Check(identity, name, "broken", found, meaning, "run with --device cpu", facts)
    if gpu.free is None:
        return Check(identity, name, "broken", found, gpu.why, "nvidia-smi    # shows who uses it", facts)
    return Check(identity, name, "ok", found, facts=facts)


def nvrtc() -> list[Check]:
    """NVRTC: there, and able to compile one line for the GPU (or for an old one, where there is none)."""
    try:
        major, minor = probe.nvrtc_version()
    except CutawayError:
        found = "not installed"
        return [Check("nvrtc", "NVRTC", "missing", found, "needed with a GPU only", toolkit.extra())]
    path = probe.loaded_library("nvrtc")
    facts = {"version": [major, minor], "library": path}
    arch = arch_of_first_gpu() or ARCH_WITHOUT_GPU
    try:
        probe.try_nvrtc(arch)
    except CutawayError as error:
        meaning = f"cannot compile one line for {arch}: {first_line(error)}"
        fix = f"pip install --force-reinstall {toolkit.package('nvrtc')}=={major}.*"
        return [Check("nvrtc", "NVRTC", "broken", f"{major}.{minor}, {path}", meaning, fix, facts)]
    return [Check("nvrtc", "NVRTC", "ok", f"{major}.{minor}, compiles for {arch}, {path}", facts=facts)]


def arch_of_first_gpu() -> str:
    try:
        found = probe.gpus()
    except CutawayError:
        return ""
    return f"sm_{found[0].capability[0]}{found[0].capability[1]}" if found else ""


def cublas() -> list[Check]:
    """cuBLAS: its version from a handle, where there is a GPU to make one on."""
    installed = package_version(toolkit.package("cublas"))
    if not arch_of_first_gpu():
        if installed:
            return [Check("cublas", "cuBLAS", "ok", f"{installed} (not tried: no GPU)")]
        return [Check("cublas", "cuBLAS", "missing", "not installed", "needed with a GPU only", toolkit.extra())]
    try:
        version = probe.cublas_version()
    except CutawayError as error:
        state: State = "broken" if installed else "missing"
        return [Check("cublas", "cuBLAS", state, first_line(error), "", toolkit.extra())]
    path = probe.loaded_library("cublas")
    found = f"{version // 10000}.{version // 100 % 100}.{version % 100}, {path}"
    return [Check("cublas", "cuBLAS", "ok", found, facts={"version": version, "library": path})]


def headers() -> list[Check]:
    """CUDA's headers: those that NVRTC reads, and those that a host compiler needs beside them."""
    kinds = (("headers", "CUDA headers", cuda_headers), ("host_headers", "CUDA headers, host", host_cuda_headers))
    checks = []
    for identity, name, find in kinds:
        try:
            checks.append(Check(identity, name, "ok", str(find())))
        except CutawayError as error:
            text, _, fix = first_line(error).partition("; run: ")
            checks.append(Check(identity, name, "missing", text, "kernels can't be compiled without them", fix))
    return checks
