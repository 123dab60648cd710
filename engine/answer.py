"""One answer as it grows: tokens in, text and the reason to stop out."""

from __future__ import annotations

import time
from typing import Protocol

from engine.outputs import RequestOutput, StreamEvent
from engine.sampling_params import SamplingParams


class Decoder(Protocol):
    """What an answer needs of engine/detokenize.py::IncrementalDecoder."""

    def push(self, ids: list[int]) -> str:
        """Take further ids; returns the text that has become certain."""

    def finish(self) -> str:
        """The text still held back."""


class Answer:
    """Completion number `completion` of `output`. `stop_ids`: the model's own end tokens."""

    def __init__(
        self,
        index: int,
        output: RequestOutput,
        params: SamplingParams,
        decoder: Decoder,
        stop_ids: frozenset[int] = frozenset(),
        completion: int = 0,
    ) -> None:
        self.index, self.output, self.completion = index, output, output.outputs[completion]
        self._params, self._decoder = params, decoder
        self._stops = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else stop_ids)
        self._arrival = time.perf_counter()

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return self.completion.finish_reason is not None

    def append(self, token: int) -> StreamEvent:
        """Take the next token: update text, metrics and the reason to stop, and say what is new.

        The token that stops the text is counted but not shown.
        """
        self.completion.token_ids.append(token)
        self.completion.finish_reason = self._finish_reason(token)
        text = "" if self.completion.finish_reason == "stop" else self._decoder.push([token])
        text += self._decoder.finish() if self.finished else ""
        self.completion.text += text
        self._count()
        self.output.finished = all(completion.finish_reason for completion in self.output.outputs)
        return StreamEvent(self.index, self.completion.index, text, [token], self.finished, self.output)

    def abort(self) -> None:
        """End it as it stands: its request was dropped."""
        self._end("abort")

    def fail(self, reason: str) -> None:
        """End it as it stands: the device failed."""
        self._end("error")
        self.completion.stop_reason = reason

    def _end(self, reason: str) -> None:
        self.completion.finish_reason = reason
        self.output.finished = all(completion.finish_reason for completion in self.output.outputs)

    def _finish_reason(self, token: int) -> str | None:
        if token in self._stops:
            return "stop"
        return "length" if len(self.completion.token_ids) >= self._params.max_tokens else None

    def _count(self) -> None:
        metrics, now = self.output.metrics, time.perf_counter() - self._arrival
        metrics.new_tokens += 1
        metrics.total_time = now
        if metrics.new_tokens == 1:
            metrics.time_to_first_token = now
