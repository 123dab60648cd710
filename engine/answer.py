"""One answer as it grows: tokens in, text and the reason to stop out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Protocol

from engine.logprobs import TokenLogprobs
from engine.outputs import Logprob, RequestOutput, StreamEvent
from engine.sampling_params import SamplingParams


class Decoder(Protocol):
    """What an answer needs of engine/detokenize.py::IncrementalDecoder."""

    def push(self, ids: list[int]) -> str:
        """Take further ids; returns the text that has become certain."""

    def finish(self) -> str:
        """The text still held back."""

    def token_text(self, token: int) -> str:
        """The text of one token alone."""


class Answer:
    """Completion number `completion` of `output`. `params` is as params_for_model.py leaves it.

    stop_ids: the model's own end tokens.
    streams: whether somebody reads the answer as it comes. Otherwise there is one event, at the end, and where no stop
        text has to be looked for the text is made then, all at once: at 256 answers a step each token must be cheap.
    """

    def __init__(
        self,
        index: int,
        output: RequestOutput,
        params: SamplingParams,
        decoder: Decoder,
        stop_ids: frozenset[int] = frozenset(),
        completion: int = 0,
        streams: bool = True,
    ) -> None:
        self.index, self.output, self.completion, self.streams = index, output, output.outputs[completion], streams
        self._params, self._decoder = params, decoder
        self._stops = frozenset(params.stop_token_ids or ()) | (frozenset() if params.ignore_eos else stop_ids)
        self._min_tokens, self._max_tokens = params.min_tokens, params.max_tokens or sys.maxsize
        self._every_token = params.detokenize and (streams or bool(params.stop))
        # A text of this length at the end may turn out to begin a stop text, so it is not shown yet.
        longest = max(map(len, params.stop or ()), default=1)
        self._hold_back = 0 if params.include_stop_str_in_output else longest - 1
        self._text = ""
        self._shown, self._told = 0, 0  # characters and tokens that events have carried
        self._arrival = time.perf_counter()
        if params.logprobs is not None:
            self.completion.logprobs, self.completion.cumulative_logprob = [], 0.0
        if params.prompt_logprobs is not None and output.prompt_logprobs is None:
            output.prompt_logprobs = [None]  # nothing predicts the first token

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return self.completion.finish_reason is not None

    def append(self, token: int, logprobs: TokenLogprobs | None = None, row: int = 0) -> StreamEvent | None:
        """Take the next token, and its row of `logprobs` if the request wants any.

        Returns what is new since the last event; None while nobody reads along and the answer goes on. A token that
        ends the text is counted but not shown, unless include_stop_str_in_output.
        """
        ids = self.completion.token_ids
        ids.append(token)
        count = len(ids)
        if count == 1:
            self._count_first()
        if logprobs is not None and self.completion.logprobs is not None:
            self._take_logprobs(token, logprobs, row)
        if token in self._stops and count >= self._min_tokens:
            self._end("stop", token if token in (self._params.stop_token_ids or ()) else None)
        elif count >= self._max_tokens:
            self.completion.finish_reason = "length"
        if self._every_token:
            self._add_text(token)
        if not (self.streams or self.finished):
            return None
        if self.finished:
            self._close()
        return self._event()

    @property
    def num_prompt_logprobs(self) -> int:
        """How many of the prompt's tokens are known to come after which: all up to here."""
        return len(self._prompt_logprobs) - 1

    @property
    def _prompt_logprobs(self) -> list[dict[int, Logprob] | None]:
        assert self.output.prompt_logprobs is not None, "nobody asked for them"
        return self.output.prompt_logprobs

    def add_prompt_logprobs(self, following: Sequence[int], logprobs: TokenLogprobs) -> None:
        """Take a piece of the prompt's log-probabilities: a row for each of the tokens `following` its own.

        Pieces come in the prompt's order.
        """
        num_top, text = self._params.prompt_logprobs or 0, self._decoder.token_text
        self._prompt_logprobs.extend(logprobs.entries(row, token, num_top, text) for row, token in enumerate(following))

    def abort(self) -> StreamEvent:
        """End it as it stands: its request was dropped."""
        return self._break_off("abort", None)

    def fail(self, reason: str) -> StreamEvent:
        """End it as it stands: the device failed."""
        return self._break_off("error", reason)

    def _break_off(self, finish_reason: str, stop_reason: str | None) -> StreamEvent:
        self._close()
        self._end(finish_reason, stop_reason)
        return self._event()

    def _end(self, reason: str, stop_reason: int | str | None) -> None:
        self.completion.finish_reason, self.completion.stop_reason = reason, stop_reason

    def _add_text(self, token: int) -> None:
        if self.completion.finish_reason == "stop" and not self._params.include_stop_str_in_output:
            return
        self._extend(self._decoder.push([token]))

    def _extend(self, text: str) -> None:
        """Add text, and cut it at the earliest stop text that ends in it."""
        before = len(self._text)
        self._text += text
        if not text or len(self.completion.token_ids) <= self._min_tokens:
            return
        found = [
            (at, stop)
            for stop in self._params.stop or ()
            if (at := self._text.find(stop, max(0, before - len(stop) + 1))) >= 0
        ]
        if found:
            at, stop = min(found, key=lambda each: each[0])
            self._text = self._text[: at + len(stop) * self._params.include_stop_str_in_output]
            self._end("stop", stop)

    def _close(self) -> None:
        """The end: what the decoder still holds back, or all of the text if nobody wanted it earlier."""
        completion = self.completion
        if self._params.detokenize and not isinstance(completion.stop_reason, str):
            if not self._every_token:
                hidden = completion.finish_reason == "stop" and not self._params.include_stop_str_in_output
                self._text = self._decoder.push(completion.token_ids[: len(completion.token_ids) - hidden])
            self._extend(self._decoder.finish())

    def _event(self) -> StreamEvent:
        ids, shown = self.completion.token_ids, self._shown
        self.output.finished = self.finished and all(each.finish_reason for each in self.output.outputs)
        self._shown = max(shown, len(self._text) - (0 if self.finished else self._hold_back))
        self.completion.text = self._text if self.finished else self._text[: self._shown]
        new_ids, self._told = ids[self._told :], len(ids)
        self._count_all()
        new_text = self._text[shown : self._shown]
        return StreamEvent(self.index, self.completion.index, new_text, new_ids, self.finished, self.output)

    def _take_logprobs(self, token: int, logprobs: TokenLogprobs, row: int) -> None:
        entries = logprobs.entries(row, token, self._params.logprobs or 0, self._decoder.token_text)
        assert self.completion.logprobs is not None and self.completion.cumulative_logprob is not None
        self.completion.logprobs.append(entries)
        self.completion.cumulative_logprob += entries[token].logprob

    def _count_first(self) -> None:
        metrics = self.output.metrics
        if metrics.time_to_first_token == 0:
            metrics.time_to_first_token = time.perf_counter() - self._arrival

    def _count_all(self) -> None:
        metrics = self.output.metrics
        metrics.new_tokens = sum(len(each.token_ids) for each in self.output.outputs)
        metrics.total_time = time.perf_counter() - self._arrival
