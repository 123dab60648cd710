"""What a step tells the device, where steps look alike and are not."""

from __future__ import annotations

import numpy as np
import pytest

from bindings.device import Device
from engine.kv_cache import KVCache
from engine.request import Request
from engine.sampler import FOR_KERNELS
from engine.sampling_params import SamplingParams
from engine.scheduler import Batch, Piece
from engine.step import StepBuffers
from tests.pure.test_scheduler import answer

BY_ROW = {name: np.zeros(2, dtype.carrier) for name, dtype in FOR_KERNELS.items()}


@pytest.fixture
def buffers(device: Device) -> StepBuffers:
    return StepBuffers(device, max_tokens=8, max_seqs=2, max_len=32, page_size=4)


def request(index: int) -> Request:
    ids, params = [index] * 3, SamplingParams(max_tokens=4)
    return Request(index, ids, params, answer(index, ids, params))


def test_a_request_that_joins_again_has_another_row(buffers: StepBuffers, device: Device) -> None:
    """Its step looks like the one before it: the same request, alone, and a token further on."""
    cache, item, other = KVCache(8, 4, 2, 8), request(0), request(1)
    cache.open(item)
    cache.grow(item, 4)
    buffers.fill(Batch(decodes=[item], positions=[2], joined=[item]), cache, BY_ROW, num_decodes=1)
    cache.release(item)
    for each in (other, item):
        cache.open(each)
        cache.grow(each, 4)
    step = buffers.fill(Batch(decodes=[item], positions=[2], joined=[item]), cache, BY_ROW, num_decodes=1)
    assert step.rows.tolist() == [item.row] != [other.row]
    buffers.upload(step, device.stream)
    assert step.slot_mapping.numpy().tolist() == cache.slots(item, 2, 3).tolist()


def test_a_prompts_last_token_is_fed_from_the_prompt(buffers: StepBuffers, device: Device) -> None:
    """The step before ran the prompt up to it, and what it chose there is nobody's."""
    cache, decoding, prefilling = KVCache(8, 4, 2, 8), request(0), request(1)
    for each in (decoding, prefilling):
        cache.open(each)
        cache.grow(each, 4)
    prefix = Piece(prefilling, 0, 2, samples=False)
    buffers.fill(Batch([decoding], [2], [prefix], joined=[decoding, prefilling]), cache, BY_ROW, num_decodes=1)
    step = buffers.fill(Batch([decoding, prefilling], [3, 2]), cache, BY_ROW, num_decodes=2)
    buffers.upload(step, device.stream)
    assert step.token_ids.numpy().tolist() == [-1, prefilling.token_ids[2]], (
        "row 0 of the step before, and a known token"
    )
