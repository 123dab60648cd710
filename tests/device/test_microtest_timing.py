"""What a time of tools.microtest is taken of: inputs that no cache holds, and that are the same at every launch."""

from __future__ import annotations

import numpy as np
import pytest

from bindings.device import Device
from engine import ops
from tools.microtest import timing
from tools.microtest.shapes import workloads
from tools.microtest.timing import Copies, Launches, time_kernel


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few samples, and short ones: what they say is no matter here."""
    monkeypatch.setattr(timing, "SAMPLES", dict.fromkeys(timing.SAMPLES, 3))
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", dict.fromkeys(timing.SAMPLE_SECONDS, 1e-6))


def with_cache(device: Device, monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
    """`device` says that its cache has so many bytes."""
    usual = device.attribute
    monkeypatch.setattr(device, "attribute", lambda name: nbytes if name == "L2_CACHE_SIZE" else usual(name))


def test_copies_are_several_times_the_cache(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    with_cache(device, monkeypatch, 1 << 16)
    (workload,) = workloads(ops.RMSNORM, device.kind, {"T": 4, "H": 576})
    moved = 2 * 576 * (2 * 4 + 1)
    with Copies(device, ops.RMSNORM, workload) as copies, Launches(copies, ops.RMSNORM) as launches:
        assert len(copies) == -(-4 * (1 << 16) // moved) and launches.count == len(copies)
        assert len({tensor.address for copy in copies.tensors for tensor in copy.values()}) == 3 * len(copies)
        found = copies.timing([launches.sample()])
    assert found.cold and found.copies * found.copy_bytes >= 4 << 16


def test_inputs_that_all_fit_into_the_cache_are_told(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    with_cache(device, monkeypatch, 1 << 30)
    monkeypatch.setattr(timing, "MOST_COPIES", 4)
    (workload,) = workloads(ops.FEED_TOKENS, device.kind, {"T": 4})
    found = time_kernel(device, ops.FEED_TOKENS, workload)
    assert (found.copies, found.cold, len(found.samples)) == (4, False, 3)


def test_a_large_table_is_shared_and_read_at_other_places(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    with_cache(device, monkeypatch, 1 << 14)
    (workload,) = workloads(ops.EMBEDDING, device.kind, {"T": 8, "H": 64, "V": 4096})
    with Copies(device, ops.EMBEDDING, workload) as copies:
        assert len(copies) > 1
        assert len({copy["table"].address for copy in copies.tensors}) == 1
        assert len({tuple(copy["token_ids"].numpy().tolist()) for copy in copies.tensors}) == len(copies)


def test_a_sample_begins_with_the_first_values(device: Device) -> None:
    """Or a second launch on truncated logits would have less to do."""
    op = ops.TRUNCATE_LOGITS
    (workload,) = workloads(op, device.kind, {"S": 2, "V": 1000})
    with Copies(device, op, workload) as copies, Launches(copies, op) as launches:
        logits = copies.tensors[0]["logits"]
        logits.upload(np.zeros((2, 1000), np.float32))  # of equal logits none is cut off
        launches.sample()
        assert np.isneginf(logits.numpy()).any()
        assert launches.count == len(copies)  # each is launched on once a sample


def test_nothing_is_left_on_the_device(device: Device) -> None:
    before = set(device._buffers)
    (workload,) = workloads(ops.ADD_RMSNORM, device.kind, {"T": 2, "H": 64})
    time_kernel(device, ops.ADD_RMSNORM, workload)
    assert set(device._buffers) == before
