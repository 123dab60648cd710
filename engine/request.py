"""A request as the scheduler sees it: tokens, and how far they have come. Its text: answer.py."""

from __future__ import annotations

from collections.abc import Sequence

from engine.answer import Answer
from engine.page_pool import PageName
from engine.sampling_params import SamplingParams


class Request:
    """One answer to one prompt while the engine works on it.

    `token_ids` is the prompt and what was generated; `num_computed` counts the leading tokens whose keys and values
    are in the cache. The rest runs next: the prompt, the one token that was sampled last, or, after a preemption, both.
    """

    def __init__(
        self, index: int, prompt_ids: Sequence[int], params: SamplingParams, answer: Answer, priority: int = 0
    ) -> None:
        self.index, self.params, self.answer, self.priority = index, params, answer, priority
        self.token_ids = list(prompt_ids)
        self.num_prompt_tokens, self.num_computed = len(prompt_ids), 0
        self.page_names: list[PageName] = []  # of its leading full pages, as far as they were asked for

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
