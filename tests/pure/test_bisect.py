"""tools.bisect without an engine: the sides, the comparison, who waits for whom, recordings, and what is printed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bindings import kernel
from bindings.errors import CutawayError
from engine import ops
from tests.bisect_script import LABEL, Script, bf16, f32, operation
from tools import bisect
from tools.bisect.bounds import Bound, Bounder, unless_scores_are_lost
from tools.bisect.compare import compare, same_rows
from tools.bisect.drift import DriftWatch
from tools.bisect.lockstep import LeadingEngine, Lockstep, Pair
from tools.bisect.messages import Explanation, Lengths, Operation, Output, Proceed
from tools.bisect.noise import EPSILON
from tools.bisect.place import Place, names, place_of
from tools.bisect.report import as_json, lines
from tools.bisect.run import Found
from tools.bisect.sides import Side, parse_side
from tools.bisect.tally import Tally
from tools.microtest.reference import prefill_attention
from tools.microtest.reference.paged_attention import Batch

NO_KERNELS: dict[str, Path | None] = {"a": None, "b": None}


# The sides


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("cpu", Side("cpu", "cpu", "textbook")),
        ("cuda", Side("cuda", "cuda", "textbook")),
        ("textbook", Side("textbook", "auto", "textbook")),
        ("cuda:deterministic", Side("cuda:deterministic", "cuda", "deterministic")),
        ("deterministic", Side("deterministic", "auto", "deterministic")),
    ],
)
def test_a_side_is_a_device_and_a_way(text: str, side: Side) -> None:
    assert parse_side(text) == side


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--a", "cpu"], "--b"),
        (
            ["--a", "cpu", "--b", "fast"],
            "'fast': this version has no fast path beside the textbook one; sides are cpu,",
        ),
        (["--a", "cuda:fast", "--b", "cpu"], "'cuda:fast': this version has no fast path"),
        (["--a", "cpu", "--b", "gpu"], "'gpu' is no side; sides are cpu, cuda"),
        (["--a", "cpu:", "--b", "cpu"], "'cpu:' is no side"),
        (["--a", "recorded:no.npz", "--b", "cpu"], "there is no file 'no.npz'"),
        (["--a", "cpu", "--b", "recorded:{file}"], "give the recording as --a"),
        (["--a", "recorded:{file}", "--b", "cpu", "a prompt"], "does not go with a prompt"),
        (["--a", "recorded:{file}", "--b", "cpu", "--random-weights", "toy"], "does not go with --random-weights"),
        (["--a", "recorded:{file}", "--b", "cpu", "--a-kernels", "cuda_src"], "does not go with --a-kernels"),
        (
            ["--a", "cpu", "--b", "cpu", "--b-kernels", "docs"],
            "docs: expected a copy of cuda_src, with its include folder",
        ),
        (["--a", "cpu", "--b", "cpu", "--max-tokens", "0"], "expected a whole number from 1 on"),
        (["--a", "cpu", "--b", "cpu", ""], "prompt 1 is empty"),
        (["--a", "cpu", "--b", "cpu", "--device", "cpu"], "--device"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    repository: Path,
    options: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(repository)
    recording = repository / "tests" / "fixtures" / "tiny_llama_activations.npz"
    assert bisect.main([option.replace("{file}", str(recording)) for option in options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and named in err


# Where


def test_a_label_tells_step_and_layer() -> None:
    assert place_of("step 12 / decode + prefill / layer 3 / mlp") == Place(12, 3, "mlp")
    assert place_of("step 1 / prefill / lm head") == Place(1, None, "lm head")
    assert place_of("") == Place(0, None, "loading")


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("layer 0 / mlp.silu_mul", True),
        ("layer 0.silu_mul", True),
        (".silu_mul", True),
        ("silu_mul", True),
        ("step 1 / mlp.silu_mul", True),
        ("mlp / step 1.silu_mul", False),
        ("layer 1 / mlp.silu_mul", False),
        ("layer 0 / mlp.gemm", False),
    ],
)
def test_an_operation_is_named_by_label_and_name(pattern: str, named: bool) -> None:
    assert names(pattern, LABEL, "silu_mul") is named


# The comparison


def test_the_same_bits_differ_nowhere() -> None:
    found = compare(bf16([1, -2, np.nan]), bf16([1, -2, np.nan]))
    assert found.agrees and found.differing == 0 and found.share == 0 and found.worst is None


def test_the_tolerance_is_the_sum_of_both_bounds() -> None:
    found = compare(f32(1.0, 2.0, absolute=0.25), f32(1.5, 2.0, absolute=0.125, relative=0.25))
    assert found.worst is not None and found.worst.tolerance == 0.25 + 0.125 + 0.25 * 1.5
    assert found.share == 0.5 / 0.75 and found.agrees and (found.differing, found.parted) == (1, 0)
    assert compare(f32(1.0, absolute=0.25), f32(1.5), factor=2.0).share == 1.0
    assert not compare(f32(1.0, absolute=0.25), f32(1.5)).agrees


def test_the_worst_element_is_named_by_its_share() -> None:
    found = compare(f32(1, 1, 1, absolute=np.array([1.0, 0.1, 1.0])), f32(1.5, 1.2, 0.75))
    assert found.worst is not None and found.worst.index == (1,) and found.parted == 1
    assert (found.worst.a, found.worst.b) == (1, pytest.approx(1.2))


@pytest.mark.parametrize(
    ("a", "b", "bound", "agrees"),
    [
        (1.0, np.nan, 1e9, False),
        (np.nan, 1.0, 1e9, False),
        (np.nan, 1.0, np.inf, False),
        (np.nan, np.nan, 0.0, True),
        (np.inf, np.inf, 0.0, True),
        (np.inf, -np.inf, 1e9, False),
        (np.inf, 1.0, 1e9, False),
        (1.0, 1.0, np.nan, True),
        (1.0, 2.0, np.nan, False),
        (1.0, 2.0, np.inf, True),
        (1.0, 1.0000001, 0.0, False),
        (0.0, -0.0, 0.0, True),
    ],
)
def test_what_is_no_number_never_passes_by_chance(a: float, b: float, bound: float, agrees: bool) -> None:
    assert compare(f32(a, absolute=bound), f32(b)).agrees is agrees


def test_a_product_is_bounded_by_the_lengths_of_its_rows() -> None:
    lengths = Lengths(np.array([1.0, 10.0]), np.array([1.0, 3.0]), error=0.5)
    a = Output(np.zeros((2, 2), np.float32), "f32", "logits", lengths=lengths)
    b = Output(np.array([[0.5, 1.4], [5.5, 0]], np.float32), "f32", "logits")
    found = compare(a, b)
    assert found.worst is not None and found.worst.index == (1, 0) and found.share == 5.5 / 5 and found.parted == 1
    cut, longer = same_rows(a, Output(np.zeros((1, 2), np.float32), "f32", "logits"))
    assert cut.values.shape == longer.values.shape == (1, 2)
    assert cut.lengths is not None and cut.lengths.rows.tolist() == [1.0]


def test_an_output_can_be_cut_only_by_rows() -> None:
    short, long = same_rows(f32(1, 2), replace(f32(1, 2, 3), relative=0.5))
    assert short.values.tolist() == long.values.tolist() == [1, 2] and long.relative == 0.5


def test_every_operation_of_a_greedy_run_has_a_bound() -> None:
    """An operation that is added needs one, or a reason here: bisect samples nothing and shares no page."""
    not_run = {"copy_pages", "edit_logits", "allow_logits", "truncate_logits", "gumbel_sample", "logprobs"}
    assert set(Bounder().rules) == set(ops.ALL) - not_run | {"gemm"}
    with pytest.raises(CutawayError, match="no tolerance is known for copy_pages"):
        Bounder().bounds("copy_pages", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1.0, np.inf, 1e5])
def test_attention_whose_scores_float32_loses_has_no_bound(size: float) -> None:
    ones = np.ones((1, 1, 64), np.float32)

    def known() -> dict[str, Bound]:
        return {"out": Bound(prefill_attention.reference(Batch([ones * size], [ones * size], [ones]))[1])}

    with np.errstate(all="ignore"):
        bound = unless_scores_are_lost(["out"], known)["out"].absolute
    assert np.isinf(bound).all() == (size > 1)


def test_kernels_come_from_a_copy_of_cuda_src(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel, "_sources", None)  # gives it back at the end
    with pytest.raises(CutawayError, match="holds no kernels: it must be a copy of cuda_src, with its include folder"):
        kernel.take_kernels_from(tmp_path)
    (tmp_path / "include").mkdir()
    kernel.take_kernels_from(tmp_path)
    assert kernel._sources == tmp_path


# Who waits for whom


def lockstep(a: Script, b: Script, **options: Any) -> tuple[Lockstep, list[Pair]]:
    made = Lockstep(LeadingEngine(a), b, **options)  # type: ignore[arg-type]
    return made, list(made.pairs())


def test_b_goes_on_with_the_values_of_a() -> None:
    a, b = Script(operation(out=bf16([1, 2], absolute=1.0))), Script(operation(out=bf16([1, 2.5])))
    found, pairs = lockstep(a, b)
    assert found.outcome.parted is None and len(pairs) == 1
    assert np.array_equal(b.told[0].values["out"], bf16([1, 2]).values) and a.told == [Proceed()]


def test_what_is_equal_does_not_travel() -> None:
    _, b = Script(operation(out=bf16([1, 2]))), Script(operation(out=bf16([1, 2])))
    lockstep(_, b)
    assert b.told == [Proceed()]


def test_free_sides_share_tokens_alone() -> None:
    def chosen(token: int) -> Operation:
        return operation("argmax", token_ids=Output(np.array([token], np.int32), "i32", "chosen"))

    a, b = Script(operation(out=f32(1)), chosen(7)), Script(operation(out=f32(9)), chosen(8))
    found, pairs = lockstep(a, b, free=True)
    assert found.outcome.parted is None and len(pairs) == 2
    assert b.told[0].values == {} and b.told[1].values["token_ids"].tolist() == [7]


def test_the_run_ends_where_the_sides_part() -> None:
    a = Script(operation(out=f32(1)), operation("gemm", out=f32(1)))
    b = Script(operation(out=f32(3)), operation("gemm", out=f32(1)))
    found, pairs = lockstep(a, b)
    assert len(pairs) == 1 and found.outcome.parted is pairs[0] and b.told == []
    assert found.outcome.explanation == Explanation("[0]", 1.0)


def attention(op: str, **outputs: Output) -> Operation:
    return operation(op, "step 2 / decode / layer 0 / attention", **outputs)


def attended(value: float) -> Output:
    return Output(np.array([value], np.float32), "f32", "activations.attended", absolute=0.25)


SPLITS = {"partial_out": Output(np.zeros(1, np.float32), "f32", "activations.partial_out")}


@pytest.mark.parametrize("swapped", [False, True])
def test_ways_meet_where_both_have_the_result(swapped: bool) -> None:
    """One way attends in two operations, the other in one: only the result is compared, with twice the tolerance."""
    two = Script(attention("decode_attention", **SPLITS), attention("combine_splits", out=attended(1)))
    one = Script(attention("prefill_attention", out=attended(2)))
    found, pairs = lockstep(*((one, two) if swapped else (two, one)))
    assert found.outcome.parted is None and [set(pair.comparisons) for pair in pairs] == [{"out"}]
    assert pairs[0].comparisons["out"].share == 1.0
    assert (len(two.told), len(one.told)) == (2, 1)


def test_sides_that_do_different_things_are_refused() -> None:
    a, b = Script(operation("rmsnorm", out=attended(1))), Script(operation(out=f32(1)))
    with pytest.raises(CutawayError, match=r"where a runs rmsnorm at 'step 1 .*, b runs silu_mul at 'step 1 "):
        lockstep(a, b)
    with pytest.raises(CutawayError, match="where a runs nothing more, b runs silu_mul"):
        lockstep(Script(), Script(operation(out=f32(1))))
    with pytest.raises(CutawayError, match=r"where a runs silu_mul .*, b runs nothing more"):
        lockstep(Script(operation(out=f32(1))), Script())


def test_a_run_can_stop_early() -> None:
    def script() -> Script:
        return Script(operation(out=f32(1)), operation("gemm", out=f32(1)))

    found, pairs = lockstep(script(), script(), stop_after="layer 0 / mlp.silu_mul")
    assert found.outcome.stopped and len(pairs) == 1
    with pytest.raises(CutawayError, match=r"'layer 5\.gemm': no operation of this run is called so"):
        lockstep(script(), script(), stop_after="layer 5.gemm")


def test_a_tie_is_told() -> None:
    label = "step 3 / decode / lm head"
    logits = [np.array([values], np.float32) for values in ([1, 2, 2.01], [1, 2.01, 2])]
    a, b = (
        Script(operation("gemm", label, out=Output(one, "f32", "activations.logits", absolute=0.01))) for one in logits
    )
    found, pairs = lockstep(a, b)
    assert found.outcome.parted is None
    assert [(tie.label, tie.row, tie.a, tie.b) for tie in found.outcome.ties] == [(label, 0, 2, 1)]
    text = "\n".join(lines(reported(found, pairs), False, NO_KERNELS))
    assert "row 0: a's likeliest token is 2, b's 1, and their logits lie within tolerance: either is right" in text


# What is printed


def reported(found: Lockstep, pairs: list[Pair]) -> Found:
    tally = Tally()
    for pair in pairs:
        tally.add(pair)
    return Found(found.outcome, tally, [], {"side b (cpu)": "a CPU"})


@pytest.mark.parametrize(("culprit", "folder"), [("b", "mine"), ("a", None)])
def test_the_verdict_names_place_culprit_and_next_step(culprit: str, folder: str | None) -> None:
    a, b = (3.0, 1.0) if culprit == "a" else (1.0, 3.0)  # float64 gives 1
    found, pairs = lockstep(Script(operation(out=f32(a, 0))), Script(operation(out=f32(b, 0, absolute=0.5))))
    kernels = {"a": None, "b": Path("mine")}
    command = "python -m tools.microtest silu_mul" + (" --file mine/silu_mul.cu" if folder else "")
    assert lines(reported(found, pairs), False, kernels)[-6:] == [
        f"the sides part in {LABEL}, at silu_mul, output gated",
        "  called    engine/models/llama.py:1, kernel silu_mul of silu_mul.cu",
        "  off       1 of 2 values; the worst is out[0]",
        f"  there     {a:.6g} in a, {b:.6g} in b; they may differ by 0.5",
        f"  float64   1: {culprit} is the one that is off",
        f"  next      {command}",
    ]


def test_inputs_that_differ_are_told_from_a_wrong_operation() -> None:
    """Float64 gives each side's own result: neither computes wrongly."""
    a, b = Script(operation("gemm", out=f32(1))), Script(operation("gemm", out=f32(3)))
    a.exact, b.exact = 1.0, 3.0
    *_, exact, advice = lines(reported(*lockstep(a, b)), False, NO_KERNELS)
    assert exact == "  float64   1 from what a reads, 3 from what b reads: the inputs differ"
    assert (
        advice
        == "  next      look at what this operation reads beside activations, which were equal: a weight, or a table"
    )


def test_agreement_tells_how_close_it_was() -> None:
    found, pairs = lockstep(Script(operation(out=f32(1, 5))), Script(operation(out=f32(1.25, 5, absolute=1))))
    device, _, *table, _, verdict = lines(reported(found, pairs), False, NO_KERNELS)
    assert device == "side b (cpu): a CPU"
    assert verdict == (
        "the sides agree: 1 operations, 2 values, within tolerance; closest to it: silu_mul (mlp, gated) with 25 % in "
        "step 1, layer 0"
    )
    assert [" ".join(line.split()) for line in table] == [
        "where operation output times not equal worst of tolerance",
        "mlp silu_mul gated 1 1 of 2 25 % in step 1, layer 0",
    ]


def test_json_holds_no_nan() -> None:
    import json

    found, pairs = lockstep(Script(operation(out=f32(1))), Script(operation(out=f32(np.nan))))
    told = json.loads(json.dumps(as_json(reported(found, pairs), False), allow_nan=False))
    assert told["agree"] is False and told["rows"][0]["share"] == "inf"
    parted = told["parted"]
    assert (parted["step"], parted["layer"], parted["op"], parted["index"]) == (1, 0, "silu_mul", "[0]")
    assert (parted["a"], parted["b"], parted["exact"], parted["culprit"]) == (1.0, "nan", 1.0, "b")


def test_drift_is_relative_to_the_stream_and_beside_its_estimate() -> None:
    watch, ones = DriftWatch(), np.ones((1, 64), np.float32)

    def pair(op: str, label: str, name: str, tensor: str, b: np.ndarray) -> Pair:
        a, other = (operation(op, label, **{name: Output(values, "f32", tensor)}) for values in (ones, b))
        return Pair(a, other, {name: compare(a.outputs[name], other.outputs[name])})

    watch.add(pair("embedding", "step 1 / prefill / embedding", "out", "activations.residual", ones))
    watch.add(pair("gemm", "step 1 / prefill / layer 0 / attention", "out", "activations.update", ones / 2))
    watch.add(pair("add_rmsnorm", LABEL, "residual", "activations.residual", 1.01 * ones))
    (drift,) = watch.drifts
    assert drift.place == Place(1, 0, "mlp") and drift.apart == pytest.approx(0.01, rel=1e-3)
    share = 0.25 / 1.01**2  # of the stream's mean square, the update's
    assert drift.estimate == pytest.approx(EPSILON * np.sqrt(2 * (1 + 1 + 6 * share)))
