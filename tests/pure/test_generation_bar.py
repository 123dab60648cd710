"""The bar of `LLM.generate`: requests done and rates on a terminal, nothing elsewhere, or what the caller makes."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from engine.generation_bar import GenerationBar
from engine.outputs import CompletionOutput, Metrics, RequestOutput


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class FakeBar:
    """Records what is done to it, as tqdm would be told."""

    def __init__(self, **options: Any) -> None:
        self.options, self.postfix = options, options["postfix"]
        self.done, self.closed = 0, False

    def update(self, count: int) -> None:
        self.done += count

    def close(self) -> None:
        self.closed = True


def output(tokens_in: int, *tokens_out: int) -> RequestOutput:
    completions = [CompletionOutput(index=i, token_ids=[1] * count) for i, count in enumerate(tokens_out)]
    return RequestOutput(
        request_id="0",
        prompt=None,
        prompt_token_ids=[1] * tokens_in,
        outputs=completions,
        finished=True,
        metrics=Metrics(),
    )


def run(use_tqdm: Any) -> None:
    with GenerationBar(use_tqdm, 2) as bar:
        bar.finished(output(3, 2, 2))
        bar.finished(output(5, 4))


def test_on_a_terminal_requests_and_rates_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    run(True)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "requests: 100%" in shown and "2/2" in shown
    assert "tokens/s, out " in shown.splitlines()[-1]


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_elsewhere_nothing_is_shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    run(True)
    assert stream is None or stream.getvalue() == ""


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    run(False)
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_the_callers_own_bar_is_told_of_every_request() -> None:
    bars: list[FakeBar] = []
    clock = iter([10.0, 12.0, 14.0])

    def make(**options: Any) -> FakeBar:
        bars.append(FakeBar(**options))
        return bars[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: next(clock))
        run(make)
    assert bars[0].options["total"] == 2 and bars[0].done == 2 and bars[0].closed
    assert bars[0].postfix == "in 2.0 tokens/s, out 2.0 tokens/s"  # 8 tokens each in 4 seconds


def test_the_bar_ends_when_the_work_fails() -> None:
    bars: list[FakeBar] = []
    with pytest.raises(KeyError), GenerationBar(lambda **options: bars.append(FakeBar(**options)) or bars[0], 1):
        raise KeyError
    assert bars[0].closed
