"""tools/trace/folding.py: what is the same is told once, what is not is shown, and little is held back."""

from __future__ import annotations

from typing import Any

from bindings.trace import Event
from tests.trace_events import Maker
from tools.trace.folding import Fold, Layers, folded
from tools.trace.table import fold_words
from tools.trace.unrolled import Unroller


class Sink:
    """Remembers calls by number and folds in words, in the order in which they came."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.folds: list[Fold] = []

    def call(self, event: Event) -> None:
        self.got.append(event["n"])

    def fold(self, fold: Fold) -> None:
        self.got.append(fold_words(fold))
        self.folds.append(fold)

    def close(self) -> None:
        self.got.append("end")


def fold(maker: Maker) -> Sink:
    sink = Sink()
    stream = folded(sink)
    for event in maker.events:
        stream.call(event)
    stream.close()
    return sink


def test_equal_layers_are_told_once_with_sums() -> None:
    maker = Maker()
    for index in range(30):
        maker.layer(index, "step 1 / prefill")
    maker.launch("argmax", "step 1 / prefill / sample")
    assert fold(maker).got == [
        1, 2, "layers 1 to 29: the same 2 calls each (x29), host 580 us, device 1.74 ms in all", 61, "end",
    ]  # fmt: skip


def test_a_layer_that_differs_is_shown_and_is_the_next_pattern() -> None:
    maker = Maker()
    for index in range(6):
        maker.layer(index, "step 1 / prefill", grid=[7 if index == 0 else 5, 1, 1])
    assert fold(maker).got[:4] == [1, 2, 3, 4]  # the first layer's norm has another grid
    assert fold(maker).got[4].startswith("layers 2 to 5: the same 2 calls each (x4)")


def test_a_layer_that_is_longer_or_shorter_is_shown() -> None:
    maker = Maker()
    for index in range(3):
        maker.layer(index, "step 1 / prefill")
    maker.layer(3, "step 1 / prefill")
    maker.launch("extra", "step 1 / prefill / layer 3 / mlp")
    maker.launch("rmsnorm", "step 1 / prefill / layer 4 / attention")  # and no product
    maker.launch("argmax", "step 1 / prefill / sample")
    got = fold(maker).got
    assert got[2].startswith("layers 1 to 2:") and got[3:] == [7, 8, 9, 10, 11, "end"]


def test_another_shape_is_another_call_but_another_layers_memory_is_not() -> None:
    maker = Maker()
    for index, shape in enumerate(("[5, 64]", "[5, 64]", "[6, 64]")):
        tensors = {"out": f"activations.normed:bf16{shape}", "x": f"layers.{index}.weight:bf16[64]"}
        maker.launch("rmsnorm", f"step 1 / prefill / layer {index} / attention", tensors=tensors)
    assert fold(maker).got[1].startswith("layer 1: the same 1 call again, host 10.0 us") and fold(maker).got[2] == 3


def test_a_call_that_failed_is_never_a_repeat() -> None:
    maker = Maker()
    for index in range(4):
        maker.layer(index, "step 1 / prefill")
    maker.events[5]["result"] = "CUDA_ERROR_LAUNCH_FAILED"
    assert 6 in fold(maker).got


def test_equal_steps_are_told_once_and_what_follows_them_is_shown() -> None:
    maker = Maker()
    maker.step(1, "prefill")
    for number in range(2, 7):
        maker.step(number)
    maker.call("cuStreamSynchronize", site="engine/runner.py:9")
    got = fold(maker).got
    calls_of_a_step = 11  # a copy, four layers of two, a sampler, and the wait behind the step
    assert [one for one in got if isinstance(one, str)] == [
        "layers 1 to 3: the same 2 calls each (x3), host 60.0 us, device 180 us in all",
        "layers 1 to 3: the same 2 calls each (x3), host 60.0 us, device 180 us in all",
        f"steps 3 to 6: the same {calls_of_a_step} calls each (x4), host 440 us, device 1.08 ms in all",
        "end",
    ]
    assert got[-2] == len(maker.events)


def test_steps_of_another_kind_or_number_are_no_repeats() -> None:
    maker = Maker()
    maker.step(1, "prefill", layers=1)
    maker.step(2, "decode", layers=1)
    maker.step(4, "decode", layers=1)
    assert fold(maker).folds == []


def test_kernels_of_a_graph_fold_by_layers_and_with_their_step() -> None:
    maker = Maker()
    maker.captured_step(1, layers=4)
    for number in (2, 3, 4):
        maker.graph_launch(number)
    sink, unroller = Sink(), Unroller()
    stream = folded(sink)
    for event in maker.events:
        unroller.see(event)
        stream.call(event)
        for work in unroller.work_of(event) if event["call"] == "cuGraphLaunch" else ():
            stream.call(work)
    stream.close()
    words = [one for one in sink.got if isinstance(one, str)]
    assert words == [
        "layers 1 to 3: the same 2 calls each (x3), host 60.0 us in all",  # captured: nothing ran
        "layers 1 to 3: the same 2 kernels each (x3), device 180 us in all",
        "graph 1: the same 8 kernels as before, device 240 us",
        "steps 3 to 4: the same 1 call each (x2), host 20.0 us, device 480 us in all",  # each kernel counted once
        "end",
    ]


def test_another_graph_is_shown_and_so_is_a_graph_that_filters_left_less_of() -> None:
    maker = Maker()
    maker.captured_step(1, graph=1, layers=1)
    maker.captured_step(2, graph=2, layers=1)
    maker.graph_launch(3, graph=1)
    sink, unroller = Sink(), Unroller()
    stream = folded(sink)
    for event in maker.events:
        unroller.see(event)
        for work in unroller.work_of(event) if event["call"] == "cuGraphLaunch" else ():
            if work["op"] == "rmsnorm" or event["n"] < len(maker.events):
                stream.call(work)
    stream.close()
    first, second, third = (event["n"] for event in maker.events if event["call"] == "cuGraphLaunch")
    assert sink.got == [first, first, second, second, third, "end"]


def test_no_more_than_a_layer_is_held_back() -> None:
    maker, sink = Maker(), Sink()
    stream = Layers(sink)
    for index in range(3):
        maker.layer(index, "step 1 / prefill")
    for event in maker.events[:3]:
        stream.call(event)
    assert sink.got == [1, 2]  # the third may be a repeat
    stream.call(maker.launch("other", "step 1 / prefill / layer 1 / attention"))
    assert sink.got == [1, 2, 3, 7]  # it is none


def test_like_calls_of_loading_are_counted_with_their_bytes() -> None:
    maker = Maker()
    for index in range(5):
        maker.alloc(f"layers.{index}", 1000)
        maker.copy(2000)["site"] = "engine/weights.py:81"
    maker.launch("embedding", "step 1 / prefill")
    assert fold(maker).got == [
        1, 2, "x4 more cuMemAlloc: 4.00 kB, host 40.0 us",
        "x4 more cuMemcpyHtoDAsync: 8.00 kB, host 40.0 us, device 40.0 us", 11, "end",
    ]  # fmt: skip


def test_calls_of_another_file_are_counted_anew() -> None:
    maker = Maker()
    for site in ("engine/a.py:1", "engine/a.py:2", "engine/b.py:1", "engine/b.py:9"):
        maker.call("cuMemFree", site=site)
    words = "x1 more cuMemFree: host 10.0 us"
    assert fold(maker).got == [1, words, 3, words, "end"]


def test_every_call_is_either_shown_or_counted() -> None:
    maker = Maker()
    maker.alloc("embed", 1)
    maker.alloc("norm.weight", 1)
    for number, kind in enumerate(("prefill", "decode", "decode", "decode", "prefill", "decode", "decode"), start=1):
        maker.step(number, kind, layers=3 + (number == 4))
    sink = fold(maker)
    counted = sum(one.count * one.calls for one in sink.folds)
    assert counted + sum(isinstance(one, int) for one in sink.got) == len(maker.events)
    assert [one for one in sink.got if isinstance(one, int)] == sorted(
        {one for one in sink.got if isinstance(one, int)}
    )
