"""Every operation on every case of its reference, and what must hold of any kernel."""

from __future__ import annotations

import numpy as np
import pytest

from bindings.device import Device
from engine import lab_ops, ops
from engine.spec import Launch, Op
from tests.statistics import assert_chi_square
from tools.microtest.catalogue import BEYOND, cases_for
from tools.microtest.comparator import assert_same_bits
from tools.microtest.harness import Case, cases_of, check, run
from tools.microtest.reference import prefill_attention
from tools.microtest.reference.paged_attention import Batch, random_batch
from tools.microtest.schedules import schedules

# Three warps: the second level of a block's reduction is no power of two there.
THREE_WARPS = [
    op.variant(name=f"{op.name}_three_warps", constants=constants, launch=lambda s: Launch((s.T,), 96))
    for op, constants in (
        (ops.RMSNORM, {"BLOCK_THREADS": 96, "VECTORS_PER_THREAD": "-(-H//768)"}),
        (ops.ADD_RMSNORM, {"BLOCK_THREADS": 96, "VECTORS_PER_THREAD": "-(-H//768)"}),
        (lab_ops.ALL["softmax_v2_safe"], {"BLOCK_THREADS": 96}),
    )
]
# One block goes over the whole tensor, turn after turn: the values must be those of any other grid.
ONE_BLOCK = ops.RANDOM_NORMAL.variant(name="random_normal_one_block", launch=lambda s: Launch((1,), 256))
OPERATIONS = [*ops.ALL.values(), *lab_ops.ALL.values(), *THREE_WARPS, ONE_BLOCK]


every_case = pytest.mark.parametrize(
    ("op", "case"),
    [pytest.param(op, case, id=f"{op.name}-{case.name}") for op in OPERATIONS for case in cases_for(op)],
)
every_op = pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)


@every_case
def test_matches_the_reference_and_stays_inside(device: Device, op: Op, case: Case) -> None:
    problem = case.problem()
    check(op, problem, run(op, problem, device, guarded=True))


@every_case
@pytest.mark.cpu_device_only
@pytest.mark.usefixtures("any_schedule")
def test_order_of_threads_changes_no_bit(device: Device, op: Op, case: Case, schedule_seeds: range) -> None:
    from bindings.cpu import driver

    problem, first = case.problem(), None
    for schedule, seed in schedules(schedule_seeds):
        driver.set_schedule(schedule, seed)
        output = run(op, problem, device)
        first = first or output
        for name, carrier in output.items():
            assert_same_bits(carrier, first[name], f"{op.name}: {name} under the schedule {schedule}:{seed}")
    check(op, problem, first)


TILED = (ops.PREFILL_ATTENTION, ops.DECODE_ATTENTION, ops.COMBINE_SPLITS)
LARGE_HEADS = [
    pytest.param(op, case, id=f"{op.name}-{case.name}") for op in TILED for case in cases_of(op) if "D128" in case.name
]


@pytest.mark.parametrize(("op", "case"), LARGE_HEADS)
def test_tiles_shrink_where_a_block_has_little_shared_memory(
    device: Device, op: Op, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    turing = 64 << 10
    constants = op.defines({"D": 128, "B": 16, "NH": 8, "NKV": 1}, turing)
    assert constants.get("KEY_TILE", 32) == 32 and constants.get("TILE_TOKENS", 64) == 64
    monkeypatch.setattr(device, "max_dynamic_smem", turing)
    problem = case.problem()
    check(op, problem, run(op, problem, device, guarded=True))


@pytest.mark.parametrize("head_dim", [64, 128])
def test_a_query_of_an_empty_sequence_attends_to_nothing_and_gives_zeros(device: Device, head_dim: int) -> None:
    """What a batch is padded with, between two sequences that must not notice."""
    batch = random_batch(np.random.default_rng(0), [(1, 70), (1, -1), (3, 2)], (head_dim, 2, 1))
    keys, queries = batch.keys, batch.queries
    real = Batch([queries[0], queries[2]], [keys[0], keys[2]], [batch.values[0], batch.values[2]])
    expected, bound = (np.insert(rows, 1, 0, axis=0) for rows in prefill_attention.reference(real))
    given = prefill_attention.problem(np.random.default_rng(1), batch, expected, bound)
    check(ops.PREFILL_ATTENTION, given, run(ops.PREFILL_ATTENTION, given, device, guarded=True))


@every_op
def test_a_second_run_gives_the_same_bits(device: Device, op: Op) -> None:
    problem = cases_of(op)[2].problem()
    first, second = (run(op, problem, device) for _ in range(2))
    for name, carrier in first.items():
        assert_same_bits(second[name], carrier, f"{op.name}: {name}")


@every_op
def test_has_several_cases(op: Op) -> None:
    names = [case.name for case in cases_of(op)]
    assert len(names) == len(set(names)) >= 3


@pytest.mark.parametrize("name", [name for _, name in sorted(BEYOND)])
def test_naive_softmax_overflows(device: Device, name: str) -> None:
    """Why a softmax subtracts the maximum: infinity / infinity is NaN, and so is 0 / 0."""
    op = lab_ops.ALL["softmax_v1_naive"]
    case = next(case for case in cases_of(op) if case.name == name)
    assert np.isnan(run(op, case.problem(), device)["out"]).any()


def test_sampled_tokens_follow_softmax(device: Device) -> None:
    rows, vocab, temperature = 1500, 23, 0.8
    logits = np.random.default_rng(5).uniform(-1.0, 1.0, vocab).astype(np.float32)
    inputs = {
        "token_ids": device.empty((rows,), ops.I32, "token_ids"),
        "logits": device.upload(np.tile(logits, (rows, 1)), ops.F32, "logits"),
        "temperature": device.upload(np.full(rows, temperature, np.float32), ops.F32, "temperature"),
        "seeds": device.upload(np.full(rows, 1234, np.uint64), ops.U64, "seeds"),
        "positions": device.upload(np.arange(rows, dtype=np.int32), ops.I32, "positions"),
    }
    ops.GUMBEL_SAMPLE(device.stream, **inputs)
    tokens = inputs["token_ids"].numpy()
    for tensor in inputs.values():
        tensor.free()
    assert_chi_square(tokens, logits, temperature)
