"""What comes back to the user, under vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Logprob:
    """A token's natural log-probability, its rank (1 for the likeliest of all), and its text alone."""

    logprob: float
    rank: int
    decoded_token: str


@dataclass
class CompletionOutput:
    """One generated text.

    finish_reason: `stop` (a stop token or text), `length` (max_tokens or the context), `abort`, `error` (the device
        failed), None so far.
    stop_reason: the token of stop_token_ids or the text of `stop` that ended it (None for the model's own end token);
        after `error` what failed.
    logprobs: for each token its Logprob and those of the likeliest, by id. cumulative_logprob: the sum over the tokens.
    """

    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    cumulative_logprob: float | None = None


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
    """A request's answers so far, n of them; whole once `finished`.

    prompt_logprobs: for each token of the prompt as CompletionOutput.logprobs; None for the first: nothing predicts it.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    metrics: Metrics
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None


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
