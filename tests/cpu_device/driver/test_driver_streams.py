"""Streams and events outside of captures."""

from __future__ import annotations

import time

import numpy as np

from bindings.cpu import driver
from tests.cpu_device.driver.support import download, ok, status, upload


def test_streams_are_created_and_destroyed_once() -> None:
    stream = ok(driver.cuStreamCreate(1))
    ok(driver.cuStreamSynchronize(stream))
    ok(driver.cuStreamQuery(stream))
    ok(driver.cuStreamDestroy(stream))
    for answer in (driver.cuStreamDestroy(stream), driver.cuStreamSynchronize(stream), driver.cuStreamQuery(stream)):
        assert status(answer) == "ERROR_INVALID_HANDLE"
    assert status(driver.cuStreamCreate(4)) == "ERROR_INVALID_VALUE"


def test_a_destroyed_stream_takes_no_work() -> None:
    address = upload(np.zeros(4, np.uint8))
    stream = ok(driver.cuStreamCreate(0))
    ok(driver.cuStreamDestroy(stream))
    assert status(driver.cuMemsetD8Async(address, 1, 4, stream)) == "ERROR_INVALID_HANDLE"
    assert (download(address, 4, np.uint8) == 0).all()


def test_a_handle_is_of_one_kind() -> None:
    stream, event = ok(driver.cuStreamCreate(0)), ok(driver.cuEventCreate(0))
    assert status(driver.cuStreamSynchronize(int(event))) == "ERROR_INVALID_HANDLE"
    assert status(driver.cuEventSynchronize(int(stream))) == "ERROR_INVALID_HANDLE"


def test_the_default_streams_need_no_handle() -> None:
    for default in (0, 1, 2):
        ok(driver.cuStreamSynchronize(default))


def test_events_tell_the_time_between_them() -> None:
    stream, first, last = ok(driver.cuStreamCreate(0)), ok(driver.cuEventCreate(0)), ok(driver.cuEventCreate(0))
    ok(driver.cuEventRecord(first, stream))
    time.sleep(0.02)
    ok(driver.cuEventRecord(last, stream))
    ok(driver.cuEventSynchronize(last))
    ok(driver.cuEventQuery(last))
    assert 20 <= ok(driver.cuEventElapsedTime(first, last)) < 5000
    assert ok(driver.cuEventElapsedTime(last, first)) <= -20


def test_events_without_a_time() -> None:
    recorded, unrecorded, untimed = (ok(driver.cuEventCreate(flags)) for flags in (0, 0, 2))
    ok(driver.cuEventRecord(recorded, 0))
    ok(driver.cuEventRecord(untimed, 0))
    for pair in ((recorded, unrecorded), (unrecorded, recorded), (recorded, untimed)):
        assert status(driver.cuEventElapsedTime(*pair)) == "ERROR_INVALID_HANDLE"
    ok(driver.cuEventQuery(unrecorded))  # as in CUDA: an event that was never recorded is an empty set of work
    ok(driver.cuStreamWaitEvent(0, unrecorded, 0))


def test_misused_events() -> None:
    event = ok(driver.cuEventCreate(1))
    assert status(driver.cuEventCreate(8)) == "ERROR_INVALID_VALUE"
    assert status(driver.cuEventCreate(4)) == "ERROR_INVALID_VALUE"
    assert status(driver.cuEventCreate(6)) == "ERROR_NOT_SUPPORTED"
    assert status(driver.cuStreamWaitEvent(0, event, 1)) == "ERROR_NOT_SUPPORTED"
    ok(driver.cuEventDestroy(event))
    for answer in (
        driver.cuEventDestroy(event),
        driver.cuEventRecord(event, 0),
        driver.cuEventQuery(event),
        driver.cuStreamWaitEvent(0, event, 0),
    ):
        assert status(answer) == "ERROR_INVALID_HANDLE"
