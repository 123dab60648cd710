"""Clocks: no call waits for ever for its times, and no error becomes theirs. test_listeners.py: what they tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bindings.activity import choose_clock
from bindings.device import Device
from bindings.errors import CudaError, CutawayError
from bindings.trace import Event, recorder
from engine import ops
from tests.hearing import Keeper, launch, norm_tensors


@pytest.fixture
def tensors(device: Device) -> Iterator[Any]:
    with norm_tensors(device) as made:
        yield made


def clocked(clock: Any, listener: Keeper) -> Any:
    """A context in which `listener` keeps calls with the times of `clock`."""

    class Both(Keeper):
        def before(self, event: Event) -> None:
            clock.before(event)

        def after(self, event: Event) -> None:
            clock.after(event)
            listener.after(event)

    clock.open()
    return recorder.listening(Both())


@pytest.mark.cpu_device_only
@pytest.mark.usefixtures("any_schedule")
@pytest.mark.parametrize("streams", ["eager", "lazy"])
def test_no_call_waits_for_ever_for_its_times(device: Device, tensors: Any, streams: str) -> None:
    """A copy of nothing, a graph that was captured before anybody listened, and one inside another."""
    from bindings.cpu import driver as cpu_driver

    launch(device, tensors)
    with device.stream.capture() as old:
        launch(device, tensors)
        launch(device, tensors)
    cpu_driver.set_streams(streams, 3)
    clock, keeper, stream = choose_clock("auto"), Keeper(), device.stream
    with clocked(clock, keeper):
        device.copy_on_device(tensors[3].address, tensors[0].address, 0, stream)
        old.launch(stream)
        with stream.capture() as outer:
            device.copy_on_device(tensors[3].address, tensors[0].address, 0, stream)
            launch(device, tensors)
            old.launch(stream)
            launch(device, tensors)
        outer.launch(stream)
        stream.synchronize()
        assert not [call for call in keeper.calls if clock.is_open(call)]
    clock.close()
    empty, before, _, first, inner, last, whole = [call for call in keeper.calls if "stream" in call]
    assert "activities" not in empty and len(before["activities"]) == 2
    assert [activity["of"] for activity in whole["activities"]] == [first["n"], inner["n"], inner["n"], last["n"]]
    outer.close()
    old.close()


@pytest.mark.cpu_device_only
@pytest.mark.usefixtures("any_schedule")
@pytest.mark.parametrize("choice", ["auto", "events"])
def test_a_clock_takes_no_error_for_itself(device: Device, tensors: Any, choice: Any) -> None:
    """A kernel's fault is told by the call of the program that meets it, with a clock as without one."""
    from bindings.cpu import driver as cpu_driver

    kernel = ops.RMSNORM.kernel(device, {"T": 4, "H": 64})
    cpu_driver.set_streams("lazy", 3)
    clock, keeper = choose_clock(choice), Keeper()
    try:
        with clocked(clock, keeper), pytest.raises(CudaError) as met:
            kernel.launch(device.stream, (1, 1, 1), (32, 1, 1), [16, 16, 16, 1.0, 64])
            device.stream.synchronize()
        with pytest.raises(CudaError) as told, recorder.listening(clock):
            device.copy_on_device(tensors[3].address, tensors[0].address, 64, device.stream)
        clock.close()
    finally:
        cpu_driver.reset_sticky()
    assert (met.value.call, told.value.call) == ("cuStreamSynchronize", "cuMemcpyDtoDAsync")
    assert not recorder.wants_eager


@pytest.mark.cpu_device_only
def test_a_clock_that_is_not_here_is_refused(device: Device) -> None:
    with pytest.raises(CutawayError, match="CUPTI is for NVIDIA's GPUs"):
        choose_clock("cupti")
    with pytest.raises(CutawayError, match="must be one of auto, cupti, events, off"):
        choose_clock("sundial")
