"""A request as the scheduler sees it: tokens, and how far they have come. Its text: answer.py."""

from __future__ import annotations

from collections.abc import Sequence

from engine.answer import Answer
from engine.page_pool import PageName
from engine.sampling_params import SamplingParams


class Request:
    """One answer to one prompt while the engine works on it.

    token_ids: the prompt and what was generated, as far as the host has read it.
    num_tokens: the same with the token that a step under way is about to choose.
    num_computed: how many leading tokens have their keys and values in the cache, or get them in a step under way.
        The rest runs next: the prompt, the one token that was chosen last, or, after a preemption, both.
    max_total_tokens: the most tokens this request can come to. The last of them never runs.
    room: how far it may decode, a token a step, before the scheduler has to look at it again; 0 while it prefills.
    row: its row in the arrays that are kept for each running request; -1 while it waits.
    step_row: where in the last step's batch it was: there lies the token that the host has not read yet.
    forks: the other answers to its prompt. They join when this one has computed the prompt, and share its pages.
    leader: whose fork it is. prompt_step: the number of the step that computed the prompt.
    """

    __slots__ = (
        "answer", "forks", "index", "leader", "max_total_tokens", "num_computed", "num_prompt_tokens", "num_tokens",
        "page_names", "params", "priority", "prompt_step", "room", "row", "step_row", "token_ids",
    )  # fmt: skip

    def __init__(
        self, index: int, prompt_ids: Sequence[int], params: SamplingParams, answer: Answer, priority: int = 0
    ) -> None:
        self.index, self.params, self.answer, self.priority = index, params, answer, priority
        self.token_ids = list(prompt_ids)
        self.num_prompt_tokens = self.num_tokens = len(prompt_ids)
        assert params.max_tokens is not None, "max_tokens is open: params_for_model settles it"
        self.max_total_tokens = self.num_prompt_tokens + params.max_tokens
        self.num_computed = self.room = self.step_row = 0
        self.row = self.prompt_step = -1
        self.page_names: list[PageName] = []  # of its leading full pages, as far as they were asked for
        self.forks: list[Request] = []
        self.leader: Request | None = None

    @property
    def rank(self) -> tuple[int, int]:
        """Who goes first: the lower priority number, then the earlier request."""
        return self.priority, self.index

    @property
    def all_scheduled(self) -> bool:
        """Whether its last token has been chosen, or is about to be: nothing is left to run."""
        return self.num_tokens >= self.max_total_tokens
