"""Deterministic mode on a toy model: a request's tokens and logits have the same bits however it was run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bindings.cublas import Blas, invariant_rows
from bindings.device import Device
from bindings.tensor import Tensor
from engine import LLM, SamplingParams
from engine.models import llama
from engine.random_model import write_random_model
from tests.recorded_logits import Row, recorded_logits, rows_of
from tools.microtest.comparator import assert_same_bits

# Rows of a product where the device's own would be fewer: so every device fills up blocks.
BLOCK = 16


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("models") / "toy"
    write_random_model("toy", folder)
    return folder


def block_rows() -> int:
    return max(invariant_rows(), BLOCK)


def deterministic(model: Path, device: Device, **options: Any) -> LLM:
    """An engine in deterministic mode whose products have `block_rows` rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama, "invariant_rows", block_rows)
        return LLM(model=str(model), device=device.kind, deterministic=True, **options)


@pytest.fixture(scope="module")
def alone(toy: Path, device: Device) -> Iterator[LLM]:
    """Runs one request at a time, each prompt at once, and finds nothing in a cache."""
    with deterministic(toy, device, max_num_seqs=1, enable_prefix_caching=False) as llm:
        yield llm


def mixed_requests() -> list[tuple[list[int], SamplingParams]]:
    """Sixteen prompts of 1 to 137 tokens, most with a beginning of up to 3 pages in common, and answers of 3 to 30."""
    rng = random.Random(0)
    shared = [rng.randrange(256) for _ in range(48)]
    prompts = [shared[: 16 * (i % 4)] + [rng.randrange(256) for _ in range(rng.randrange(1, 90))] for i in range(16)]
    lengths = [3 + 27 * i // 15 for i in range(16)]
    return [
        (prompt, SamplingParams(temperature=0, max_tokens=length, ignore_eos=True))
        for prompt, length in zip(prompts, lengths, strict=True)
    ]


@pytest.fixture(scope="module")
def answers(alone: LLM) -> list[list[int]]:
    return [list(alone.generate([ids], params)[0].outputs[0].token_ids) for ids, params in mixed_requests()]


@pytest.fixture(scope="module")
def rows_alone(alone: LLM, answers: list[list[int]]) -> set[Row]:
    """The logits after every token of every request and its answer, each computed alone in one piece."""
    rows: set[Row] = set()
    for (prompt, _), answer in zip(mixed_requests(), answers, strict=True):
        logits = alone.score(prompt + answer)
        rows |= rows_of(logits, range(1, len(logits) + 1))
    return rows


@pytest.fixture
def recorded() -> Iterator[set[Row]]:
    with recorded_logits() as rows:
        yield rows


def run_together(llm: LLM) -> list[list[int]]:
    """The answers to the mixed requests, which arrive one a step; two more are aborted on their way."""
    requests, answers, numbers = mixed_requests(), {}, []
    doomed = [llm.add_request(*requests[i]) for i in (15, 6)]
    while llm.has_unfinished_requests or len(numbers) < len(requests):
        if len(numbers) < len(requests):
            numbers.append(llm.add_request(*requests[len(numbers)]))
        for event in llm.step():
            answers.setdefault(event.index, []).extend(event.token_ids)
        if len(numbers) in (4, 9) and doomed:
            llm.abort_request(doomed.pop())
    return [answers[number] for number in numbers]


# Chunks, preemptions and shared pages at once (24 pages for requests of up to 11); everything side by side.
PRESSED = {"max_num_seqs": 8, "max_num_batched_tokens": 37, "max_model_len": 256}
ROOMY = {"max_num_seqs": 18}


@pytest.mark.parametrize("limits", [PRESSED, ROOMY], ids=["pressed", "roomy"])
def test_tokens_and_logits_are_those_of_each_request_alone(
    toy: Path, device: Device, alone: LLM, answers: list[list[int]], rows_alone: set[Row], recorded: set[Row],
    limits: dict[str, Any],
) -> None:  # fmt: skip
    pages = 24 * 16 * alone.kv_bytes_per_token if limits is PRESSED else None
    with deterministic(toy, device, **limits, kv_cache_bytes=pages, enforce_eager=True) as llm:
        assert run_together(llm) == answers
        assert llm.cache.statistics.hit_tokens > 0
        assert (llm.scheduler.num_preemptions > 0) == (limits is PRESSED)
    assert len(recorded) >= sum(len(answer) for answer in answers)
    strangers = recorded - rows_alone
    assert not strangers, f"{len(strangers)} of {len(recorded)} rows of logits have other bits than alone"


def test_graphs_give_the_same_tokens(toy: Path, device: Device, answers: list[list[int]]) -> None:
    """With the device's own number of rows: where any will do, blocks of it make no difference either."""
    with LLM(model=str(toy), device=device.kind, max_num_seqs=8, deterministic=True) as llm:
        assert run_together(llm) == answers


@pytest.mark.parametrize("decode_from", [0, 1, 70])
def test_a_text_scored_token_by_token_gives_the_logits_of_the_whole(alone: LLM, decode_from: int) -> None:
    length = min(2 * block_rows() + 70, 500)  # several products of logits, and of a tile's keys
    text = [(7 * i) % 256 for i in range(length)]
    assert_same_bits(alone.score(text, decode_from=decode_from), alone.score(text))


def test_without_it_the_way_a_text_was_run_shows_in_its_logits(toy: Path, device: Device, recorded: set[Row]) -> None:
    """So the tests above can fail: decodes and prompts attend through kernels that sum in different orders."""
    (prompt, params), options = mixed_requests()[15], {"max_num_seqs": 2, "enforce_eager": True}
    with LLM(model=str(toy), device=device.kind, **options) as llm:
        text = prompt + list(llm.generate([prompt], params)[0].outputs[0].token_ids)
        logits = llm.score(text)
    assert recorded - rows_of(logits, range(1, len(text) + 1))


def test_every_product_has_the_same_number_of_rows(toy: Path, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps a library that chooses by shape from choosing, seen on a device that does not choose too."""
    seen: set[int] = set()
    gemm = Blas.gemm

    def spy(blas: Blas, out: Tensor, a: Tensor, b: Tensor, *, transpose_b: bool) -> None:
        seen.add(out.shape[0])
        gemm(blas, out, a, b, transpose_b=transpose_b)

    monkeypatch.setattr(Blas, "gemm", spy)
    with deterministic(toy, device, max_num_seqs=3, max_num_batched_tokens=21) as llm:
        llm.generate([ids for ids, _ in mixed_requests()[:5]], mixed_requests()[0][1])
    assert seen == {block_rows()}
