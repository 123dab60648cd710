"""Modules, functions, launches, and what becomes of a launch that faults."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest
from cuda.bindings.driver import CUfunction_attribute, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchConfig

from bindings.cpu import driver
from tests.cpu_device.driver.support import Arguments, affine, download, function, launch, ok, repair, status, upload
from tests.cpu_device.simt_support import image_of

SHARED = CUfunction_attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
MAX_DYNAMIC = CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
MAX_THREADS = CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
REGISTERS = CUfunction_attribute.CU_FUNC_ATTRIBUTE_NUM_REGS
CLUSTER = CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
COOPERATIVE = CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
SERIALIZATION = CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


def one_int() -> int:
    return upload(np.zeros(1, np.int32))


def test_a_launch_runs_with_its_arguments() -> None:
    source, out = upload(np.arange(600, dtype=np.float32)), upload(np.zeros(600, np.float32))
    kernel = function("affine")
    ok(launch(kernel, affine(out, source, 2.0, 1.0, 500, negate=True), grid=(3, 1, 1), block=(256, 1, 1)))
    assert (download(out, 600, np.float32)[:500] == -(2 * np.arange(500) + 1)).all()
    assert (download(out, 600, np.float32)[500:] == 0).all()


def test_parameters_have_cudas_layout() -> None:
    kernel = function("affine")
    layout = [ok(driver.cuFuncGetParamInfo(kernel, i)) for i in range(5)]
    assert layout == [(0, 8), (8, 8), (16, 8), (24, 1), (28, 4)]
    assert status(driver.cuFuncGetParamInfo(kernel, 5)) == "ERROR_INVALID_VALUE"
    assert status(driver.cuFuncGetParamInfo(function("nothing"), 0)) == "ERROR_INVALID_VALUE"


def test_a_kernel_without_parameters() -> None:
    ok(launch(function("nothing"), Arguments()))


def test_functions_are_found_by_name_and_keep_their_handle() -> None:
    module = ok(driver.cuModuleLoadData(image_of("driver_kernels.cu")))
    first = ok(driver.cuModuleGetFunction(module, b"affine"))
    assert int(ok(driver.cuModuleGetFunction(module, b"affine"))) == int(first)
    assert status(driver.cuModuleGetFunction(module, b"affin")) == "ERROR_NOT_FOUND"


def test_an_unloaded_module_is_gone() -> None:
    module = ok(driver.cuModuleLoadData(image_of("driver_kernels.cu")))
    kernel = ok(driver.cuModuleGetFunction(module, b"nothing"))
    ok(driver.cuModuleUnload(module))
    for answer in (
        driver.cuModuleUnload(module),
        driver.cuModuleGetFunction(module, b"nothing"),
        launch(kernel, Arguments()),
        driver.cuFuncGetAttribute(SHARED, kernel),
    ):
        assert status(answer) == "ERROR_INVALID_HANDLE"


@pytest.mark.parametrize("image", [b"", b"no image", b"\x7fELF" + bytes(1000)])
def test_what_is_no_image_is_refused(image: bytes) -> None:
    assert status(driver.cuModuleLoadData(image)) == "ERROR_INVALID_IMAGE"


def test_function_attributes() -> None:
    static = function("static_shared", "driver_static_shared.cu")
    assert ok(driver.cuFuncGetAttribute(SHARED, static)) == 4096
    assert ok(driver.cuFuncGetAttribute(MAX_DYNAMIC, static)) == 49152 - 4096
    assert ok(driver.cuFuncGetAttribute(MAX_THREADS, function("affine"))) == 256
    assert ok(driver.cuFuncGetAttribute(MAX_THREADS, static)) == 1024
    assert ok(driver.cuFuncGetAttribute(REGISTERS, static)) == 0
    attribute = CUfunction_attribute.CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH
    assert status(driver.cuFuncGetAttribute(attribute, static)) == "ERROR_INVALID_VALUE"
    assert status(driver.cuFuncSetAttribute(static, REGISTERS, 1)) == "ERROR_INVALID_VALUE"


def test_shared_memory_above_48_kib_must_be_asked_for() -> None:
    kernel, out = function("shared_bytes"), one_int()

    def use(nbytes: int) -> str:
        return status(launch(kernel, Arguments(ctypes.c_void_p(out), ctypes.c_int(nbytes)), shared=nbytes))

    assert use(48 << 10) == "SUCCESS" and download(out, 1, np.int32)[0] == 42
    assert use((48 << 10) + 1) == "ERROR_INVALID_VALUE"
    assert driver.last_refusal() == (
        "shared_bytes: 49153 bytes of dynamic shared memory beside 0 static ones; 49152 are allowed, and "
        "cuFuncSetAttribute may allow 232448"
    )
    assert status(driver.cuFuncSetAttribute(kernel, MAX_DYNAMIC, (227 << 10) + 1)) == "ERROR_INVALID_VALUE"
    assert status(driver.cuFuncSetAttribute(kernel, MAX_DYNAMIC, -1)) == "ERROR_INVALID_VALUE"
    ok(driver.cuFuncSetAttribute(kernel, MAX_DYNAMIC, 227 << 10))
    assert ok(driver.cuFuncGetAttribute(MAX_DYNAMIC, kernel)) == 227 << 10
    assert use(227 << 10) == "SUCCESS" and use((227 << 10) + 1) == "ERROR_INVALID_VALUE"


def test_static_shared_memory_counts_against_the_limit() -> None:
    kernel = function("static_shared", "driver_static_shared.cu")
    assert status(driver.cuFuncSetAttribute(kernel, MAX_DYNAMIC, (227 << 10) - 4095)) == "ERROR_INVALID_VALUE"
    ok(driver.cuFuncSetAttribute(kernel, MAX_DYNAMIC, (227 << 10) - 4096))


@pytest.mark.parametrize(
    ("grid", "block"),
    [
        ((0, 1, 1), (1, 1, 1)),
        ((1, 65536, 1), (1, 1, 1)),
        ((1, 1, 65536), (1, 1, 1)),
        ((2**31, 1, 1), (1, 1, 1)),
        ((1, 1, 1), (0, 1, 1)),
        ((1, 1, 1), (1025, 1, 1)),
        ((1, 1, 1), (1, 1, 65)),
        ((1, 1, 1), (32, 32, 2)),
        ((-1, 1, 1), (1, 1, 1)),
    ],
)
def test_a_grid_or_block_beyond_the_limits_is_refused(grid: tuple[int, ...], block: tuple[int, ...]) -> None:
    assert status(launch(function("nothing"), Arguments(), grid, block)) == "ERROR_INVALID_VALUE"
    told = driver.last_refusal()
    assert told.startswith("nothing: ") and str(grid if grid != (1, 1, 1) else block) in told and "\n" not in told


def test_launch_bounds_are_a_limit() -> None:
    source, out = one_int(), one_int()
    arguments = affine(out, source, 1.0, 0.0, 1)
    assert status(launch(function("affine"), arguments, block=(257, 1, 1))) == "ERROR_INVALID_VALUE"
    assert driver.last_refusal() == "affine: a block of (257, 1, 1) has 257 threads; this kernel may have 256"
    ok(launch(function("affine"), arguments, block=(256, 1, 1)))


def test_arguments_that_are_missing_are_refused() -> None:
    kernel, arguments = function("affine"), affine(0, 0, 1.0, 0.0, 0)
    assert status(driver.cuLaunchKernel(kernel, *[1] * 6, 0, 0, 0, 0)) == "ERROR_INVALID_VALUE"
    assert status(driver.cuLaunchKernel(kernel, *[1] * 6, 0, 0, arguments.address, 1)) == "ERROR_INVALID_VALUE"
    arguments.array[3] = None
    assert status(launch(kernel, arguments)) == "ERROR_INVALID_VALUE"
    assert driver.last_refusal() == "affine takes 5 arguments; the pointer to argument 3 is null"


def config_of(identifier: CUlaunchAttributeID | None, cluster_width: int = 1) -> CUlaunchConfig:
    config = CUlaunchConfig()
    config.gridDimX = config.gridDimY = config.gridDimZ = 1
    config.blockDimX = config.blockDimY = config.blockDimZ = 1
    if identifier is not None:
        attribute = CUlaunchAttribute()
        attribute.id = identifier
        if identifier == CLUSTER:
            size = attribute.value.clusterDim
            size.x, size.y, size.z = cluster_width, 1, 1
        config.attrs, config.numAttrs = [attribute], 1
    return config


def test_launches_with_attributes() -> None:
    kernel = function("nothing")
    for config in (config_of(None), config_of(SERIALIZATION), config_of(CLUSTER)):
        ok(driver.cuLaunchKernelEx(config, kernel, 0, 0))
    for config in (config_of(CLUSTER, cluster_width=2), config_of(COOPERATIVE)):
        assert status(driver.cuLaunchKernelEx(config, kernel, 0, 0)) == "ERROR_NOT_SUPPORTED"
    config = config_of(None)
    config.gridDimX = 0
    assert status(driver.cuLaunchKernelEx(config, kernel, 0, 0)) == "ERROR_INVALID_VALUE"


def store_at(address: int, index: int) -> tuple[object, ...]:
    return launch(function("store_at"), Arguments(ctypes.c_void_p(address), ctypes.c_longlong(index)))


def test_a_fault_names_the_allocation_and_kills_the_context() -> None:
    address = int(ok(driver.cuMemAlloc(1024)))
    assert status(store_at(address, 256)) == "ERROR_ILLEGAL_ADDRESS"
    report = driver.last_report()
    assert report is not None and report.kernel == "store_at" and report.address == address + 1024
    assert f"just past the end of an allocation of 1024 bytes at {address:#x}" in report.text
    dead = [driver.cuMemAlloc(4), driver.cuStreamSynchronize(0), driver.cuMemFree(address), driver.cuStreamCreate(0)]
    assert {status(answer) for answer in dead} == {"ERROR_ILLEGAL_ADDRESS"}
    assert ok(driver.cuDeviceGetCount()) == 1
    driver.reset_sticky()
    ok(driver.cuMemFree(address))
    assert driver.last_report() is None


def test_a_use_after_free_faults() -> None:
    address = int(ok(driver.cuMemAlloc(4000)))
    ok(store_at(address, 10))
    ok(driver.cuMemFree(address))
    assert status(store_at(address, 10)) == "ERROR_ILLEGAL_ADDRESS"
    report = driver.last_report()
    assert report is not None and "offset 40 of a freed allocation of 4000 bytes" in report.text


def test_a_null_pointer_faults() -> None:
    assert status(store_at(0, 0)) == "ERROR_ILLEGAL_ADDRESS"


def test_other_faults_have_their_own_status() -> None:
    assert status(launch(function("check_that"), Arguments(ctypes.c_int(0)))) == "ERROR_ASSERT"
    driver.reset_sticky()
    ok(launch(function("check_that"), Arguments(ctypes.c_int(1))))
    faults = function("barrier_in_branch", "simt_faults.cu")
    out = upload(np.zeros(64, np.int32))
    assert status(launch(faults, Arguments(ctypes.c_void_p(out)), block=(64, 1, 1))) == "ERROR_LAUNCH_FAILED"


@pytest.mark.parametrize("index", [250, 255, -1])
def test_a_write_into_the_slack_is_found_after_the_launch_if_asked(index: int) -> None:
    address = int(ok(driver.cuMemAlloc(1000)))
    driver.set_fences("launch")
    assert status(store_at(address, index)) == "ERROR_ILLEGAL_ADDRESS"
    report = driver.last_report()
    assert report is not None and report.kernel == "store_at" and report.address == address + 4 * index
    repair(address)


def test_a_write_into_the_slack_is_found_when_the_host_waits() -> None:
    address = int(ok(driver.cuMemAlloc(1000)))
    ok(store_at(address, 250))
    assert status(driver.cuStreamSynchronize(0)) == "ERROR_ILLEGAL_ADDRESS"
    repair(address)


def test_the_last_release_of_the_context_frees_everything() -> None:
    code = """
from tests.cpu_device.driver.support import *
ok(driver.cuInit(0)); ok(driver.cuCtxSetCurrent(ok(driver.cuDevicePrimaryCtxRetain(0))))
kernel, stream = function("store_at"), ok(driver.cuStreamCreate(0))
assert status(launch(kernel, Arguments(ctypes.c_void_p(0), ctypes.c_longlong(0)))) == "ERROR_ILLEGAL_ADDRESS"
ok(driver.cuDevicePrimaryCtxRelease(0))
assert driver.live_allocations() == []
ok(driver.cuDevicePrimaryCtxRetain(0))
assert status(driver.cuStreamDestroy(stream)) == "ERROR_INVALID_HANDLE"
assert status(driver.cuFuncGetParamInfo(kernel, 0)) == "ERROR_INVALID_HANDLE"
ok(driver.cuMemAlloc(4))
"""
    ended = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
