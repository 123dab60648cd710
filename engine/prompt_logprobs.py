"""Log-probabilities of the prompt's own tokens, for requests that ask for them: logits of each row, not the last alone.

Rare and dear (a product with the whole vocabulary for each token of the prompt), so plain: it waits for the device.
"""

from __future__ import annotations

import numpy as np

from bindings.device import Device
from bindings.dtypes import I32
from bindings.tensor import Tensor
from engine import ops
from engine.models.llama import Llama
from engine.request import Request
from engine.sampler import Sampler
from engine.scheduler import Piece
from engine.step_lists import StepLists


class PromptLogprobs:
    """Works on the hidden states that a step has just left behind."""

    def __init__(self, device: Device, model: Llama, sampler: Sampler) -> None:
        self._model, self._sampler = model, sampler
        self._lists = StepLists(device, model.stream, "prompt_logprobs")

    def collect(self, pieces: list[Piece], first_row: int) -> None:
        """Hand each request of a step's prefills its part. Their rows begin at the step's row `first_row`."""
        row = first_row
        for piece in pieces:
            request, start, stop, _ = piece
            if request.params.prompt_logprobs is not None and request.leader is None:
                start = max(start, request.answer.num_prompt_logprobs)  # a preempted prompt runs again
                for begin in range(start, min(stop, request.num_prompt_tokens - 1), self._limit):
                    end = min(begin + self._limit, stop, request.num_prompt_tokens - 1)
                    self._collect(request, begin, end, row + begin - piece.start)
            row += stop - piece.start

    @property
    def _limit(self) -> int:
        return self._model.scratch.chosen.shape[0]

    def _collect(self, request: Request, start: int, stop: int, row: int) -> None:
        """The positions start..stop - 1, whose hidden states lie from the step's row `row` on."""
        count, following = stop - start, request.token_ids[start + 1 : stop + 1]
        host = self._lists.begin([("rows", I32, (count,)), ("tokens", I32, (count,))])
        host["rows"][:], host["tokens"][:] = np.arange(row, row + count), following
        lists = self._lists.upload()
        logits, num_top = self._model.lm_head(self._gather(lists["rows"])), request.params.prompt_logprobs or 0
        found = self._sampler.prompt_logprobs(logits, lists["tokens"], num_top)
        request.answer.add_prompt_logprobs(following, found)

    def _gather(self, rows: Tensor) -> Tensor:
        """Rows of the last step's hidden states, where the product may fill them up to a whole block."""
        scratch = self._model.scratch
        hidden = scratch.last[0 : rows.shape[0]]
        ops.EMBEDDING(self._model.stream, out=hidden, token_ids=rows, table=scratch.normed)
        return hidden

    def close(self) -> None:
        """Free the lists. No step may be under way."""
        self._lists.close()
