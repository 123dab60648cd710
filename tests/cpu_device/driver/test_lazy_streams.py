"""Lazy streams: what runs when, in which orders, and that a wait that was forgotten shows."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda.bindings.driver import CUresult

from bindings.cpu import driver
from bindings.cpu import pending as lazy
from bindings.cpu.pending import pending
from bindings.errors import CutawayError
from tests.cpu_device.driver.support import (
    GLOBAL,
    Arguments,
    affine,
    download,
    function,
    launch,
    ok,
    status,
    upload,
)
from tests.cpu_device.simt_support import image_of

# Enough for a choice of two to fall both ways: the chance that it does not is 2^-15 for a fair one.
HUNT = range(16)


def value_at(address: int) -> float:
    """The float there now, without a call to the driver."""
    return ctypes.c_float.from_address(address).value


def new_stream(flags: int = 1) -> Any:
    """A stream, of its own accord (1) or bound to the default stream (0)."""
    return ok(driver.cuStreamCreate(flags))


def one_float(value: float) -> int:
    """The address of a new float on the device."""
    return upload(np.array([value], np.float32))


@pytest.fixture
def kernel() -> Any:
    return function("affine")


@pytest.fixture
def data() -> int:
    """A float 1 on the device, put there before the streams are lazy."""
    return one_float(1.0)


@pytest.fixture
def step(kernel: Any, data: int) -> Callable[..., None]:
    """`step(stream, a, b)` launches data = a * data + b."""

    def give(stream: Any, factor: float, offset: float) -> None:
        ok(launch(kernel, affine(data, data, factor, offset, 1), stream=stream))

    return give


def outcomes(data: int, program: Callable[[], None], seeds: range = HUNT) -> set[float]:
    """What `program`, which changes the float 1 at `data`, makes of it in each order that `seeds` find."""
    seen = set()
    for seed in seeds:
        driver.set_streams("lazy", seed)
        ctypes.c_float.from_address(data).value = 1.0
        program()
        ok(driver.cuCtxSynchronize())
        seen.add(value_at(data))
    return seen


def copy_out(data: int, stream: Any) -> Any:
    """The answer of a copy to memory that is not pinned."""
    host = np.zeros(1, np.float32)
    return driver.cuMemcpyDtoHAsync(host.ctypes.data, data, 4, stream)


def unload() -> Any:
    """The answer of unloading a module that nobody uses."""
    return driver.cuModuleUnload(ok(driver.cuModuleLoadData(image_of("driver_kernels.cu"))))


WAITS: dict[str, Callable[[Any, Any, int], Any]] = {
    "stream": lambda stream, event, data: driver.cuStreamSynchronize(stream),
    "event": lambda stream, event, data: driver.cuEventSynchronize(event),
    "context": lambda stream, event, data: driver.cuCtxSynchronize(),
    "free": lambda stream, event, data: driver.cuMemFree(ok(driver.cuMemAlloc(1))),
    "free host": lambda stream, event, data: driver.cuMemFreeHost(ok(driver.cuMemHostAlloc(1, 0))),
    "unload": lambda stream, event, data: unload(),
    "copy to pageable memory": lambda stream, event, data: copy_out(data, stream),
    "another mode": lambda stream, event, data: (CUresult.CUDA_SUCCESS, driver.set_streams("eager")),
}


@pytest.mark.parametrize("wait", WAITS)
def test_work_runs_when_the_host_waits_for_it(wait: str, data: int, step: Callable[..., None]) -> None:
    stream, event = new_stream(), ok(driver.cuEventCreate(0))
    driver.set_streams("lazy")
    step(stream, 2.0, 1.0)
    ok(driver.cuEventRecord(event, stream))
    assert value_at(data) == 1.0
    assert status(WAITS[wait](stream, event, data)[:1]) == "SUCCESS"
    assert value_at(data) == 3.0


@pytest.mark.parametrize("what", ["stream", "event"])
def test_questions_see_progress(what: str, data: int, step: Callable[..., None]) -> None:
    stream, start, end = new_stream(), ok(driver.cuEventCreate(0)), ok(driver.cuEventCreate(0))
    driver.set_streams("lazy")
    ok(driver.cuEventRecord(start, stream))
    for _ in range(10):
        step(stream, 1.0, 1.0)
    ok(driver.cuEventRecord(end, stream))
    assert status(driver.cuEventElapsedTime(start, end)) == "ERROR_NOT_READY"
    question = {"stream": lambda: driver.cuStreamQuery(stream), "event": lambda: driver.cuEventQuery(end)}[what]
    answers = list(itertools.takewhile(lambda answer: answer != "SUCCESS", (status(question()) for _ in range(100))))
    assert 2 <= len(answers) <= 12 and set(answers) == {"ERROR_NOT_READY"}
    assert value_at(data) == 11.0
    assert ok(driver.cuEventElapsedTime(start, end)) > 0


def test_every_order_of_two_streams_comes_out_and_no_other(data: int, step: Callable[..., None]) -> None:
    maps = {"a1": (2, 1), "a2": (3, 2), "b1": (5, 3), "b2": (7, 4)}

    def in_order(names: tuple[str, ...]) -> float:
        value = 1.0
        for name in names:
            value = maps[name][0] * value + maps[name][1]
        return value

    orders = [names for names in itertools.permutations(maps) if names.index("a1") < names.index("a2")]
    allowed = {in_order(names) for names in orders if names.index("b1") < names.index("b2")}
    assert len(allowed) == 6
    first, second = new_stream(), new_stream()

    def program() -> None:
        for stream, name in ((first, "a1"), (first, "a2"), (second, "b1"), (second, "b2")):
            step(stream, *maps[name])

    assert outcomes(data, program, range(160)) == allowed


def test_a_forgotten_wait_shows_and_an_event_heals_it(
    data: int, step: Callable[..., None], schedule_seeds: range
) -> None:
    producer, consumer, event = new_stream(), new_stream(), ok(driver.cuEventCreate(2))

    def program(waits: bool) -> None:
        step(producer, 1.0, 1.0)
        ok(driver.cuEventRecord(event, producer))
        if waits:
            ok(driver.cuStreamWaitEvent(consumer, event, 0))
        step(consumer, 10.0, 0.0)

    assert outcomes(data, lambda: program(waits=False)) == {20.0, 11.0}
    assert outcomes(data, lambda: program(waits=True), range(len(HUNT) * len(schedule_seeds))) == {20.0}


def test_a_wait_holds_for_the_point_that_was_last_recorded(data: int, step: Callable[..., None]) -> None:
    producer, consumer, event = new_stream(), new_stream(), ok(driver.cuEventCreate(2))

    def program() -> None:
        ok(driver.cuEventRecord(event, producer))
        step(producer, 1.0, 1.0)
        ok(driver.cuStreamWaitEvent(consumer, event, 0))  # for what was before the step
        ok(driver.cuEventRecord(event, producer))
        step(consumer, 10.0, 0.0)

    assert outcomes(data, program) == {20.0, 11.0}


@pytest.mark.parametrize(("flags", "expected"), [(0, {23.0}), (1, {14.0, 23.0, 50.0})])
def test_the_default_stream_waits_for_streams_that_wait_for_it(
    flags: int, expected: set[float], data: int, step: Callable[..., None]
) -> None:
    other = new_stream(flags)

    def program() -> None:
        step(other, 1.0, 1.0)
        step(0, 10.0, 0.0)
        step(other, 1.0, 3.0)

    assert outcomes(data, program) == expected


def test_a_stream_that_was_destroyed_still_runs(data: int, step: Callable[..., None]) -> None:
    stream = new_stream(0)
    driver.set_streams("lazy")
    step(stream, 1.0, 4.0)
    ok(driver.cuStreamDestroy(stream))
    step(0, 10.0, 0.0)
    ok(driver.cuStreamSynchronize(0))
    assert value_at(data) == 50.0


def test_branches_of_a_graph_come_in_every_order_between_fork_and_join(
    kernel: Any, data: int, step: Callable[..., None]
) -> None:
    main, side = new_stream(), new_stream()
    fork, join = ok(driver.cuEventCreate(2)), ok(driver.cuEventCreate(2))
    ok(driver.cuStreamBeginCapture(main, GLOBAL))
    step(main, 1.0, 1.0)
    ok(driver.cuEventRecord(fork, main))
    ok(driver.cuStreamWaitEvent(side, fork, 0))
    step(main, 2.0, 0.0)
    step(side, 1.0, 1.0)
    ok(driver.cuEventRecord(join, side))
    ok(driver.cuStreamWaitEvent(main, join, 0))
    step(main, 10.0, 0.0)
    executable = ok(driver.cuGraphInstantiate(ok(driver.cuStreamEndCapture(main)), 0))
    assert outcomes(data, lambda: ok(driver.cuGraphLaunch(executable, main))) == {50.0, 60.0}

    ok(driver.cuStreamBeginCapture(main, GLOBAL))
    ok(driver.cuGraphLaunch(executable, main))
    step(main, 1.0, 0.5)
    outer = ok(driver.cuGraphInstantiate(ok(driver.cuStreamEndCapture(main)), 0))
    assert outcomes(data, lambda: ok(driver.cuGraphLaunch(outer, main))) == {50.5, 60.5}


def test_an_empty_graph_holds_its_place(data: int, step: Callable[..., None]) -> None:
    stream = new_stream()
    ok(driver.cuStreamBeginCapture(stream, GLOBAL))
    empty = ok(driver.cuGraphInstantiate(ok(driver.cuStreamEndCapture(stream)), 0))

    def program() -> None:
        step(stream, 1.0, 1.0)
        ok(driver.cuGraphLaunch(empty, stream))
        step(stream, 10.0, 0.0)

    assert outcomes(data, program) == {20.0}


def test_a_seed_fixes_the_order(data: int, step: Callable[..., None]) -> None:
    streams = [new_stream() for _ in range(3)]

    def run(seed: int) -> float:
        driver.set_streams("lazy", seed)
        ctypes.c_float.from_address(data).value = 1.0
        for number, stream in enumerate(streams * 2):
            step(stream, number + 2.0, 1.0)
        ok(driver.cuCtxSynchronize())
        return value_at(data)

    first = [run(seed) for seed in HUNT]
    assert first == [run(seed) for seed in HUNT] and len(set(first)) > 3


def test_arguments_may_change_after_the_call(data: int, kernel: Any) -> None:
    arguments = affine(data, data, 3.0, 1.0, 1)
    driver.set_streams("lazy")
    ok(launch(kernel, arguments))
    for value in arguments.values:
        ctypes.memset(ctypes.addressof(value), 0, ctypes.sizeof(value))
    ctypes.memset(arguments.address, 0, ctypes.sizeof(arguments.array))
    assert download(data, 1, np.float32)[0] == 4.0


def test_a_fault_shows_where_the_host_waits_and_names_the_launch(data: int, step: Callable[..., None]) -> None:
    stream, store = new_stream(), function("store_at")
    address = int(ok(driver.cuMemAlloc(1024)))
    driver.set_streams("lazy")
    step(stream, 2.0, 0.0)
    ok(launch(store, Arguments(ctypes.c_void_p(address), ctypes.c_longlong(256)), stream=stream))
    step(stream, 2.0, 0.0)
    assert status(driver.cuStreamSynchronize(stream)) == "ERROR_ILLEGAL_ADDRESS"
    report = driver.last_report()
    assert report is not None and (report.kernel, report.block, report.thread) == ("store_at", (0, 0, 0), (0, 0, 0))
    assert report.location is not None and "just past the end of an allocation of 1024 bytes" in report.text
    assert f"given to stream {int(stream):#x} at tests/cpu_device/driver/support.py:" in report.text
    assert value_at(data) == 2.0, "what came behind the fault must not run"
    driver.reset_sticky()
    ok(driver.cuStreamSynchronize(stream))


def test_nothing_hangs_on_a_launch_that_failed(data: int, step: Callable[..., None]) -> None:
    stream, other, event = new_stream(), new_stream(), ok(driver.cuEventCreate(2))
    driver.set_streams("lazy")
    ok(launch(function("check_that"), Arguments(ctypes.c_int(0)), stream=stream))
    assert status(driver.cuStreamSynchronize(stream)) == "ERROR_ASSERT"
    driver.reset_sticky()
    ok(driver.cuEventRecord(event, stream))
    ok(driver.cuStreamWaitEvent(other, event, 0))
    step(other, 2.0, 0.0)
    ok(driver.cuStreamSynchronize(other))
    ok(driver.cuStreamSynchronize(stream))
    assert value_at(data) == 2.0


def test_an_interrupt_loses_no_work(data: int, step: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stream()
    driver.set_streams("lazy")
    for _ in range(3):
        step(stream, 1.0, 1.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bindings.cpu.fences.after_operation", interrupt)
        driver.cuStreamSynchronize(stream)
    ok(driver.cuStreamSynchronize(stream))
    assert value_at(data) == 4.0


def interrupt(name: str) -> None:
    """As Ctrl-C does when an operation has run."""
    raise KeyboardInterrupt


def test_what_waits_is_bounded(data: int, step: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    stream, host = new_stream(), int(ok(driver.cuMemHostAlloc(1000, 0)))
    target = int(ok(driver.cuMemAlloc(1000)))
    driver.set_streams("lazy")
    for _ in range(lazy.MAX_TASKS + 500):
        step(stream, 1.0, 1.0)
    assert len(pending._tasks) == lazy.MAX_TASKS and value_at(data) == 501.0
    ok(driver.cuCtxSynchronize())
    monkeypatch.setattr(lazy, "MAX_BYTES", 2500)
    for _ in range(10):
        ok(driver.cuMemcpyHtoDAsync(target, host, 1000, stream))
        assert pending._bytes <= 3000
    ok(driver.cuCtxSynchronize())
    assert pending._bytes == 0 and not pending._tasks


@pytest.mark.parametrize(("mode", "seed"), [("random", 0), ("", 0), ("lazy", -1), ("lazy", 2**64)])
def test_a_mode_that_does_not_exist_is_refused(mode: str, seed: int) -> None:
    with pytest.raises(CutawayError):
        driver.set_streams(mode, seed)


ENDS_WITH_ITS_DEVICE = """
from bindings.device import Device
from bindings.errors import CudaError
from engine import ops
import numpy as np

device = Device.open("cpu")
table, ids = device.upload(np.zeros((4, 8)), ops.BF16, "table"), device.upload(np.full(1, 1 << 30), ops.I32, "ids")
ops.EMBEDDING(device.stream, out=device.empty((1, 8), ops.BF16, "out"), token_ids=ids, table=table)
try:
    {wait}
except CudaError as error:
    print(error)
{end}
"""


@pytest.mark.parametrize(("wait", "end"), [("device.close()", ""), ("device.synchronize()", "device.close()")])
def test_a_device_that_is_closed_tells_a_failure_once(wait: str, end: str) -> None:
    code = ENDS_WITH_ITS_DEVICE.format(wait=wait, end=end)
    environment = {**os.environ, "CUTAWAY_CPU_STREAMS": "lazy:3", "CUTAWAY_CPU_LEAKS": "report"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cuCtxSynchronize() failed: CUDA_ERROR_ILLEGAL_ADDRESS")
    assert done.stdout.count("\n") == 1 and "illegal address in embedding at " in done.stdout


ENDS_WITHOUT_WAITING = """
from tests.cpu_device.driver.support import *
ok(driver.cuInit(0)); ok(driver.cuCtxSetCurrent(ok(driver.cuDevicePrimaryCtxRetain(0))))
ok(launch(function("{kernel}"), Arguments(*{arguments})))
{end}
"""


@pytest.mark.parametrize("end", ["", "assert status(driver.cuDevicePrimaryCtxRelease(0)) == '{status}'"])
@pytest.mark.parametrize("is_right", [True, False])
def test_work_that_nobody_waited_for_runs_at_the_end(is_right: bool, end: str) -> None:
    kernel, arguments = ("nothing", "()") if is_right else ("store_at", "(ctypes.c_void_p(0), ctypes.c_longlong(0))")
    end = end.format(status="SUCCESS" if is_right else "ERROR_ILLEGAL_ADDRESS")
    code = ENDS_WITHOUT_WAITING.format(kernel=kernel, arguments=arguments, end=end)
    environment = {**os.environ, "CUTAWAY_CPU_STREAMS": "lazy:3"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    if is_right or end:
        assert done.stderr == ""
    else:
        assert done.stderr.startswith("cutaway: work that nobody waited for failed: illegal address in store_at at ")
