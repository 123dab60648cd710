"""tools.bisect: sides that compute the same agree, and a fault is named where it is made."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from bindings import kernel
from bindings.cublas import Blas
from bindings.device import Device
from bindings.dtypes import BF16, F32, float32_to_bf16
from bindings.nvrtc import KERNEL_SOURCES
from bindings.tensor import Tensor
from bindings.trace import recorder
from tests.threaded_engine import Played, ThreadedEngine, operations_of, threaded_engine
from tests.tiny_llama import MODELS
from tests.tool_runs import interruptible
from tools.bisect import worker
from tools.bisect.lockstep import LeadingEngine, Lockstep, Outcome
from tools.bisect.messages import Job, Operation, Proceed
from tools.bisect.operands import Slots
from tools.bisect.recording import Recording
from tools.bisect.verdict import Parting, parting
from tools.bisect.workers import SideError, Workers
from tools.progress import Progress

TINY = MODELS["gqa4-d128-llama3"]
RECORDED = Path(__file__).parents[1] / "fixtures" / "tiny_llama_activations.npz"
MAX_TOKENS = 2


@dataclass(frozen=True)
class Fault:
    """`old` becomes `new` in a copy of `source`; expected: where the sides part then, and which output is off."""

    source: str
    old: str
    new: str
    place: str
    op: str
    output: str


FAULTS = {
    "page-stride": Fault(
        "rope_kv_write.cu",
        "(page_head * PAGE_SIZE + slot % PAGE_SIZE)",
        "(page_head * num_kv_heads + slot % PAGE_SIZE)",
        "step 1 / prefill / layer 0 / attention",
        "rope_kv_write",
        "k_cache or v_cache",  # several tokens write to one place: on a GPU another one is last each time
    ),
    "rope-pairing": Fault(
        "rope_kv_write.cu",
        "Packed<bf16> high = load16(source + kHalf + pair);",
        "Packed<bf16> high = load16(source + kHalf + (pair + 8) % kHalf);",
        "step 1 / prefill / layer 0 / attention",
        "rope_kv_write",
        "v_cache",
    ),
    "mask-off-by-one": Fault(
        "prefill_attention.cu",
        "if (key > query)",
        "if (key > query + 1)",
        "step 1 / prefill / layer 0 / attention",
        "prefill_attention",
        "out",
    ),
    "last-key-forgotten": Fault(
        "decode_attention.cu",
        "min(split_start + SPLIT_TOKENS, seq_lens[sequence])",
        "min(split_start + SPLIT_TOKENS, seq_lens[sequence] - 1)",
        "step 2 / decode / layer 0 / attention",
        "decode_attention",
        "partial_out",
    ),
    "mean-over-too-few": Fault(
        "rmsnorm.cu",
        "/ static_cast<float>(hidden) + eps",
        "/ static_cast<float>(hidden - 2) + eps",
        "step 1 / prefill / layer 0 / attention",
        "rmsnorm",
        "out",
    ),
    "residual-not-kept": Fault(
        "rmsnorm.cu",
        "  store_row(residual + row, part, hidden);\n",
        "",
        "step 1 / prefill / layer 0 / mlp",
        "add_rmsnorm",
        "residual",
    ),
    "row-stride": Fault(
        "silu_mul.cu",
        "gate_up + token * 2 * width",
        "gate_up + token * (2 * width - 8)",
        "step 1 / prefill / layer 0 / mlp",
        "silu_mul",
        "out",
    ),
}
MISSING_BARRIER = Fault(
    "decode_attention.cu",
    "    __syncthreads();     // the keys have arrived\n",
    "",
    "step 2 / decode / layer 0 / attention",
    "decode_attention",
    "partial_out",
)


def broken(fault: Fault, folder: Path) -> Path:
    """A copy of cuda_src with the fault in it."""
    shutil.copytree(KERNEL_SOURCES, folder / "kernels")
    path = folder / "kernels" / fault.source
    text = path.read_text()
    assert text.count(fault.old) == 1, f"{fault.source} has changed: mend this fault"
    path.write_text(text.replace(fault.old, fault.new))
    return folder / "kernels"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY.write(tmp_path_factory.mktemp("bisect") / "model")


@pytest.fixture(scope="module")
def job(model: Path, device: Device) -> Job:
    engine = {"model": str(model), "device": device.kind, "max_num_seqs": 2, "enforce_eager": True}
    engine |= {"enable_prefix_caching": False, "async_scheduling": False}
    return Job(engine, [TINY.prompt(9), TINY.prompt(21)], MAX_TOKENS)


@pytest.fixture(scope="module")
def right(job: Job) -> list[Operation]:
    """What an engine computes with the kernels as they are."""
    return operations_of(job)


def compared(right: list[Operation], engine: ThreadedEngine) -> Outcome:
    """The outcome of an engine against these operations."""
    lockstep = Lockstep(Played(right), engine)
    for _ in lockstep.pairs():
        pass
    return lockstep.outcome


def found(right: list[Operation], job: Job, monkeypatch: pytest.MonkeyPatch, kernels: Path) -> Parting:
    """Where an engine with these kernels parts."""
    monkeypatch.setattr(kernel, "_sources", kernels)
    with threaded_engine(job) as engine:
        parted = parting(compared(right, engine))
    assert parted is not None, "the fault was not found"
    return parted


def assert_named(parted: Parting, fault: Fault) -> None:
    operation = parted.operation
    assert (operation.label, operation.op) == (fault.place, fault.op) and parted.output in fault.output.split(" or ")
    assert operation.source == fault.source and operation.site.startswith("engine/models/llama.py:")
    assert parted.culprit == "b" and parted.exact is not None
    assert abs(parted.a - parted.exact) <= parted.tolerance + 2.0**-8 * abs(parted.exact)


def test_an_engine_agrees_with_itself_bit_for_bit(right: list[Operation], job: Job) -> None:
    with threaded_engine(job) as engine:
        lockstep = Lockstep(Played(right), engine)
        pairs = list(lockstep.pairs())
    assert lockstep.outcome.parted is None and lockstep.outcome.ties == []
    assert len(pairs) == len(right)
    attends = [pair.b.op for pair in pairs if pair.b.op in ("prefill_attention", "decode_attention")]
    assert attends == ["prefill_attention"] * 2 + ["decode_attention"] * 2 * (MAX_TOKENS - 1), "each layer of each step"
    assert {c.differing for pair in pairs for c in pair.comparisons.values()} == {0}
    outputs = {(pair.b.op, name) for pair in pairs for name in pair.comparisons}
    assert {("rope_kv_write", "k_cache"), ("add_rmsnorm", "residual"), ("decode_attention", "partial_lse")} <= outputs


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_kernel_is_named(
    right: list[Operation], job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    assert_named(found(right, job, monkeypatch, broken(FAULTS[name], tmp_path)), FAULTS[name])


@pytest.mark.cpu_device_only  # a GPU may happen to run the warps in an order that hides it
def test_a_missing_barrier_is_named(
    right: list[Operation], job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert_named(found(right, job, monkeypatch, broken(MISSING_BARRIER, tmp_path)), MISSING_BARRIER)


def test_a_fault_of_one_layer_is_named_with_its_layer(job: Job, tmp_path: Path) -> None:
    """A row of one weight of layer 1 is too large: one column of that product is wrong, and nothing before it."""
    name, weights = "model.layers.1.mlp.down_proj.weight", dict(TINY.weights)
    weights[name] = weights[name].copy()
    weights[name][5] *= 1.25
    other = replace(TINY)
    vars(other)["weights"] = weights  # where cached_property keeps them
    faulty = replace(job, engine={**job.engine, "model": str(other.write(tmp_path / "model"))})
    with Workers([("side a", job), ("side b", faulty)], Progress(quiet=True)) as (leader, engine):
        lockstep = Lockstep(LeadingEngine(leader), engine)
        pairs = list(lockstep.pairs())
    parted = parting(lockstep.outcome)
    assert parted is not None and all(pair.agrees for pair in pairs[:-1])
    assert (parted.operation.label, parted.operation.op) == ("step 1 / prefill / layer 1 / mlp", "gemm")
    assert parted.tensor == "update" and parted.index.endswith(", 5]") and parted.wrong <= 30
    assert parted.culprit == "inputs", "both multiply rightly, by different weights"


def test_recorded_activations_agree(job: Job) -> None:
    outcome, pairs = against_recording(job)
    assert outcome.parted is None and outcome.ties == []
    recorded = {pair.a.outputs[name].tensor for pair in pairs for name in pair.comparisons}
    layers = {f"layers.{i}.{name}" for i in (0, 1) for name in ("input_norm", "attention", "mlp", "residual")}
    assert recorded == {"embedding", "final_norm", "logits"} | layers
    assert 0 < max(c.share for pair in pairs for c in pair.comparisons.values()) < 1


@pytest.mark.parametrize("name", ["rope-pairing", "last-key-forgotten", "residual-not-kept"])
def test_a_broken_kernel_parts_from_a_recording(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    fault = FAULTS[name]
    monkeypatch.setattr(kernel, "_sources", broken(fault, tmp_path))
    parted = parting(against_recording(job)[0])
    assert parted is not None and fault.op in [suspect.op for suspect in parted.suspects]
    if name == "residual-not-kept":  # the residual is recorded once a layer, where the next one begins
        assert parted.recorded == "layers.0.residual"
    else:
        assert (parted.operation.label, parted.recorded) == (fault.place, "layers.0.attention")


def against_recording(job: Job) -> tuple[Outcome, list]:
    recording = Recording(RECORDED)
    prompts = [recording.token_ids[: recording.prompt_tokens]]
    with threaded_engine(replace(job, prompts=prompts, max_tokens=recording.steps, noise=True)) as engine:
        lockstep = Lockstep(recording, engine)
        pairs = list(lockstep.pairs())
    return lockstep.outcome, pairs


class Scripted:
    """A connection to nobody: keeps what is sent, and answers Proceed."""

    def __init__(self) -> None:
        self.sent: list[Operation] = []

    def send(self, message: Operation) -> None:
        self.sent.append(message)

    def recv(self) -> Proceed:
        return Proceed({"out": np.zeros_like(self.sent[-1].outputs["out"].values)})


def test_a_product_in_blocks_of_rows_is_one_operation(device: Device) -> None:
    random = np.random.default_rng(0)
    x, w = (random.standard_normal(shape).astype(np.float32) for shape in ((8, 16), (24, 16)))
    tensors = [device.upload(values, BF16, name) for name, values in (("x", x), ("w", w))]
    out, blas, connection = device.empty((8, 24), F32, "out"), Blas(device, device.stream, block_rows=4), Scripted()
    lockstep = worker.Lockstep(connection)  # type: ignore[arg-type]
    with recorder.listening(lockstep):
        blas.linear(out[0:7], tensors[0][0:7], tensors[1])
        lockstep.finish()
    (operation,) = connection.sent
    assert operation.outputs["out"].values.shape == (8, 24)
    assert (out.numpy() == 0).all()  # what came back lies in every block's place
    blas.close()
    for tensor in (*tensors, out):
        tensor.free()


@pytest.mark.parametrize("terms", [64, 1024])
def test_the_bound_of_a_product_holds_and_is_sharp(device: Device, terms: int) -> None:
    """Any order of summation is within it, and a product without its last term is not."""
    random = np.random.default_rng(terms)
    shapes = (7, terms), (33, terms)
    x, w = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    x, w = ((float32_to_bf16(values).astype(np.uint32) << 16).view(np.float32) for values in (x, w))
    tensors = [device.upload(values, BF16, "operand") for values in (x, w)]
    out, blas, connection = device.empty((7, 33), F32, "out"), Blas(device, device.stream), Scripted()
    lockstep = worker.Lockstep(connection)  # type: ignore[arg-type]
    with recorder.listening(lockstep):
        blas.linear(out, *tensors)
        lockstep.finish()
    output = connection.sent[0].outputs["out"]
    assert output.lengths is not None
    where = np.nonzero(np.ones(output.values.shape))
    bound = (output.relative * np.abs(output.values[where])) + output.lengths.error * output.lengths.at(where)
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    for order in (np.arange(terms), np.argsort(x[0])):
        summed = np.cumsum(x[:, None, order] * w[None, :, order], axis=2, dtype=np.float32)[..., -1]
        assert (np.abs(summed[where] - exact[where]) <= bound).all()
    assert (np.abs(output.values[where] - exact[where]) <= bound).all()
    lacking = exact - np.outer(x[:, -1], w[:, -1])
    assert (np.abs(lacking[where] - exact[where]) > 2 * bound).mean() > 0.9
    blas.close()
    for tensor in (*tensors, out):
        tensor.free()


def run(repository: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.bisect", *map(str, options)]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=240)


def test_two_ways_agree_on_random_weights(repository: Path) -> None:
    result = run(
        repository, "--a", "textbook", "--b", "deterministic", "--random-weights", "toy", "--json", "--max-tokens", "2",
        "one", "another",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["agree"] is True and found["parted"] is None and found["ties"] == []
    operations = [row["op"] for row in found["rows"]]
    assert {"random_normal", "gemm", "prefill_attention", "argmax"} <= set(operations)
    assert "side b (deterministic): compile kernels" in result.stderr


def test_the_command_names_the_fault_and_exits_1(repository: Path, model: Path, tmp_path: Path) -> None:
    kernels = broken(FAULTS["row-stride"], tmp_path)
    sides = ("--a", "textbook", "--b", "textbook", "--b-kernels", kernels)
    result = run(repository, *sides, "--random-weights", "toy", "--quiet", "hello")
    assert result.returncode == 1 and result.stderr == ""
    where, called, off, there, exact, advice = result.stdout.splitlines()[-6:]
    assert where == "the sides part in step 1 / prefill / layer 0 / mlp, at silu_mul, output gated"
    assert called.startswith("  called    engine/models/llama.py:") and called.endswith(
        "kernel silu_mul of silu_mul.cu"
    )
    assert "values; the worst is out[" in off and "they may differ by" in there
    assert exact.endswith(": b is the one that is off")
    assert advice == f"  next      python -m tools.microtest silu_mul --file {kernels / 'silu_mul.cu'}"


def test_a_side_that_dies_is_one_line(job: Job) -> None:
    with Workers([("side b (cpu)", job)], Progress(quiet=True)) as engines:
        os.kill(engines[0].pid, signal.SIGKILL)
        with pytest.raises(SideError, match=r"^side b \(cpu\) died \(killed by SIGKILL\) after it began: run it alone"):
            engines[0].next()


def test_a_side_that_fails_says_why(job: Job) -> None:
    lost = replace(job, engine={**job.engine, "model": "/no/such/model"})
    with (
        Workers([("side a (cpu)", job), ("side b (cpu)", lost)], Progress(quiet=True)) as engines,
        pytest.raises(SideError, match=r"^side b \(cpu\): no model at /no/such/model"),
    ):
        for engine in engines:
            engine.next()


@pytest.fixture
def interrupted(repository: Path) -> Iterator[subprocess.Popen[str]]:
    options = ["--a", "textbook", "--b", "textbook", "--random-weights", "toy", "--max-tokens", "400", "hello"]
    process = subprocess.Popen(
        [*interruptible("tools.bisect"), *options],
        cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


def test_interrupt_leaves_no_process_behind(interrupted: subprocess.Popen[str]) -> None:
    assert interrupted.stderr is not None
    while "compare" not in (line := interrupted.stderr.readline()):
        assert line, "the run ended before it compared anything"
    sides = [int(pid) for pid in Path(f"/proc/{interrupted.pid}/task/{interrupted.pid}/children").read_text().split()]
    assert len(sides) == 2
    interrupted.send_signal(signal.SIGINT)
    _, stderr = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130 and stderr == "cutaway bisect: interrupted\n"
    assert not any(Path(f"/proc/{pid}").exists() for pid in sides)


def test_pages_are_read_and_written_by_slot(device: Device) -> None:
    pages: Tensor = device.upload(np.arange(3 * 2 * 4 * 8, dtype=np.float32).reshape(3, 2, 4, 8), F32, "pages")
    before = pages.numpy()
    part = Slots(pages, np.array([9, -1, 2], np.int32))
    values = part.read()
    assert np.array_equal(values, np.stack([before[2, :, 1], before[0, :, 2]]))
    assert part.place((1, 0, 3)) == "[0, 0, 2, 3]"
    part.write(-values)
    before[2, :, 1] *= -1
    before[0, :, 2] *= -1
    assert np.array_equal(pages.numpy(), before)
    pages.free()
