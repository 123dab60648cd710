"""What a user asks for and what comes back, under vLLM's names."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from engine.detokenize import IncrementalDecoder
from engine.page_pool import PageName


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens, and when to stop.

    temperature: 0 takes the likeliest token (greedy); above 0 divides the logits before sampling.
    max_tokens: new tokens at most. seed: same seed, same prompt, same tokens (None: the engine's seed).
    stop_token_ids: tokens that end the text, beside the model's own. ignore_eos: do not stop at the model's own.
    Raises ValueError naming the field and its range.
    """

    temperature: float = 1.0
    max_tokens: int = 16
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or a positive number, not {self.temperature}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be between 0 and 2**64 - 1, not {self.seed}")
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))


@dataclass
class CompletionOutput:
    """One generated text. `finish_reason`: `stop` (a stop token), `length` (max_tokens or the context), None so far."""

    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass
class Metrics:
    """Counts, and times in seconds since the request was added."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    time_to_first_token: float = 0.0
    total_time: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Decode rate: tokens after the first, over the time after the first."""
        decoding = self.total_time - self.time_to_first_token
        return (self.new_tokens - 1) / decoding if decoding > 0 and self.new_tokens > 1 else 0.0


@dataclass
class RequestOutput:
    """A request's answer so far; whole once `finished`."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    metrics: Metrics


@dataclass(frozen=True)
class StreamEvent:
    """What one step added to one request: `text` and `token_ids` are the new part, `output` the whole so far."""

    index: int
    text: str
    token_ids: list[int]
    finished: bool
    output: RequestOutput


class Request:
    """A request while the engine works on it.

    `token_ids` is the prompt and what was generated; `num_computed` counts the leading tokens whose keys and values
    are in the cache. The rest runs next: the prompt, the one token that was sampled last, or, after a preemption, both.
    """

    def __init__(
        self,
        index: int,
        prompt: str | None,
        prompt_ids: list[int],
        params: SamplingParams,
        decoder: IncrementalDecoder,
        priority: int = 0,
    ) -> None:
        self.index, self.params, self.decoder, self.priority = index, params, decoder, priority
        self.num_prompt_tokens, self.num_computed = len(prompt_ids), 0
        self.token_ids = list(prompt_ids)
        self.page_names: list[PageName] = []  # of its leading full pages, as far as they were asked for
        self.arrival = time.perf_counter()
        self.completion = CompletionOutput()
        metrics = Metrics(prompt_tokens=len(prompt_ids))
        self.output = RequestOutput(str(index), prompt, list(prompt_ids), [self.completion], False, metrics)

    @property
    def rank(self) -> tuple[int, int]:
        """Who goes first: the lower priority number, then the earlier request."""
        return self.priority, self.index

    @property
    def num_remaining(self) -> int:
        """Tokens whose keys and values are not in the cache yet."""
        return len(self.token_ids) - self.num_computed

    @property
    def max_total_tokens(self) -> int:
        """The most tokens this request can come to."""
        return self.num_prompt_tokens + self.params.max_tokens

    def append(self, token: int, stop_ids: frozenset[int], max_model_len: int) -> StreamEvent:
        """Take the next token: update text, metrics and the reason to stop, and say what is new.

        The token that stops the text is counted but not shown.
        """
        self.token_ids.append(token)
        self.completion.token_ids.append(token)
        self.completion.finish_reason = self._finish_reason(token, stop_ids, max_model_len)
        finished = self.completion.finish_reason is not None
        text = "" if self.completion.finish_reason == "stop" else self.decoder.push([token])
        text += self.decoder.finish() if finished else ""
        self.completion.text += text
        self._count()
        self.output.finished = finished
        return StreamEvent(self.index, text, [token], finished, self.output)

    def _finish_reason(self, token: int, stop_ids: frozenset[int], max_model_len: int) -> str | None:
        stops = frozenset(self.params.stop_token_ids) | (frozenset() if self.params.ignore_eos else stop_ids)
        if token in stops:
            return "stop"
        full = len(self.completion.token_ids) >= self.params.max_tokens or len(self.token_ids) >= max_model_len
        return "length" if full else None

    def _count(self) -> None:
        metrics, now = self.output.metrics, time.perf_counter() - self.arrival
        metrics.new_tokens += 1
        metrics.total_time = now
        if metrics.new_tokens == 1:
            metrics.time_to_first_token = now
