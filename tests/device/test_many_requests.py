"""64 requests at once, of all lengths, arriving one by one, with shared beginnings, aborts and too few pages.

Each one's tokens are those that it gets alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bindings.device import Device
from engine import LLM, SamplingParams
from engine.random_model import write_random_model

Requests = list[tuple[list[int], SamplingParams]]

COUNT = 64
ABORTED = range(7, COUNT, 16)


def mixed_requests(words: list[int], longest_tail: int, longest_answer: int) -> Requests:
    """Prompts out of `words`, most with up to 3 pages of them in common; answers of all lengths up to the longest."""
    rng, requests = random.Random(0), []
    for i in range(COUNT):
        start = rng.randrange(len(words) - longest_tail)
        prompt = words[: 16 * (i % 4)] + words[start : start + rng.randint(1, longest_tail)]
        params = SamplingParams(temperature=0, max_tokens=1 + i % longest_answer, ignore_eos=True)
        requests.append((prompt, params))
    return requests


@pytest.fixture(scope="module", params=["toy", "default"])
def case(request: pytest.FixtureRequest, device: Device, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """(model, requests, pages of the pressed pool)."""
    if request.param == "toy":
        folder: Path = tmp_path_factory.mktemp("models") / "toy"
        write_random_model("toy", folder)
        rng = random.Random(1)
        return str(folder), mixed_requests([rng.randrange(256) for _ in range(200)], 89, 30), 24
    with LLM(device=device.kind, max_num_seqs=1, max_model_len=16) as llm:
        words = llm.tokenizer.encode(Path(__file__).read_text("utf-8").split('"""')[1] * 4)
    return None, mixed_requests(list(words), 30, 5), 12


@pytest.fixture(scope="module", params=[False, True], ids=["normal", "deterministic"])
def alone(request: pytest.FixtureRequest, case: tuple, device: Device) -> Iterator[tuple[bool, list[list[int]]]]:
    """Whether in deterministic mode; the answers of an engine that runs one request at a time and shares nothing."""
    model, requests, _ = case
    options: dict[str, Any] = {"deterministic": request.param, "enable_prefix_caching": False, "max_model_len": 256}
    with LLM(model=model, device=device.kind, max_num_seqs=1, **options) as llm:
        yield request.param, [list(llm.generate([ids], params)[0].outputs[0].token_ids) for ids, params in requests]


@pytest.mark.parametrize("lookahead", [False, True], ids=["in step", "a step ahead"])
def test_tokens_are_those_of_each_request_alone(
    case: tuple, alone: tuple[bool, list[list[int]]], device: Device, lookahead: bool
) -> None:
    model, requests, pages = case
    deterministic, answers = alone
    options = {"deterministic": deterministic, "async_scheduling": lookahead, "max_model_len": 256}
    with LLM(model=model, device=device.kind, max_num_seqs=4, max_num_batched_tokens=64, **options) as probe:
        page_bytes = 16 * probe.kv_bytes_per_token
    limits = {"max_num_seqs": 12, "max_num_batched_tokens": 64, "kv_cache_bytes": pages * page_bytes}
    with LLM(model=model, device=device.kind, **limits, **{**options, "max_model_len": 16 * pages}) as llm:
        assert run_together(llm, requests) == {i: answer for i, answer in enumerate(answers) if i not in ABORTED}
        assert llm.scheduler.num_preemptions > 0 and llm.cache.statistics.hit_tokens > 0
        assert llm.cache.available == llm.cache.num_pages == pages


def run_together(llm: LLM, requests: Requests) -> dict[int, list[int]]:
    """Two requests arrive a step; some are aborted three steps after they came."""
    answers: dict[int, list[int]] = {}
    numbers: dict[int, int] = {}
    steps = 0
    while llm.has_unfinished_requests or len(numbers) < len(requests):
        for i in range(2 * steps, min(2 * steps + 2, len(requests))):
            numbers[llm.add_request(*requests[i])] = i
        for event in llm.step():
            answers.setdefault(numbers[event.index], []).extend(event.token_ids)
        for number, i in numbers.items():
            if i in ABORTED and i // 2 + 3 == steps:
                llm.abort_request(number)
                answers.pop(i, None)
        steps += 1
    return answers
