"""Which single logits of a request are changed before its next token is drawn: bias, bans and penalties.

Kept up to date on the host, for the requests that ask for it; the kernel edit_logits applies the list. Order and
meaning are vLLM's: x + bias, then divided by the repetition penalty where positive and multiplied where not, then minus
the penalties of frequency and presence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from engine.sampling_params import SamplingParams

_COLUMNS = {"tokens": np.int32, "biases": np.float32, "divisors": np.float32, "penalties": np.float32}


class LogitEdits:
    """The edits of one request: a row for each token that is edited, or may be one day.

    prompt_ids: what repetition_penalty counts as having come, beside the answer. stop_ids: the model's own end tokens.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], stop_ids: Iterable[int]) -> None:
        self._params, self._num_prompt_tokens = params, len(prompt_ids)
        self._known = len(prompt_ids)  # leading tokens of the request that the rows have taken in
        self._row_of: dict[int, int] = {}
        self._columns: dict[str, NDArray] = {name: np.empty(16, dtype) for name, dtype in _COLUMNS.items()}
        self._counts: dict[int, int] = {}  # of the answer's tokens
        for token, bias in (params.logit_bias or {}).items():
            self._set("biases", token, bias)
        if params.repetition_penalty != 1:
            for token in dict.fromkeys(prompt_ids):
                self._set("divisors", token, params.repetition_penalty)
        ends = sorted({*stop_ids, *(params.stop_token_ids or ())}) if params.min_tokens else []
        self._ends = [self._row(token) for token in ends]
        self._words = [(list(word[:-1]), self._row(word[-1])) for word in params.bad_words_token_ids if word]
        self._always = bool(params.logit_bias) or params.penalises
        self._banned: list[int] = []  # rows, by the last `prepare`

    def _set(self, column: str, token: int, value: float) -> None:
        row = self._row(token)  # first: a new row may move the columns
        self._columns[column][row] = value

    def _row(self, token: int) -> int:
        """The row of a token; a new one changes nothing."""
        row = self._row_of.get(token)
        if row is None:
            row = self._row_of[token] = len(self._row_of)
            if row == len(self._columns["tokens"]):
                self._columns = {name: np.resize(column, 2 * row) for name, column in self._columns.items()}
            for column, neutral in zip(self._columns.values(), (token, 0.0, 1.0, 0.0), strict=True):
                column[row] = neutral
        return row

    def prepare(self, token_ids: Sequence[int], position: int) -> int:
        """Take in the tokens before `position`, where the next one will stand; the number of rows to write.

        Of token_ids nothing behind the prompt is looked at unless params.needs_tokens.
        """
        if self._params.penalises:
            for token in token_ids[self._known :]:
                self._penalise(token)
            self._known = len(token_ids)
        self._banned = self._banned_rows(token_ids, position - self._num_prompt_tokens)
        return len(self._row_of) if self._always or self._banned else 0

    def _penalise(self, token: int) -> None:
        params = self._params
        count = self._counts[token] = self._counts.get(token, 0) + 1
        self._set("divisors", token, params.repetition_penalty)
        self._set("penalties", token, params.frequency_penalty * count + params.presence_penalty)

    def _banned_rows(self, token_ids: Sequence[int], generated: int) -> list[int]:
        """End tokens before min_tokens, and tokens that would complete a bad word within the answer."""
        banned = self._ends[:] if generated < self._params.min_tokens else []
        for head, row in self._words:
            start = len(token_ids) - len(head)
            if not head or (start >= self._num_prompt_tokens and list(token_ids[start:]) == head):
                banned.append(row)
        return banned

    def write(self, host: dict[str, NDArray], start: int) -> int:
        """Write the rows that `prepare` counted behind `start`; where they end."""
        stop = start + len(self._row_of)
        for name, column in self._columns.items():
            host[name][start:stop] = column[: stop - start]
        for row in self._banned:
            host["biases"][start + row] = -inf
        return stop
