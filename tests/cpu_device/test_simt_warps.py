"""Warp collectives against NumPy, partial warps and masks, and the misuse that a GPU leaves undefined."""

from __future__ import annotations

import numpy as np
import pytest

from bindings.cpu import executor
from tests.cpu_device.simt_support import ALL_ORDERS, KERNELS, kernels_of

FILE = KERNELS / "simt_warps.cu"
WARPS = kernels_of("simt_warps.cu")
LANES = np.arange(32)

SHUFFLE_TYPES = {
    "shuffle_int": np.int32,
    "shuffle_float": np.float32,
    "shuffle_double": np.float64,
    "shuffle_u64": np.uint64,
    "shuffle_bf162": np.uint32,
}


def shuffle_sources(argument: int, width: int) -> np.ndarray:
    """[4, 32] source lanes of __shfl, _up, _down and _xor, as the CUDA programming guide defines them."""
    start = LANES // width * width
    up, down, xor = LANES - argument, LANES + argument, LANES ^ argument
    return np.stack(
        [
            start + argument % width,
            np.where(up < start, LANES, up),
            np.where(down >= start + width, LANES, down),
            np.where(xor >= start + width, LANES, xor),
        ]
    )


@pytest.mark.parametrize("name", SHUFFLE_TYPES)
@pytest.mark.parametrize(("argument", "width"), [(1, 32), (5, 32), (16, 32), (3, 8), (4, 8), (9, 4), (0, 1)])
def test_shuffles(name: str, argument: int, width: int) -> None:
    dtype = SHUFFLE_TYPES[name]
    values = (np.random.default_rng(argument).integers(1, 2**31 - 1, 32) * 3 // 2 % 2**31).astype(dtype)
    out = np.zeros((4, 32), dtype)
    assert WARPS.launch(name, 32, out, values, argument, width) is None
    np.testing.assert_array_equal(out, values[shuffle_sources(argument, width)])


def test_votes_matches_and_reductions() -> None:
    values = np.random.default_rng(0).integers(0, 100, 32, np.int32)
    out = np.zeros((32, 8), np.uint32)
    assert WARPS.launch("votes", 32, out, values) is None

    def mask(lanes: np.ndarray) -> int:
        return int((1 << LANES[lanes]).sum())

    for lane in LANES:
        expected = [
            mask(values % 2 == 1),
            int((values > 90).any()),
            1,
            mask(values % 3 == values[lane] % 3),
            values.sum(),
            int((values - 50).min()) & 0xFFFFFFFF,
            values.max(),
            np.bitwise_xor.reduce(values),
        ]
        assert out[lane].tolist() == expected


@pytest.mark.parametrize(("order", "seed"), ALL_ORDERS)
def test_parts_of_a_warp_meet_by_their_mask(order: str, seed: int) -> None:
    executor.set_schedule(order, seed)
    out = np.zeros(32, np.int32)
    assert WARPS.launch("halves", 32, out) is None
    assert out.tolist() == [sum(range(16))] * 16 + [sum(range(16, 32))] * 16


@pytest.mark.parametrize("first_gone", [1, 9, 31])
def test_lanes_that_returned_are_not_waited_for(first_gone: int) -> None:
    out = np.zeros(64, np.int32)
    assert WARPS.launch("after_early_return", 32, out, first_gone) is None
    np.testing.assert_array_equal(out[:first_gone], (first_gone - 1) * 10)
    np.testing.assert_array_equal(out[32 : 32 + first_gone], (1 << first_gone) - 1)


def test_a_last_warp_that_is_not_full_works_with_the_full_mask() -> None:
    out = np.zeros(64, np.int32)
    assert WARPS.launch("after_early_return", 7, out, 7) is None
    assert (out[:7] == 60).all()


@pytest.mark.parametrize(("order", "seed"), ALL_ORDERS)
def test_syncwarp_may_be_met_from_two_places(order: str, seed: int) -> None:
    executor.set_schedule(order, seed)
    out = np.zeros(32, np.int32)
    assert WARPS.launch("syncwarp_on_two_paths", 32, out) is None
    np.testing.assert_array_equal(out, LANES[::-1])


def line_of(text: str) -> str:
    """`file:line` of the only line of simt_warps.cu that contains `text`."""
    (line,) = [number for number, content in enumerate(FILE.read_text().splitlines(), 1) if text in content]
    return f"{FILE}:{line}"


def report_of(name: str) -> executor.Report:
    """What one warp of the kernel `name` is reported for."""
    report = WARPS.launch(name, 32, np.zeros(32, np.int32))
    assert report is not None
    assert (report.kernel, report.block) == (name, (0, 0, 0))
    return report


@pytest.mark.parametrize(("order", "seed"), ALL_ORDERS)
def test_reading_a_lane_that_takes_no_part_is_reported(order: str, seed: int) -> None:
    executor.set_schedule(order, seed)
    report = report_of("absent_source")
    assert report.kind == "shuffle from absent lane" and report.location == line_of("lane, 20)")
    assert report.thread is not None and report.thread[0] < 16
    assert f"lane {report.thread[0]} reads lane 20, which takes no part in the shuffle" in report.text


@pytest.mark.parametrize(("order", "seed"), ALL_ORDERS)
def test_a_caller_outside_its_own_mask_is_reported(order: str, seed: int) -> None:
    executor.set_schedule(order, seed)
    report = report_of("caller_not_in_mask")
    assert report.kind == "lane not in mask" and report.location == line_of("void caller_not_in_mask")
    assert report.thread is not None and report.thread[0] >= 16
    assert f"lane {report.thread[0]} calls __ballot_sync with mask 0x0000ffff" in report.text


def test_lanes_that_never_meet_are_a_deadlock() -> None:
    report = report_of("never_meet")
    places = line_of("__shfl_sync(kFullWarp, lane, 0)"), line_of("__ballot_sync(kFullWarp, 1)")
    assert (report.kind, report.thread) == ("deadlock", None) and report.location in places
    assert f"threads 0-15 wait in __shfl_sync (mask 0xffffffff) at {places[0]}" in report.text
    assert f"threads 16-31 wait in __ballot_sync (mask 0xffffffff) at {places[1]}" in report.text
