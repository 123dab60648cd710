"""What comes back to the user, under vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class CompletionOutput:
    """One generated text.

    finish_reason: `stop` (a stop token), `length` (max_tokens or the context), `abort`, `error`, None so far.
    stop_reason: what failed, after `error`.
    """

    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None


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
    """What one step added to one answer: `text` and `token_ids` are the new part, `output` the whole so far.

    index: the request; completion: which of its n answers. finished: this answer is whole.
    """

    index: int
    completion: int
    text: str
    token_ids: list[int]
    finished: bool
    output: RequestOutput
