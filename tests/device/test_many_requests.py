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

Answers = dict[int, list[int]]

COUNT = 64
ABORTED = range(7, COUNT, 16)


@dataclass
class Case:
    """Requests to a model, none of them longer than max_model_len; `pages`: so few that some must start anew."""

    model: str | None
    requests: list[tuple[list[int], SamplingParams]]
    max_model_len: int
    pages: int


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
    return Case(None, mixed_requests(list(words), 16, 4), 48, 3)


def engine(case: Case, device: Device, **options: Any) -> LLM:
    return LLM(model=case.model, device=device.kind, max_model_len=case.max_model_len, **options)


@pytest.mark.parametrize("deterministic", [False, True], ids=["normal", "deterministic"])
def test_each_request_gets_what_it_gets_alone(case: Case, device: Device, deterministic: bool) -> None:
    """Reading tokens a step late, and in step with the device where that does not take too long."""
    for lookahead in (True,) if deterministic or case.model is None else (False, True):
        answers, rows = press(case, device, deterministic, lookahead)
        if deterministic:
            check_logits(case, device, answers, rows)
        else:
            check_tokens(case, device, answers)


def press(case: Case, device: Device, deterministic: bool, lookahead: bool) -> tuple[Answers, set[Row]]:
    """The answers to all requests at once, and in deterministic mode the logits that chose them."""
    options: dict[str, Any] = {"deterministic": deterministic, "enforce_eager": deterministic}
    options |= {"max_num_seqs": 12, "max_num_batched_tokens": 64, "async_scheduling": lookahead}
    with engine(case, device, **options) as llm:
        pool = 16 * case.pages * llm.kv_bytes_per_token
    with engine(case, device, kv_cache_bytes=pool, **options) as llm:
        with recorded_logits() if deterministic else nullcontext(set[Row]()) as rows:
            answers = run_together(llm, case)
        assert llm.scheduler.num_preemptions > 0 and llm.cache.statistics.hit_tokens > 0
        assert llm.cache.available == llm.cache.num_pages == case.pages
    for i, (_, params) in enumerate(case.requests):
        assert i in ABORTED or len(answers[i]) == params.max_tokens
    return answers, rows


def check_tokens(case: Case, device: Device, answers: Answers) -> None:
    """Against an engine that runs one request at a time and shares nothing."""
    with engine(case, device, max_num_seqs=1, enable_prefix_caching=False) as alone:
        for i, answer in answers.items():
            prompt, params = case.requests[i]
            assert alone.generate([prompt], params)[0].outputs[0].token_ids[: len(answer)] == answer, f"request {i}"


def check_logits(case: Case, device: Device, answers: Answers, rows: set[Row]) -> None:
    """Against each text alone, whole: the logits after every token, and so which token is the likeliest."""
    rows_alone: set[Row] = set()
    with engine(case, device, max_num_seqs=1, deterministic=True) as alone:
        for i, (prompt, _) in enumerate(case.requests):
            answer = answers.get(i, [])
            for _ in range(3 if i in ABORTED else 1):  # an abort comes while up to two tokens more are under way
                logits = alone.score(prompt + answer)
                likeliest = logits.argmax(axis=-1).tolist()
                assert likeliest[len(prompt) - 1 : -1] == answer, f"request {i}"
                answer = answer + likeliest[-1:]
            rows_alone |= rows_of(logits, range(1, len(logits) + 1))
    strangers = rows - rows_alone
    assert len(rows) > COUNT and not strangers, f"{len(strangers)} of {len(rows)} rows of logits have other bits"


def run_together(llm: LLM, case: Case) -> Answers:
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
        steps += 1
    return dict(sorted(answers.items()))
