"""The execution model: indices, parameters, shared memory, barriers, early exits, atomics, modules side by side."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.cpu_device.simt_support import Kernels, compile_source, image_of, kernels_of

BLOCKS = kernels_of("simt_blocks.cu")


@pytest.mark.parametrize("grid", [(1, 1, 1), (5, 1, 1), (3, 4, 2)])
@pytest.mark.parametrize("block", [(1, 1, 1), (33, 1, 1), (8, 3, 5), (16, 8, 8)])
def test_every_thread_runs_once_and_knows_its_place(grid: tuple[int, int, int], block: tuple[int, int, int]) -> None:
    blocks, threads = int(np.prod(grid)), int(np.prod(block))
    out = np.full((blocks, threads), -1, np.int32)
    assert BLOCKS.launch("write_indices", block, out, grid=grid) is None
    np.testing.assert_array_equal(out, np.arange(blocks)[:, None] * 10000 + np.arange(threads))


@pytest.mark.parametrize(
    ("grid", "block"), [((1, 1, 1), (1025, 1, 1)), ((1, 1, 1), (32, 0, 1)), ((4, 0, 1), (32, 1, 1))]
)
def test_a_shape_that_no_device_has_is_refused(grid: tuple[int, int, int], block: tuple[int, int, int]) -> None:
    report = BLOCKS.launch("read_calls", block, np.zeros(1, np.int32), grid=grid)
    assert report is not None and report.kind == "invalid launch"


def test_parameters_have_the_layout_of_cuda() -> None:
    kernel = BLOCKS.module.kernels["take_parameters"]
    # char at 0; pointer at 8; short at 16; {double, char} of size 16 at 24; float at 40; pointer at 48
    assert kernel.params == [(0, 1), (8, 8), (16, 2), (24, 16), (40, 4), (48, 8)]
    assert kernel.max_threads == 128
    assert BLOCKS.module.kernels["write_indices"].max_threads == 1024


def test_parameters_arrive() -> None:
    class Pair(ctypes.Structure):
        _fields_ = (("wide", ctypes.c_double), ("narrow", ctypes.c_char))

    out = np.zeros(1, np.int32)
    values = (ctypes.c_char(1), np.array([20.0], np.float32), ctypes.c_short(300), Pair(4000.0, 5), 60000.0, out)
    assert BLOCKS.launch("take_parameters", 32, *values) is None
    assert out[0] == 64326


@pytest.mark.parametrize("threads", [1, 31, 32, 33, 128, 1000, 1024])
def test_static_shared_memory_and_barrier(threads: int) -> None:
    values = np.random.default_rng(0).integers(0, 1000, threads, np.int32)
    out = np.zeros_like(values)
    assert BLOCKS.launch("reverse", threads, out, values) is None
    np.testing.assert_array_equal(out, values[::-1])


@pytest.mark.parametrize("offset", [0, 4, 4096])
def test_dynamic_shared_memory(offset: int) -> None:
    values = np.arange(100, dtype=np.int32)
    out = np.zeros_like(values)
    assert BLOCKS.launch("reverse_dynamic", 100, out, values, offset, shared_bytes=offset + 400) is None
    np.testing.assert_array_equal(out, values[::-1])


def test_static_shared_bytes_are_known() -> None:
    # reverse, early_return and tree_sum have 4096 each, read_unwritten 256, poll 4; alignment may add a little
    assert 3 * 4096 + 260 <= BLOCKS.module.kernels["reverse"].static_shared_bytes <= 3 * 4096 + 260 + 64


def test_shared_memory_is_poisoned_before_every_block() -> None:
    found = np.zeros((2, 20 * 64), np.uint32)
    assert BLOCKS.launch("read_unwritten", 64, found[0], found[1], grid=20, shared_bytes=256) is None
    np.testing.assert_array_equal(found, 0xFFFFFFFF)


@pytest.mark.parametrize("first_gone", [1, 40, 64, 129])
def test_threads_that_returned_do_not_hold_up_a_barrier(first_gone: int) -> None:
    out = np.full(160, -1, np.int32)
    assert BLOCKS.launch("early_return", 160, out, first_gone) is None
    np.testing.assert_array_equal(out[:first_gone], np.arange(first_gone)[::-1])
    np.testing.assert_array_equal(out[first_gone:], -1)


def test_many_barriers_in_a_block_of_1024_threads() -> None:
    values = np.random.default_rng(1).integers(-1000, 1000, 1024, np.int32)
    out = np.zeros(1, np.int32)
    assert BLOCKS.launch("tree_sum", 1024, out, values) is None
    assert out[0] == values.sum()


@pytest.mark.parametrize("limit", [0, 7, 96])
def test_barriers_that_vote(limit: int) -> None:
    out = np.full(3, -1, np.int32)
    assert BLOCKS.launch("votes", 96, out, limit) is None
    assert out.tolist() == [limit, int(limit > 0), int(limit == 96)]


def test_atomics_count_over_all_blocks() -> None:
    total, float_total, maximum = np.zeros(1, np.int32), np.zeros(1, np.float32), np.zeros(1, np.uint64)
    assert BLOCKS.launch("count_threads", 96, total, float_total, maximum, grid=200) is None
    assert (total[0], float_total[0], maximum[0]) == (19200, 19200.0, 19199)
    calls = np.zeros(1, np.int32)
    assert BLOCKS.launch("read_calls", 1, calls) is None
    assert calls[0] == 19200 / 4 * (10 + 20 + 30 + 40)


def test_a_thread_that_polls_gives_way() -> None:
    out = np.zeros(200, np.int32)
    assert BLOCKS.launch("poll", 200, out) is None
    assert (out == 1).all()


def test_printf(capfd: pytest.CaptureFixture[str]) -> None:
    assert BLOCKS.launch("say", 4, 42, grid=2) is None
    assert sorted(capfd.readouterr().out.splitlines()) == ["block 0 says 42", "block 1 says 42"]


def test_code_behind_cuda_arch_is_kept() -> None:
    out = np.zeros(1, np.int32)
    assert BLOCKS.launch("chosen_path", 1, out) is None
    assert out[0] == 800


TWIN = """
__device__ int state = {start};
extern "C" __global__ void step(int* out) {{
  __shared__ int tile[32];
  tile[threadIdx.x] = {step};
  __syncthreads();
  if (threadIdx.x == 0) state += tile[31];
  __syncthreads();
  out[threadIdx.x] = state;
}}
"""


def test_modules_side_by_side_share_nothing() -> None:
    images = [compile_source(TWIN.format(start=start, step=step))[1] for start, step in ((100, 1), (200, 2))]
    modules = [Kernels(lambda image=image: image) for image in images]
    out = np.zeros(32, np.int32)
    for expected in ((101, 202), (102, 204)):
        for kernels, value in zip(modules, expected, strict=True):
            assert kernels.launch("step", 32, out) is None
            assert (out == value).all()


def test_a_module_can_be_closed_and_loaded_again() -> None:
    values, out = np.arange(64, dtype=np.int32), np.zeros(64, np.int32)
    for _ in range(3):
        kernels = Kernels(lambda: image_of("simt_blocks.cu"))
        assert kernels.launch("reverse", 64, out, values) is None
        np.testing.assert_array_equal(out, values[::-1])
        kernels.module.close()
        assert kernels.module.kernels == {}


def test_several_python_threads_may_launch_at_once() -> None:
    values = np.arange(256, dtype=np.int32)

    def reverse_many(_: int) -> bool:
        out = np.zeros_like(values)
        return all(
            BLOCKS.launch("reverse", 256, out, values) is None and (out == values[::-1]).all() for _ in range(50)
        )

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(reverse_many, range(4)))


def test_a_forked_child_has_a_device_that_works() -> None:
    out = np.zeros((64, 100), np.int32)
    assert BLOCKS.launch("write_indices", 100, out, grid=64) is None  # the pool has its threads
    child = os.fork()
    if child == 0:
        failed = BLOCKS.launch("write_indices", 100, out, grid=64) is not None
        os._exit(1 if failed else 0)
    assert os.waitpid(child, 0)[1] == 0
