"""Who listens hears every call, in order and in full, with what the device did for it; and is not heard itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bindings import cublas
from bindings.activity import choose_clock
from bindings.calls import driver
from bindings.cublas import Blas
from bindings.device import Device, Stream
from bindings.device import Event as DeviceEvent
from bindings.dtypes import BF16, F32
from bindings.errors import CudaError, CutawayError
from bindings.trace import Event, label, recorder
from engine import LLM, SamplingParams, ops
from engine.random_model import write_random_model
from tests.hearing import Keeper, launch, norm_tensors


@pytest.fixture
def tensors(device: Device) -> Iterator[Any]:
    with norm_tensors(device) as made:
        yield made


def test_a_launch_is_told_in_full(device: Device, tensors: Any) -> None:
    keeper = Keeper()
    with recorder.listening(keeper), label("layer 3"), label("attention"):
        launch(device, tensors)
    (event,) = keeper.calls
    assert event["call"] == "cuLaunchKernel" and event["label"] == "layer 3 / attention" and event["result"] == "ok"
    assert event["kernel"] == event["op"] == "rmsnorm" and event["source"] == "rmsnorm.cu"
    assert event["tensors"]["x"] == "x:bf16[4, 64]" and event["roles"] == {"out": "out", "x": "in", "weight": "in"}
    assert event["params"]["hidden"] == "64" and event["grid"] == [4, 1, 1]
    assert event["block"][0] == event["defines"]["BLOCK_THREADS"]
    assert event["bytes"] == 2 * 64 * (2 * 4 + 1) and event["stream"] == device.stream.name == event["args"]["hStream"]
    assert event["site"].startswith("tests/hearing.py:")


def test_what_is_told_of_a_launch_is_not_told_of_the_call_before_it(
    device: Device, tensors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel's first launch with much shared memory asks for that first."""
    launch(device, tensors)
    kernel = ops.RMSNORM.kernel(device, {"T": 4, "H": 64})
    monkeypatch.setattr(kernel, "_dynamic_smem", -1)
    seen = []

    class Peeker(Keeper):
        def before(self, event: Event) -> None:
            super().before(event)
            seen.append(set(recorder.operands))

    keeper = Peeker()
    with recorder.listening(keeper):
        launch(device, tensors)
    asked, launched = keeper.begun[-2:]
    assert asked["call"] == "cuFuncSetAttribute" and "op" not in asked and not seen[0]
    assert launched["op"] == "rmsnorm" and "tensors" in launched and seen[1] == {"out", "x", "weight"}


def test_a_product_is_told_in_row_major_words(device: Device, tensors: Any) -> None:
    x, _, b, _ = tensors
    blas, product = Blas(device, device.stream), device.empty((4, 8), F32, "product")
    keeper = Keeper()
    with recorder.listening(keeper):
        blas.linear(product, x, b)
    (event,) = keeper.calls
    assert event["sizes"] == {"m": 4, "n": 8, "k": 64, "transpose_b": True}
    assert event["args"]["transa"] == "CUBLAS_OP_T" and event["args"]["A"] == "b" and event["args"]["B"] == "x"
    assert event["n"] == keeper.begun[0]["n"] == recorder.count
    assert event["flops"] == 2 * 4 * 8 * 64 and event["bytes"] == 2 * (4 * 64 + 8 * 64) + 4 * 4 * 8
    blas.close()
    product.free()


def test_operands_are_there_during_the_call_alone(device: Device, tensors: Any) -> None:
    seen = []

    class Peeker(Keeper):
        def before(self, event: Event) -> None:
            seen.append(dict(recorder.operands))

    with recorder.listening(Peeker()):
        launch(device, tensors)
        device.synchronize()
    (operands, nothing) = seen[-2:]
    assert operands["x"].name == "x" and set(operands) == {"out", "x", "weight"} and not nothing


def test_a_listener_is_not_heard_itself(device: Device, tensors: Any) -> None:
    class Meddler(Keeper):
        def after(self, event: Event) -> None:
            super().after(event)
            if len(self.calls) == 1:
                tensors[3].numpy()  # reads device memory

    first, second = Meddler(), Keeper()
    with recorder.listening(first), recorder.listening(second):
        launch(device, tensors)
    assert [event["call"] for event in first.calls] == [event["call"] for event in second.calls] == ["cuLaunchKernel"]


def test_what_a_listener_does_leaves_no_mark_on_the_next_call(device: Device, tensors: Any) -> None:
    class Meddler(Keeper):
        def before(self, event: Event) -> None:
            tensors[3].numpy()

    keeper = Keeper()
    with recorder.listening(keeper), recorder.listening(Meddler()):
        launch(device, tensors)
        device.synchronize()
    assert "bytes" not in keeper.calls[-1] and keeper.calls[-1]["call"] == "cuCtxSynchronize"


def test_who_hears_first_of_a_call_hears_last_of_its_end(device: Device) -> None:
    heard = []

    class Named(Keeper):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def before(self, event: Event) -> None:
            heard.append(f"{self.name} before")

        def after(self, event: Event) -> None:
            heard.append(f"{self.name} after")

    with recorder.listening(Named("clock")), recorder.listening(Named("debugger"), first=True):
        device.synchronize()
    assert heard == ["debugger before", "clock before", "clock after", "debugger after"]


def test_what_a_listener_raises_takes_the_place_of_the_call(device: Device, tensors: Any) -> None:
    class Stop(Keeper):
        def before(self, event: Event) -> None:
            raise RuntimeError("no further")

    tensors[3].buffer.fill(0)
    with recorder.listening(Stop()), pytest.raises(RuntimeError, match="no further"):
        launch(device, tensors)
    assert not tensors[3].numpy().any(), "the kernel ran"


def test_what_one_listener_raises_keeps_nothing_from_the_others(device: Device, tensors: Any) -> None:
    class Broken(Keeper):
        def after(self, event: Event) -> None:
            raise RuntimeError("no room")

    first, last = Keeper(), Keeper()
    with recorder.listening(first), recorder.listening(Broken()), recorder.listening(last):
        with pytest.raises(RuntimeError, match="no room"):
            launch(device, tensors)
        assert [call["call"] for call in first.calls] == [call["call"] for call in last.calls] == ["cuLaunchKernel"]
        assert recorder.operands == {}


@pytest.mark.parametrize("moment", ["a listener refuses", "the arguments do not fit", "the product has no such type"])
def test_what_is_told_of_a_call_that_is_not_made_is_not_told_of_the_next(
    device: Device, tensors: Any, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    x, weight, _, out = tensors
    blas, square = Blas(device, device.stream), device.empty((64, 64), BF16, "square")
    launch(device, tensors)

    class Refuses(Keeper):
        def before(self, event: Event) -> None:
            if "op" in event:
                raise CutawayError("no")

    keeper = Keeper()
    with recorder.listening(keeper), ExitStack() as stack, pytest.raises(CutawayError):
        if moment == "the product has no such type":
            monkeypatch.delitem(cublas.CUDA_TYPE, BF16)
            blas.gemm(x, x, square)
        elif moment == "a listener refuses":
            stack.enter_context(recorder.listening(Refuses()))
            launch(device, tensors)
        else:
            ops.RMSNORM(device.stream, out=out, x=x, weight=weight, eps="small")
    assert recorder.detail == {} and recorder.operands == {}
    with recorder.listening(keeper):
        device.synchronize()
    assert "op" not in keeper.calls[-1]
    blas.close()
    square.free()


def test_a_call_that_the_binding_refuses_is_not_told_as_done(device: Device) -> None:
    keeper = Keeper()
    with recorder.listening(keeper), pytest.raises((TypeError, ValueError)):
        driver.cuMemAlloc("many")
    assert keeper.calls[-1]["result"] in ("TypeError", "ValueError")


def test_equal_arguments_of_different_bits_are_told_apart(device: Device, tensors: Any) -> None:
    x, weight, _, out = tensors
    keeper = Keeper()
    with recorder.listening(keeper):
        for eps in (0.0, -0.0):
            ops.RMSNORM(device.stream, out=out, x=x, weight=weight, eps=eps)
    assert [call["params"]["eps"] for call in keeper.calls if "op" in call] == ["0.0", "-0.0"]


def test_batches_of_the_same_matrices_are_told_by_their_number(device: Device) -> None:
    blas, keeper = Blas(device, device.stream), Keeper()
    out, a, b = (device.upload(np.ones((4, 8, 8)), BF16, name) for name in ("out", "a", "b"))
    with recorder.listening(keeper):
        for count in (4, 2):
            blas.gemm_batched(out[:count], a[:count], b[:count])
    four, two = keeper.calls
    assert (four["flops"], two["flops"]) == (4 * 1024, 2 * 1024) and two["bytes"] == four["bytes"] // 2
    assert two["tensors"]["out"] == "out:bf16[2, 8, 8]"
    blas.close()
    for tensor in (out, a, b):
        tensor.free()


def test_a_stream_that_does_not_capture_is_not_told_as_captured(device: Device, tensors: Any) -> None:
    """While one stream captures, another goes on; once it waits for the first, it captures, too."""
    launch(device, tensors)
    other, event, back, keeper = Stream(device), DeviceEvent(timing=False), DeviceEvent(timing=False), Keeper()
    x, weight, _, out = tensors

    def launch_on(stream: Stream) -> None:
        ops.RMSNORM(stream, out=out, x=x, weight=weight, eps=1e-5)

    with recorder.listening(keeper):
        with device.stream.capture() as graph:
            launch_on(device.stream)
            launch_on(other)
            device.stream.record(event)
            other.wait(event)
            launch_on(other)
            other.record(back)
            device.stream.wait(back)
        launch_on(other)
    launches = [call for call in keeper.calls if call["call"] == "cuLaunchKernel"]
    assert [call.get("captured") for call in launches] == [graph.number, None, graph.number, None]
    graph.close()
    other.synchronize()
    other.close()


@pytest.mark.cpu_device_only  # NVIDIA's driver need not refuse a handle that is gone: it crashes
def test_a_number_that_was_a_streams_is_not_called_so_when_it_is_gone(device: Device) -> None:
    stream, keeper = Stream(device), Keeper()
    name = stream.name
    with recorder.listening(keeper):
        stream.synchronize()
        stream.close()
        with pytest.raises(CudaError):
            driver.cuStreamSynchronize(stream.handle)
    assert keeper.calls[0]["args"]["hStream"] == name != keeper.calls[-1]["args"]["hStream"]


def test_a_refused_call_is_heard_with_its_error(device: Device) -> None:
    keeper = Keeper()
    with recorder.listening(keeper), pytest.raises(CudaError):
        driver.cuMemAlloc(0)
    assert keeper.calls[0]["result"] == "CUDA_ERROR_INVALID_VALUE"


def test_nobody_listens_nothing_is_kept(device: Device, tensors: Any) -> None:
    launch(device, tensors)
    assert recorder.detail == {} and recorder.operands == {}


def timed(device: Device, tensors: Any, choice: Any) -> list[Event]:
    """A copy, a kernel, a graph of two kernels launched twice, and what a clock says of them."""
    launch(device, tensors)
    clock = choose_clock(choice)

    class Both(Keeper):
        def before(self, event: Event) -> None:
            clock.before(event)

        def after(self, event: Event) -> None:
            clock.after(event)
            super().after(event)

    keeper = Both()
    clock.open()
    with recorder.listening(keeper):
        launch(device, tensors)
        with device.stream.capture() as graph:
            launch(device, tensors)
            launch(device, tensors)
        graph.launch(device.stream)
        graph.launch(device.stream)
        tensors[3].numpy()
        graph.close()
    clock.close()
    return keeper.calls


@pytest.mark.parametrize("choice", ["auto", "events"])
def test_each_call_has_what_the_device_did_for_it(device: Device, tensors: Any, choice: str) -> None:
    calls = timed(device, tensors, choice)
    eager, *captured = [call for call in calls if call["call"] == "cuLaunchKernel"]
    (ran,) = eager["activities"]
    assert ran["what"] == "kernel" and ran["name"] == "rmsnorm" and ran["stream"] == device.stream.name
    assert eager["t_us"] <= ran["start_us"] + 1000 and 0 < ran["end_us"] - ran["start_us"] < 1e6
    assert len(captured) == 2 and all("captured" in call and "activities" not in call for call in captured)
    (copy,) = [call for call in calls if call["call"] == "cuMemcpyDtoHAsync"]
    assert [activity["what"] for activity in copy["activities"]] == ["copy"]
    launches = [call for call in calls if call["call"] == "cuGraphLaunch"]
    assert len(launches) == 2
    for call in launches:
        expected = ["graph"] if choice == "events" else ["kernel", "kernel"]
        assert [activity["what"] for activity in call["activities"]] == expected
        if choice == "auto":
            assert [activity["of"] for activity in call["activities"]] == [one["n"] for one in captured]
            assert call["graph"] == captured[0]["captured"]


@pytest.mark.cpu_device_only
@pytest.mark.usefixtures("any_schedule")
def test_late_streams_tell_their_times_late(device: Device, tensors: Any) -> None:
    from bindings.cpu import driver as cpu_driver

    cpu_driver.set_streams("lazy", 3)
    calls = timed(device, tensors, "auto")
    worked = [call for call in calls if "activities" in call]
    assert [len(call["activities"]) for call in worked] == [1, 2, 2, 1]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "toy"
    write_random_model("toy", folder)
    return folder


def notes_of(toy: Path, kind: str, prompts: list[list[int]], pages: int, **sampling: Any) -> list[Event]:
    keeper = Keeper()
    params = SamplingParams(**{"temperature": 0, "ignore_eos": True, **sampling})
    with recorder.listening(keeper), LLM(model=str(toy), device=kind, max_model_len=64) as llm:
        limit = llm.engine.cache.num_pages - pages
        taken = [llm.engine.cache.pool.take() for _ in range(limit)]
        llm.generate(prompts, params)
        assert len(taken) == limit
    return [note for note in keeper.notes if note["kind"] == "step"]


def test_each_step_tells_who_runs_and_where(device: Device, toy: Path) -> None:
    notes = notes_of(toy, device.kind, [list(range(1, 21)), [1, 2, 3]], pages=8, max_tokens=3)
    assert [note["step"] for note in notes] == list(range(1, len(notes) + 1))
    assert notes[0]["prefills"] == [[0, 0, 20], [1, 0, 3]] and notes[0]["decodes"] == []
    assert notes[1]["decodes"] == [[0, 20], [1, 3]] and notes[1]["tables"] == {}
    assert {request: len(pages) for request, pages in notes[0]["tables"].items()} == {"0": 2, "1": 1}
    assert notes[0]["running"] == 2 and notes[0]["waiting"] == 0 and notes[0]["page_size"] == 16


def test_who_begins_to_listen_late_is_told_of_every_table(device: Device, toy: Path) -> None:
    params = SamplingParams(temperature=0, ignore_eos=True, max_tokens=6)
    with LLM(model=str(toy), device=device.kind, max_model_len=64) as llm:
        llm.add_request({"prompt_token_ids": list(range(1, 21))}, params)
        keepers = [Keeper(), Keeper()]
        for keeper in keepers:
            with recorder.listening(keeper):
                llm.step()
                llm.step()
        while llm.has_unfinished_requests:
            llm.step()
    first, late = ([note for note in keeper.notes if note["kind"] == "step"] for keeper in keepers)
    assert first[0]["tables"] == late[0]["tables"] != {} and late[1]["tables"] == {}


def test_preemption_and_copies_are_told(device: Device, toy: Path) -> None:
    notes = notes_of(toy, device.kind, [list(range(1, 17)), list(range(21, 37))], pages=3, max_tokens=20)
    assert [note["preempted"] for note in notes if note["preempted"]] == [[1]]
    notes = notes_of(toy, device.kind, [list(range(1, 20))], pages=8, max_tokens=3, n=2, temperature=1)
    (copies,) = [note["copies"] for note in notes if note["copies"]]
    (source, target, tokens) = copies[0]
    assert tokens == 18 - 16 and source != target
