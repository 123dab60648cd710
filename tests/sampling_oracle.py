"""What the sampler should do, by the definitions: float64, a sort, no kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.sampling_params import SamplingParams


def edited_logits(
    logits: NDArray, params: SamplingParams, prompt: Sequence[int], answer: Sequence[int], stop_ids: Sequence[int] = ()
) -> NDArray[np.float64]:
    """float64[V]: after masks, bias, bans and penalties, in vLLM's order."""
    x = logits.astype(np.float64)
    if params.allowed_token_ids is not None:
        x[[token for token in range(len(x)) if token not in params.allowed_token_ids]] = -np.inf
    for token, bias in (params.logit_bias or {}).items():
        x[token] += bias
    for token in banned(params, answer, stop_ids):
        x[token] = -np.inf
    for token in {*prompt, *answer}:
        x[token] = x[token] / params.repetition_penalty if x[token] > 0 else x[token] * params.repetition_penalty
    for token, count in Counter(answer).items():
        x[token] -= params.frequency_penalty * count + params.presence_penalty
    return x


def banned(params: SamplingParams, answer: Sequence[int], stop_ids: Sequence[int]) -> set[int]:
    """End tokens before min_tokens, and whatever would complete a bad word."""
    found = {*stop_ids, *(params.stop_token_ids or ())} if len(answer) < params.min_tokens else set()
    for *head, last in params.bad_words_token_ids:
        if not head or list(answer[-len(head) :]) == head:
            found.add(last)
    return found


def distribution(logits: NDArray, params: SamplingParams) -> NDArray[np.float64]:
    """float64[V]: the probabilities of the next token, of logits that are edited already. All ties are kept."""
    x = logits.astype(np.float64) / params.temperature
    p = np.exp(x - x.max())
    kept = p >= params.min_p * p.max()
    if 0 < params.top_k < kept.sum():
        kept &= x >= np.sort(x[kept])[-params.top_k]
    p = np.where(kept, p, 0.0) / p[kept].sum()
    order = np.argsort(-p, kind="stable")
    reached = np.searchsorted(np.cumsum(p[order]), params.top_p) if params.top_p < 1 else len(p) - 1
    p[p < p[order[reached]]] = 0.0
    return p / p.sum()
