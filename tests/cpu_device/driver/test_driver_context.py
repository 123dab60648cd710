"""Initialisation, the primary context, device attributes, error texts, and the variables that set the device up."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading

import pytest
from cuda.bindings import driver as real
from cuda.bindings.driver import CUdevice_attribute, CUresult

from bindings.cpu import driver
from tests.cpu_device.driver.support import ok, status

EXTRAS = {
    "end_inspection",
    "find_allocation",
    "inspect_thread",
    "last_refusal",
    "last_report",
    "live_allocations",
    "reset_sticky",
    "set_checks",
    "set_fences",
    "set_schedule",
    "set_streams",
    "watch_writes",
    "watched_writes",
}


def in_new_process(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    command = [sys.executable, "-c", f"from bindings.cpu import driver as d\n{code}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", sorted(set(driver.__all__) - EXTRAS))
def test_every_entry_point_has_the_parameters_of_cuda_bindings(name: str) -> None:
    ours = list(inspect.signature(getattr(driver, name)).parameters)
    try:
        theirs = list(inspect.signature(getattr(real, name)).parameters)
    except ValueError:  # some versions of cuda.bindings are built without signatures: the docstring's first line has it
        first_line = getattr(real, name).__doc__.strip().splitlines()[0]
        inside = first_line[first_line.index("(") + 1 : first_line.rindex(")")]
        theirs = [part.split("=")[0].split(":")[0].split()[-1] for part in inside.split(",") if part.strip()]
    assert ours == theirs


def test_nothing_works_before_cuinit_and_without_a_context() -> None:
    code = """
print(d.cuMemAlloc(4)[0].name, d.cuDeviceGetCount()[0].name, d.cuDevicePrimaryCtxRetain(0)[0].name)
print(d.cuInit(1)[0].name, d.cuInit(0)[0].name, d.cuInit(0)[0].name)
print(d.cuMemAlloc(4)[0].name, d.cuDevicePrimaryCtxRelease(0)[0].name, d.cuCtxSetCurrent(0x10)[0].name)
status, context = d.cuDevicePrimaryCtxRetain(0)
print(d.cuMemAlloc(4)[0].name, d.cuCtxSetCurrent(context)[0].name, d.cuMemAlloc(4)[0].name)
d.cuDevicePrimaryCtxRelease(0)
print(d.cuMemAlloc(4)[0].name, d.live_allocations())
"""
    lines = in_new_process(code).stdout.replace("CUDA_", "").replace("ERROR_", "").splitlines()
    assert lines == [
        "NOT_INITIALIZED NOT_INITIALIZED NOT_INITIALIZED",
        "INVALID_VALUE SUCCESS SUCCESS",
        "INVALID_CONTEXT INVALID_CONTEXT INVALID_CONTEXT",
        "INVALID_CONTEXT SUCCESS SUCCESS",
        "CONTEXT_IS_DESTROYED []",
    ]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CUTAWAY_CPU_SCHEDULE", "random"),
        ("CUTAWAY_CPU_SCHEDULE", "greedy:"),
        ("CUTAWAY_CPU_SCHEDULE", "greedy:x"),
        ("CUTAWAY_CPU_STREAMS", "late"),
        ("CUTAWAY_CPU_STREAMS", "lazy:"),
        ("CUTAWAY_CPU_STREAMS", "lazy:-1"),
        ("CUTAWAY_CPU_STREAMS", f"lazy:{2**64}"),
        ("CUTAWAY_CPU_STREAMS", "eager:1"),
        ("CUTAWAY_CPU_FENCES", "always"),
        ("CUTAWAY_CPU_LEAKS", "yes"),
        ("CUTAWAY_CPU_CHECK", "all"),
        ("CUTAWAY_CPU_MEMORY", "4GB"),
        ("CUTAWAY_CPU_MEMORY", "0"),
        ("CUTAWAY_CPU_THREADS", "0"),
        ("CUTAWAY_CPU_THREADS", "two"),
    ],
)
def test_a_bad_variable_is_named_with_its_value(variable: str, value: str) -> None:
    ended = in_new_process("d.cuInit(0)", **{variable: value})
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 1 and "CutawayError" in last and f"{variable} is {value!r}" in last


def test_good_variables_are_taken() -> None:
    code = "d.cuInit(0); print(d.cuDeviceTotalMem(0)[1], d.cuDeviceGetName(64, 0)[1].split(b'\\0')[0].decode())"
    variables = {"CUTAWAY_CPU_SCHEDULE": "greedy:7", "CUTAWAY_CPU_FENCES": "launch", "CUTAWAY_CPU_STREAMS": "lazy:7"}
    variables["CUTAWAY_CPU_CHECK"] = "memory"
    ended = in_new_process(code, CUTAWAY_CPU_THREADS="3", CUTAWAY_CPU_MEMORY="4096", **variables)
    assert ended.stdout.startswith("4096 CPU device (") and ended.stdout.endswith("3 threads)\n"), ended.stderr


def test_a_context_is_current_on_its_own_thread_only() -> None:
    seen = []

    def other_thread() -> None:
        seen.append(status(driver.cuMemAlloc(4)))
        ok(driver.cuCtxSetCurrent(ok(driver.cuDevicePrimaryCtxRetain(0))))
        seen.append(status(driver.cuMemAlloc(4)))
        ok(driver.cuDevicePrimaryCtxRelease(0))

    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
    assert seen == ["ERROR_INVALID_CONTEXT", "SUCCESS"]


def test_a_forked_child_has_to_start_anew() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0 if status(driver.cuMemAlloc(4)) == "ERROR_NOT_INITIALIZED" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_unbinding_the_context() -> None:
    ok(driver.cuCtxSetCurrent(0))
    assert int(ok(driver.cuCtxGetCurrent())) == 0
    assert status(driver.cuStreamCreate(0)) == "ERROR_INVALID_CONTEXT"


def test_there_is_one_device() -> None:
    assert ok(driver.cuDeviceGetCount()) == 1 and int(ok(driver.cuDeviceGet(0))) == 0
    assert status(driver.cuDeviceGet(1)) == status(driver.cuDeviceTotalMem(7)) == "ERROR_INVALID_DEVICE"
    assert status(driver.cuDeviceGet(-1)) == "ERROR_INVALID_DEVICE"


def test_a_name_is_cut_to_the_length_asked_for() -> None:
    assert ok(driver.cuDeviceGetName(5, 0)) == b"CPU \0"
    assert status(driver.cuDeviceGetName(0, 0)) == "ERROR_INVALID_VALUE"


def test_attributes() -> None:
    names = CUdevice_attribute
    expected = {
        names.CU_DEVICE_ATTRIBUTE_WARP_SIZE: 32,
        names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: 9,
        names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: 0,
        names.CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: 1024,
        names.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: 49152,
        names.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: 232448,
        names.CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH: 0,
    }
    assert {name: ok(driver.cuDeviceGetAttribute(name, 0)) for name in expected} == expected
    assert ok(driver.cuDeviceGetAttribute(names.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0)) >= 1
    assert status(driver.cuDeviceGetAttribute(0, 0)) == "ERROR_INVALID_VALUE"


def test_error_texts() -> None:
    assert ok(driver.cuGetErrorName(CUresult.CUDA_ERROR_OUT_OF_MEMORY)) == b"CUDA_ERROR_OUT_OF_MEMORY"
    assert ok(driver.cuGetErrorString(CUresult.CUDA_ERROR_OUT_OF_MEMORY)) == b"out of memory"
    assert ok(driver.cuGetErrorString(CUresult.CUDA_ERROR_TIMEOUT)) == b"CUDA_ERROR_TIMEOUT"
    assert status(driver.cuGetErrorName(123456)) == "ERROR_INVALID_VALUE"
    assert ok(driver.cuDriverGetVersion()) // 1000 == 13


def test_every_text_belongs_to_a_status() -> None:
    assert set(driver.ERROR_TEXTS) <= {member.name for member in CUresult}
