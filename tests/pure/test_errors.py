"""Errors: every hint belongs to a status that exists, and every error is one line."""

import subprocess
import sys

import pytest
from cuda.bindings.driver import CUresult

from bindings.errors import HINTS, STICKY, CudaError


def test_every_hint_and_every_sticky_status_is_a_real_one():
    driver = {status.name for status in CUresult}
    cublas = {
        f"CUBLAS_STATUS_{name}" for name in ("NOT_INITIALIZED", "INVALID_VALUE", "NOT_SUPPORTED", "ARCH_MISMATCH")
    }
    assert driver >= STICKY
    assert HINTS.keys() <= driver | cublas


@pytest.mark.parametrize("name", [*HINTS, *sorted(STICKY), "CUDA_ERROR_UNKNOWN"])
def test_an_error_is_one_line_with_all_its_parts(name):
    error = CudaError("cuLaunchKernel", name, "CUDA's text", "f=0x1, gridDimX=3", "the last launch was rmsnorm")
    line = str(error)
    assert "\n" not in line and line.startswith(f"cuLaunchKernel(f=0x1, gridDimX=3) failed: {name} (CUDA's text)")
    assert "the last launch was rmsnorm" in line and HINTS.get(name, "") in line
    assert ("context is dead" in line) == (name in STICKY)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("CUTAWAY_TRACE", "7", "CUTAWAY_TRACE is '7'; it must be 0 (off), 1 (names) or 2 (names and arguments)"),
        ("CUTAWAY_DEVICE", "tpu", "CUTAWAY_DEVICE is 'tpu'; it must be one of auto, cuda, cpu"),
    ],
)
def test_a_wrong_environment_value_is_an_error(variable, value, expected, repository):
    code = "from bindings.device import Device; Device.open()"
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", variable: value}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, env=environment)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].endswith(expected)
