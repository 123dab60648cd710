"""Captures, the graphs they make, and the rules that they break."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

import numpy as np
import pytest
from cuda.bindings.driver import CUstreamCaptureStatus

from bindings.cpu import cublas, driver
from tests.cpu_device.driver.support import (
    GLOBAL,
    RELAXED,
    THREAD_LOCAL,
    Arguments,
    affine,
    download,
    function,
    launch,
    ok,
    repair,
    status,
    upload,
)
from tests.cpu_device.simt_support import image_of

COUNT = 100


@pytest.fixture
def stream() -> Any:
    return ok(driver.cuStreamCreate(1))


@pytest.fixture
def kernel() -> Any:
    return function("affine")


def capture_state(stream: Any) -> str:
    state: CUstreamCaptureStatus = ok(driver.cuStreamIsCapturing(stream))
    return state.name.removeprefix("CU_STREAM_CAPTURE_STATUS_")


def end(stream: Any) -> Any:
    """An executable graph of what `stream` captured."""
    return ok(driver.cuGraphInstantiate(ok(driver.cuStreamEndCapture(stream)), 0))


def test_a_graph_replays_kernels_copies_fills_and_products(stream: Any, kernel: Any) -> None:
    source, between, out = (upload(np.zeros(COUNT, np.float32)) for _ in range(3))
    total = upload(np.zeros(1, np.float32))
    ones = upload(np.ones(COUNT, np.float32))
    blas = ok(cublas.cublasCreate())
    ok(cublas.cublasSetStream(blas, int(stream)))
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    ok(driver.cuMemsetD32Async(out, 0x40000000, COUNT, stream))  # 2.0f
    ok(driver.cuMemcpyDtoDAsync(between, source, 4 * COUNT, stream))
    ok(launch(kernel, affine(out, between, 3.0, 1.0, COUNT - 1), block=(128, 1, 1), stream=stream))
    ok(cublas.cublasGemmEx(blas, 1, 0, 1, 1, COUNT, 1.0, out, 0, COUNT, ones, 0, COUNT, 0.0, total, 0, 1, 68, -1))
    executable = end(stream)
    assert (download(out, COUNT, np.float32) == 0).all(), "a capture runs nothing"
    for value in (1.0, 5.0):
        new = np.full(COUNT, value, np.float32)
        ok(driver.cuMemcpyHtoDAsync(source, new.ctypes.data, new.nbytes, stream))
        ok(driver.cuGraphLaunch(executable, stream))
        assert (download(out, COUNT, np.float32) == [*[3 * value + 1] * (COUNT - 1), 2.0]).all()
        assert download(total, 1, np.float32)[0] == (3 * value + 1) * (COUNT - 1) + 2


def test_arguments_are_copied_at_the_capture(stream: Any, kernel: Any) -> None:
    source, out = upload(np.ones(1, np.float32)), upload(np.zeros(1, np.float32))
    arguments = affine(out, source, 3.0, 1.0, 1)
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    ok(launch(kernel, arguments, stream=stream))
    for value in arguments.values:
        ctypes.memset(ctypes.addressof(value), 0, ctypes.sizeof(value))
    ctypes.memset(arguments.address, 0, ctypes.sizeof(arguments.array))
    executable = end(stream)
    ok(driver.cuGraphLaunch(executable, stream))
    assert download(out, 1, np.float32)[0] == 4.0


def test_a_graph_outlives_its_source_but_not_its_destruction(stream: Any) -> None:
    address = upload(np.zeros(1, np.uint8))
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    ok(driver.cuMemsetD8Async(address, 9, 1, stream))
    graph = ok(driver.cuStreamEndCapture(stream))
    executable = ok(driver.cuGraphInstantiate(graph, 0))
    ok(driver.cuGraphDestroy(graph))
    assert status(driver.cuGraphDestroy(graph)) == status(driver.cuGraphInstantiate(graph, 0)) == "ERROR_INVALID_VALUE"
    ok(driver.cuGraphLaunch(executable, stream))
    assert download(address, 1, np.uint8)[0] == 9
    ok(driver.cuGraphExecDestroy(executable))
    assert status(driver.cuGraphLaunch(executable, stream)) == "ERROR_INVALID_VALUE"
    assert status(driver.cuGraphExecDestroy(executable)) == "ERROR_INVALID_VALUE"


def test_nodes_are_listed(stream: Any) -> None:
    address = upload(np.zeros(1, np.uint8))
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    for value in range(3):
        ok(driver.cuMemsetD8Async(address, value, 1, stream))
    graph = ok(driver.cuStreamEndCapture(stream))
    nodes, count = ok(driver.cuGraphGetNodes(graph))
    assert (nodes, count) == ([], 3)
    nodes, count = ok(driver.cuGraphGetNodes(graph, 3))
    assert len(nodes) == count == len({int(node) for node in nodes}) == 3
    assert len(ok(driver.cuGraphGetNodes(graph, 2))[0]) == 2
    assert status(driver.cuGraphInstantiate(graph, 4)) == "ERROR_NOT_SUPPORTED"


def test_a_graph_within_a_graph(stream: Any, kernel: Any) -> None:
    source, out = upload(np.ones(1, np.float32)), upload(np.zeros(1, np.float32))
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    ok(launch(kernel, affine(source, source, 2.0, 0.0, 1), stream=stream))
    double = end(stream)
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    ok(driver.cuGraphLaunch(double, stream))
    ok(driver.cuGraphLaunch(double, stream))
    ok(driver.cuMemcpyDtoDAsync(out, source, 4, stream))
    outer = end(stream)
    ok(driver.cuGraphLaunch(outer, stream))
    assert download(out, 1, np.float32)[0] == 4.0


def test_an_empty_graph_can_be_launched(stream: Any) -> None:
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    ok(driver.cuGraphLaunch(end(stream), stream))


@pytest.mark.parametrize("what", ["copy", "product"])
def test_a_graph_whose_memory_was_freed_is_refused(stream: Any, what: str) -> None:
    a, b = upload(np.ones(1, np.float32)), upload(np.ones(1, np.float32))
    blas = ok(cublas.cublasCreate())
    ok(cublas.cublasSetStream(blas, int(stream)))
    ok(driver.cuStreamBeginCapture(stream, RELAXED))
    if what == "copy":
        ok(driver.cuMemcpyDtoDAsync(a, b, 4, stream))
    else:
        ok(cublas.cublasGemmEx(blas, 0, 0, 1, 1, 1, 1.0, a, 0, 1, b, 0, 1, 0.0, a, 0, 1, 68, -1))
    executable = end(stream)
    ok(driver.cuGraphLaunch(executable, stream))
    ok(driver.cuMemFree(b))
    expected = "ERROR_INVALID_VALUE" if what == "copy" else "ERROR_ILLEGAL_ADDRESS"
    assert status(driver.cuGraphLaunch(executable, stream)) == expected


def test_a_graph_whose_module_was_unloaded_is_refused(stream: Any) -> None:
    module = ok(driver.cuModuleLoadData(image_of("driver_kernels.cu")))
    kernel = ok(driver.cuModuleGetFunction(module, b"nothing"))
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    ok(launch(kernel, Arguments(), stream=stream))
    executable = end(stream)
    ok(driver.cuGraphLaunch(executable, stream))
    ok(driver.cuModuleUnload(module))
    assert status(driver.cuGraphLaunch(executable, stream)) == "ERROR_INVALID_HANDLE"


def test_a_fault_inside_a_graph_is_told_as_any_other(stream: Any, kernel: Any) -> None:
    address = upload(np.zeros(1, np.float32))
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    ok(launch(kernel, affine(0, address, 1.0, 0.0, 1), stream=stream))
    executable = end(stream)
    assert status(driver.cuGraphLaunch(executable, stream)) == "ERROR_ILLEGAL_ADDRESS"
    assert driver.last_report().kernel == "affine"


def test_a_write_into_the_slack_is_found_inside_a_graph(stream: Any) -> None:
    address = int(ok(driver.cuMemAlloc(1000)))
    store, index = function("store_at"), ctypes.c_longlong(250)
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    ok(driver.cuMemsetD8Async(address, 0, 1000, stream))
    ok(launch(store, Arguments(ctypes.c_void_p(address), index), stream=stream))
    ok(driver.cuMemsetD8Async(address, 0, 1000, stream))
    executable = end(stream)
    driver.set_fences("launch")
    assert status(driver.cuGraphLaunch(executable, stream)) == "ERROR_ILLEGAL_ADDRESS"
    assert driver.last_report().kernel == "store_at"
    repair(address)


def test_a_replay_costs_little_beside_its_work(stream: Any) -> None:
    """A decode step is a graph of some 300 nodes: their host cost must not show beside tens of milliseconds."""
    address, nodes = upload(np.zeros(1, np.uint8)), 300
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    for _ in range(nodes):
        ok(driver.cuMemsetD8Async(address, 1, 1, stream))
    executable = end(stream)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        ok(driver.cuGraphLaunch(executable, stream))
        seconds.append(time.perf_counter() - started)
    assert min(seconds) / nodes < 100e-6  # 3 us on a quiet machine; the bound allows for a loaded one


def test_a_capture_is_begun_and_ended_once(stream: Any) -> None:
    assert capture_state(stream) == "NONE"
    assert status(driver.cuStreamEndCapture(stream)) == "ERROR_ILLEGAL_STATE"
    assert status(driver.cuStreamBeginCapture(stream, 7)) == "ERROR_INVALID_VALUE"
    assert status(driver.cuStreamBeginCapture(0, GLOBAL)) == "ERROR_STREAM_CAPTURE_UNSUPPORTED"
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    assert capture_state(stream) == "ACTIVE"
    assert status(driver.cuStreamBeginCapture(stream, GLOBAL)) == "ERROR_ILLEGAL_STATE"
    ok(driver.cuStreamEndCapture(stream))
    assert capture_state(stream) == "NONE"


UNSAFE = {
    "synchronise": lambda stream: driver.cuStreamSynchronize(stream),
    "query": lambda stream: driver.cuStreamQuery(stream),
    "context": lambda stream: driver.cuCtxSynchronize(),
}
UNSAFE_IN_STRICT_MODES = {
    "allocate": lambda stream: driver.cuMemAlloc(16),
    "allocate host": lambda stream: driver.cuMemHostAlloc(16, 0),
    "free": lambda stream: driver.cuMemFree(0),
    "event": lambda stream: driver.cuEventSynchronize(ok(driver.cuEventCreate(0))),
    "default stream": lambda stream: driver.cuStreamSynchronize(0),
}


@pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL, RELAXED], ids=["global", "thread", "relaxed"])
@pytest.mark.parametrize("call", [*UNSAFE, *UNSAFE_IN_STRICT_MODES])
def test_a_call_that_would_wait_breaks_the_capture(stream: Any, kernel: Any, call: str, mode: Any) -> None:
    ok(driver.cuStreamBeginCapture(stream, mode))
    answer = {**UNSAFE, **UNSAFE_IN_STRICT_MODES}[call](stream)
    if mode == RELAXED and call in UNSAFE_IN_STRICT_MODES:
        assert status(answer[:1]) == "SUCCESS" and capture_state(stream) == "ACTIVE"
        ok(driver.cuStreamEndCapture(stream))
        return
    assert status(answer) == "ERROR_STREAM_CAPTURE_UNSUPPORTED"
    assert capture_state(stream) == "INVALIDATED"
    arguments = affine(0, 0, 1.0, 0.0, 0)
    assert status(launch(kernel, arguments, stream=stream)) == "ERROR_STREAM_CAPTURE_INVALIDATED"
    assert status(driver.cuStreamEndCapture(stream)) == "ERROR_STREAM_CAPTURE_INVALIDATED"
    assert capture_state(stream) == "NONE"
    ok(driver.cuStreamSynchronize(stream))


def on_another_thread(call: Any) -> str:
    """The status of a call made on a thread of its own, which has the context."""
    seen = []

    def work() -> None:
        ok(driver.cuCtxSetCurrent(0x10))
        seen.append(status(call()[:1]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return seen[0]


def test_modes_say_which_threads_are_held_back(stream: Any) -> None:
    for mode, expected in ((GLOBAL, "ERROR_STREAM_CAPTURE_UNSUPPORTED"), (THREAD_LOCAL, "SUCCESS")):
        ok(driver.cuStreamBeginCapture(stream, mode))
        assert on_another_thread(lambda: driver.cuMemAlloc(16)) == expected
        driver.cuStreamEndCapture(stream)


def test_only_the_thread_that_began_may_end(stream: Any) -> None:
    for mode, expected in ((THREAD_LOCAL, "ERROR_STREAM_CAPTURE_WRONG_THREAD"), (RELAXED, "SUCCESS")):
        ok(driver.cuStreamBeginCapture(stream, mode))
        assert on_another_thread(lambda: driver.cuStreamEndCapture(stream)) == expected
        driver.cuStreamEndCapture(stream)


def test_the_default_stream_may_not_wait_for_a_capture() -> None:
    blocking = ok(driver.cuStreamCreate(0))
    address = upload(np.zeros(1, np.uint8))
    ok(driver.cuStreamBeginCapture(blocking, RELAXED))
    assert status(driver.cuMemsetD8Async(address, 1, 1, 0)) == "ERROR_STREAM_CAPTURE_IMPLICIT"
    assert status(driver.cuStreamEndCapture(blocking)) == "ERROR_STREAM_CAPTURE_INVALIDATED"
    ok(driver.cuMemsetD8Async(address, 1, 1, 0))


def test_a_capture_forks_and_joins_through_events(stream: Any) -> None:
    side = ok(driver.cuStreamCreate(1))
    fork, join = ok(driver.cuEventCreate(2)), ok(driver.cuEventCreate(2))
    data = upload(np.zeros(2, np.uint8))
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    ok(driver.cuEventRecord(fork, stream))
    ok(driver.cuStreamWaitEvent(side, fork, 0))
    assert capture_state(side) == "ACTIVE"
    ok(driver.cuMemsetD8Async(data, 1, 1, stream))
    ok(driver.cuMemsetD8Async(data + 1, 2, 1, side))
    ok(driver.cuEventRecord(join, side))
    ok(driver.cuStreamWaitEvent(stream, join, 0))
    assert status(driver.cuStreamEndCapture(side)) == "ERROR_STREAM_CAPTURE_UNMATCHED"
    executable = end(stream)
    assert capture_state(side) == "NONE"
    ok(driver.cuGraphLaunch(executable, stream))
    assert download(data, 2, np.uint8).tolist() == [1, 2]
    assert status(driver.cuEventSynchronize(join)) == "ERROR_CAPTURED_EVENT"
    assert status(driver.cuStreamWaitEvent(side, join, 0)) == "ERROR_CAPTURED_EVENT"
    ok(driver.cuEventRecord(join, side))
    ok(driver.cuEventSynchronize(join))


@pytest.mark.parametrize("when", ["never", "too early"])
def test_a_fork_must_join_again(stream: Any, when: str) -> None:
    side = ok(driver.cuStreamCreate(1))
    event = ok(driver.cuEventCreate(2))
    data = upload(np.zeros(2, np.uint8))
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    ok(driver.cuEventRecord(event, stream))
    ok(driver.cuStreamWaitEvent(side, event, 0))
    if when == "too early":
        ok(driver.cuEventRecord(event, side))
        ok(driver.cuStreamWaitEvent(stream, event, 0))
    ok(driver.cuMemsetD8Async(data, 1, 1, side))
    assert status(driver.cuStreamEndCapture(stream)) == "ERROR_STREAM_CAPTURE_UNJOINED"
    assert capture_state(stream) == capture_state(side) == "NONE"


def test_a_capture_may_not_wait_for_work_outside(stream: Any) -> None:
    event = ok(driver.cuEventCreate(0))
    ok(driver.cuEventRecord(event, 0))
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    assert status(driver.cuStreamWaitEvent(stream, event, 0)) == "ERROR_STREAM_CAPTURE_ISOLATION"
    assert status(driver.cuStreamEndCapture(stream)) == "ERROR_STREAM_CAPTURE_INVALIDATED"


def test_two_captures_may_not_merge(stream: Any) -> None:
    other, event = ok(driver.cuStreamCreate(1)), ok(driver.cuEventCreate(0))
    ok(driver.cuStreamBeginCapture(stream, RELAXED))
    ok(driver.cuStreamBeginCapture(other, RELAXED))
    ok(driver.cuEventRecord(event, other))
    assert status(driver.cuStreamWaitEvent(stream, event, 0)) == "ERROR_STREAM_CAPTURE_MERGE"
    driver.cuStreamEndCapture(stream)
    ok(driver.cuStreamEndCapture(other))


def test_a_captured_event_can_not_be_waited_for(stream: Any) -> None:
    event = ok(driver.cuEventCreate(0))
    ok(driver.cuStreamBeginCapture(stream, RELAXED))
    ok(driver.cuEventRecord(event, stream))
    assert status(driver.cuEventQuery(event)) == "ERROR_CAPTURED_EVENT"
    assert status(driver.cuStreamEndCapture(stream)) == "ERROR_STREAM_CAPTURE_INVALIDATED"


def test_a_destroyed_stream_ends_its_capture(stream: Any) -> None:
    side, event = ok(driver.cuStreamCreate(1)), ok(driver.cuEventCreate(0))
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    ok(driver.cuEventRecord(event, stream))
    ok(driver.cuStreamWaitEvent(side, event, 0))
    ok(driver.cuStreamDestroy(stream))
    assert capture_state(side) == "NONE"
    assert status(driver.cuStreamEndCapture(stream)) == "ERROR_INVALID_HANDLE"
