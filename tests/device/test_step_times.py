"""Events around each step: who was busy, who waited."""

from __future__ import annotations

import time

import pytest

from bindings.calls import driver
from bindings.device import Device
from engine import LLM, SamplingParams
from engine.step_times import StepTimes, idle_share

NBYTES = 1 << 26


def test_a_wait_of_the_host_is_idle_time_and_work_is_busy_time(device: Device) -> None:
    buffer, waited = device.alloc(NBYTES, "filled"), 0.05
    with StepTimes() as times:
        for step in range(3):
            if step == 2:
                device.stream.synchronize()
                time.sleep(waited)
            with times.step(device.stream, num_decodes=step, num_prefill_tokens=2 * step, kv_tokens=7 * step):
                driver.cuMemsetD8Async(buffer.address, step, NBYTES, device.stream.handle)
        first, second, third = times.read()
    buffer.free()
    assert first.idle == 0 and second.idle >= 0
    assert third.idle >= 0.9 * waited  # the two clocks may differ by a little
    assert min(step.busy for step in (first, second, third)) > 0
    assert (third.num_decodes, third.num_prefill_tokens, third.kv_tokens) == (2, 4, 14)
    assert first.is_decode and not third.is_decode
    assert 0 < idle_share([first, second, third]) < 1


def test_the_engine_times_each_of_its_steps(device: Device) -> None:
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    with LLM("toy", load_format="dummy", device=device.kind, max_num_seqs=2) as llm:
        with llm.engine.timed_steps() as times:
            llm.generate([[1, 2, 3], [4, 5]], params)
            steps = times.read()
            assert times.host_seconds > 0
        llm.generate([[1, 2, 3]], params)  # unwatched
        assert times.read() == []
    sizes = [(step.num_decodes, step.num_prefill_tokens, step.kv_tokens) for step in steps]
    assert sizes == [(0, 5, 5), (2, 0, 7), (2, 0, 9), (2, 0, 11)]
    assert [step.is_decode for step in steps] == [False, True, True, True]


def test_nothing_recorded_is_nothing_read() -> None:
    with StepTimes() as times:
        assert times.read() == [] and idle_share(times.read()) == pytest.approx(0)
