"""The bar that `LLM.generate` and `LLM.chat` show while they run: requests done, and tokens a second, in and out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from engine.outputs import RequestOutput

# True: a bar of tqdm's on stderr, if that is a terminal. False: none. Or what makes one: called as tqdm is.
UseTqdm = bool | Callable[..., Any]


class GenerationBar:
    """A `with` takes the bar away at its end, however that comes."""

    def __init__(self, use_tqdm: UseTqdm, num_requests: int) -> None:
        make = _tqdm_on_a_terminal() if use_tqdm is True else use_tqdm
        self._bar = (
            make(total=num_requests, desc="requests", dynamic_ncols=True, postfix=_rates(0, 0)) if make else None
        )
        self._tokens_in = self._tokens_out = 0
        self._start = time.perf_counter()

    def finished(self, output: RequestOutput) -> None:
        """Count a request that has ended."""
        if self._bar is None:
            return
        self._tokens_in += len(output.prompt_token_ids)
        self._tokens_out += sum(len(completion.token_ids) for completion in output.outputs)
        seconds = time.perf_counter() - self._start
        self._bar.postfix = _rates(self._tokens_in / seconds, self._tokens_out / seconds)
        self._bar.update(1)

    def __enter__(self) -> GenerationBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _rates(tokens_in: float, tokens_out: float) -> str:
    return f"in {tokens_in:.1f} tokens/s, out {tokens_out:.1f} tokens/s"


def _tqdm_on_a_terminal() -> Callable[..., Any] | None:
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return tqdm
