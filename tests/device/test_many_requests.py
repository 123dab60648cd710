"""64 requests at once, of all lengths, arriving one by one, with shared beginnings, aborts and too few pages.

Each one's tokens are those that it gets alone; in deterministic mode, the logits too, to the last bit.
"""

from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bindings.device import Device
from engine import LLM, SamplingParams
from engine.model_files import resolve_model
from engine.progress import silent
from engine.random_model import write_random_model
from engine.tokenizer import load_tokenizer
from tests.recorded_logits import Row, recorded_logits, rows_of

COUNT = 64
ABORTED = range(7, COUNT, 16)


@dataclass
class Case:
    """Requests to a model, none of them longer than max_model_len; `pages`: so few that some must start anew."""

    model: str | None
    requests: list[tuple[list[int], SamplingParams]]
    max_model_len: int
    pages: int


@dataclass
class Alone:
    """What an engine makes of each request that runs one at a time and shares nothing."""

    deterministic: bool
    answers: list[list[int]]
    rows: set[Row]


def mixed_requests(words: list[int], longest_tail: int, longest_answer: int) -> list[tuple[list[int], SamplingParams]]:
    """Prompts out of `words`, half of them with a page of them in common; answers of all lengths up to the longest."""
    rng, requests = random.Random(0), []
    for i in range(COUNT):
        start = rng.randrange(len(words) - longest_tail)
        prompt = words[: 16 * (i % 2)] + words[start : start + rng.randint(1, longest_tail)]
        params = SamplingParams(temperature=0, max_tokens=1 + i % longest_answer, ignore_eos=True)
        requests.append((prompt, params))
    return requests


@pytest.fixture(scope="module", params=["toy", "default"])
def case(request: pytest.FixtureRequest, device: Device, tmp_path_factory: pytest.TempPathFactory) -> Case:
    if request.param == "toy":
        folder: Path = tmp_path_factory.mktemp("models") / "toy"
        write_random_model("toy", folder)
        rng = random.Random(1)
        return Case(str(folder), mixed_requests([rng.randrange(256) for _ in range(200)], 75, 20), 112, 14)
    words = load_tokenizer(resolve_model(None, silent)).encode((__doc__ or "") * 4)
    return Case(None, mixed_requests(list(words), 12, 6), 48, 4)


def engine(case: Case, device: Device, **options: Any) -> LLM:
    return LLM(model=case.model, device=device.kind, max_model_len=case.max_model_len, **options)


@pytest.fixture(scope="module", params=[False, True], ids=["normal", "deterministic"])
def alone(request: pytest.FixtureRequest, case: Case, device: Device) -> Alone:
    deterministic, rows = request.param, set()
    options: dict[str, Any] = {"deterministic": deterministic, "enable_prefix_caching": False}
    with engine(case, device, max_num_seqs=1, **options) as llm:
        answers = [list(llm.generate([ids], params)[0].outputs[0].token_ids) for ids, params in case.requests]
        for (prompt, _), answer in zip(case.requests, answers, strict=True):
            if deterministic:
                logits = llm.score(prompt + answer)
                rows |= rows_of(logits, range(1, len(logits) + 1))
    return Alone(deterministic, answers, rows)


def test_each_request_gets_what_it_gets_alone(case: Case, alone: Alone, device: Device) -> None:
    """Reading tokens in step with the device or a step late; the real model, which takes its time, in one way each."""
    for lookahead in (False, True) if case.model else (not alone.deterministic,):
        check(case, alone, device, lookahead)


def check(case: Case, alone: Alone, device: Device, lookahead: bool) -> None:
    options: dict[str, Any] = {"deterministic": alone.deterministic, "enforce_eager": alone.deterministic}
    options |= {"max_num_seqs": 12, "max_num_batched_tokens": 64, "async_scheduling": lookahead}
    with engine(case, device, **options) as llm:
        pool = 16 * case.pages * llm.kv_bytes_per_token
    with engine(case, device, kv_cache_bytes=pool, **options) as llm:
        with recorded_logits() if alone.deterministic else nullcontext(set[Row]()) as rows:
            answers = run_together(llm, case)
        assert answers == {i: answer for i, answer in enumerate(alone.answers) if i not in ABORTED}
        assert llm.scheduler.num_preemptions > 0 and llm.cache.statistics.hit_tokens > 0
        assert llm.cache.available == llm.cache.num_pages == case.pages
    if alone.deterministic:
        assert len(rows) >= sum(map(len, answers.values()))
        strangers = rows - alone.rows
        assert not strangers, f"{len(strangers)} of {len(rows)} rows of logits have other bits than alone"


def run_together(llm: LLM, case: Case) -> dict[int, list[int]]:
    """Four requests arrive a step; some are aborted two steps after they came."""
    answers: dict[int, list[int]] = {}
    numbers: dict[int, int] = {}
    steps = 0
    while llm.has_unfinished_requests or len(numbers) < len(case.requests):
        for i in range(4 * steps, min(4 * steps + 4, len(case.requests))):
            numbers[llm.add_request(*case.requests[i])] = i
        for event in llm.step():
            answers.setdefault(numbers[event.index], []).extend(event.token_ids)
        for number, i in numbers.items():
            if i in ABORTED and i // 4 + 2 == steps:
                llm.abort_request(number)
                answers.pop(i, None)
        steps += 1
    return answers
