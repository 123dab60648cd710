"""A gate in a stream: what is given to the stream behind it waits until the host opens it.

An event stands at the head of an idle stream for as long as the host takes to launch what comes behind it: that would
be measured as the kernel's time. Behind a closed gate, event, kernel and event are all queued before any of them runs.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from bindings.calls import driver

WATCH_SECONDS = 0.5


class Gate:
    """A number in pinned memory, which streams wait for to grow (cuStreamWaitValue32).

    A call that itself waits for the device would wait for ever behind a closed gate: a copy from or to pageable memory
    does, loading code may. Close it for nothing but launches. A watchman opens a gate that nobody else opens.
    """

    def __init__(self) -> None:
        self._address = int(driver.cuMemHostAlloc(4, 0))
        self._number = ctypes.c_uint32.from_address(self._address)
        self._number.value = self._closed = 0
        self._ended = threading.Event()
        self._watchman = threading.Thread(target=self._watch, name="gate", daemon=True)
        self._watchman.start()

    def _watch(self) -> None:
        """Open a gate that was closed at two looks in a row, and not opened between them."""
        seen = 0
        while not self._ended.wait(WATCH_SECONDS):
            closed = self._closed
            if closed == seen != self._number.value:
                self._number.value = closed
            seen = closed

    def close(self, stream: Any) -> None:
        """Let what `stream` is given from now on wait."""
        self._closed += 1
        driver.cuStreamWaitValue32(stream, self._address, self._closed, 0)  # CU_STREAM_WAIT_VALUE_GEQ

    def open(self) -> None:
        """Let everything through."""
        self._number.value = self._closed

    def free(self) -> None:
        """Give the memory back, which waits for the device: nothing may wait for it behind a closed gate."""
        self.open()
        self._ended.set()
        self._watchman.join()
        driver.cuMemFreeHost(self._address)


class NoGate:
    """For a device that runs what it is given in the call that gives it: nothing waits for the host."""

    def close(self, stream: Any) -> None:
        """Nothing to do."""

    def open(self) -> None:
        """Nothing to do."""

    def free(self) -> None:
        """Nothing to do."""


def make_gate(device: Any) -> Gate | NoGate:
    """A gate for the streams of this device."""
    from cuda.bindings.driver import CUdevice_attribute

    wanted = CUdevice_attribute.CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS
    return Gate() if int(driver.cuDeviceGetAttribute(wanted, device)) else NoGate()
