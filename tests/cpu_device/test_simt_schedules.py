"""Orders of execution as a race detector: a right kernel gives the same bits in all, a wrong one is found by some."""

from __future__ import annotations

import numpy as np
import pytest

from bindings.cpu import executor
from bindings.errors import CutawayError
from tests.cpu_device.simt_support import ALL_ORDERS, kernels_of

RACES = kernels_of("simt_races.cu")


def run(name: str, order: str, seed: int, blocks: int = 1, threads: int = 128) -> np.ndarray:
    values = np.random.default_rng(3).standard_normal(blocks * threads).astype(np.float32)
    out = np.zeros_like(values)
    executor.set_schedule(order, seed)
    assert RACES.launch(name, threads, out, values, grid=blocks) is None
    return out


def finds(name: str, orders: list[tuple[str, int]], threads: int, right: np.ndarray) -> set[str]:
    """The orders in which the kernel's output is not, bit by bit, the right one."""
    return {order for order, seed in orders if run(name, order, seed, threads=threads).tobytes() != right.tobytes()}


def test_a_right_kernel_gives_the_same_bits_in_every_order() -> None:
    expected = run("two_sums", "ascending", 0, blocks=5)
    assert np.isfinite(expected).all()
    for order, seed in ALL_ORDERS:
        assert run("two_sums", order, seed, blocks=5).tobytes() == expected.tobytes(), (order, seed)


def test_a_buffer_that_is_reused_too_early_is_found() -> None:
    right = run("two_sums", "ascending", 0)
    assert "greedy" in finds("two_sums_one_scratch", ALL_ORDERS, 128, right)


def test_a_missing_barrier_is_hidden_by_one_order_and_found_by_others() -> None:
    values = np.random.default_rng(3).standard_normal(128).astype(np.float32)
    right = np.concatenate([np.zeros(1, np.float32), values[:-1]])
    assert finds("shift_without_barrier", ALL_ORDERS, 128, right) == {"descending", "shuffled", "greedy"}


def test_a_missing_syncwarp_is_found() -> None:
    values = np.random.default_rng(3).standard_normal(32).astype(np.float32)
    right = values[np.arange(32) ^ 1]
    assert finds("swap_without_syncwarp", ALL_ORDERS, 32, right) == set(executor.ORDERS)


def test_blocks_take_turns_in_another_order_too() -> None:
    for order, seed in ALL_ORDERS:
        executor.set_schedule(order, seed)
        values = np.arange(1, 51, dtype=np.float32)
        out, partial, arrived = np.zeros(1, np.float32), np.zeros(50, np.float32), np.zeros(1, np.uint32)
        assert RACES.launch("last_block_sums", 32, out, partial, arrived, values, grid=50) is None
        assert out[0] == 50 * 51 / 2


def test_a_seed_fixes_the_order() -> None:
    outcomes = {seed: run("two_sums_one_scratch", "greedy", seed).tobytes() for seed in range(8)}
    assert len(set(outcomes.values())) > 1
    assert all(run("two_sums_one_scratch", "greedy", seed).tobytes() == out for seed, out in outcomes.items())


@pytest.mark.parametrize(("order", "seed"), [("random", 0), ("", 0), ("greedy", -1), ("greedy", 2**64)])
def test_a_schedule_that_does_not_exist_is_refused(order: str, seed: int) -> None:
    with pytest.raises(CutawayError):
        executor.set_schedule(order, seed)
