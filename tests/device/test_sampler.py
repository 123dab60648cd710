"""The sampler: drawn tokens against the exact distribution, and that a draw depends on its request alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bindings.device import Device
from bindings.dtypes import F32, I32, U64
from bindings.errors import CudaError
from bindings.tensor import Tensor
from engine.logprobs import TokenLogprobs
from engine.request import Request
from engine.sampler import Parameters, Sampler
from engine.sampling_params import SamplingParams
from tests.pure.test_scheduler import answer
from tests.sampling_oracle import distribution, edited_logits
from tests.statistics import assert_follows
from tools.microtest.rounding import F32_EPS

ROWS, VOCAB, STOP_IDS = 600, 20, frozenset({18, 19})
LOGITS = np.random.default_rng(11).uniform(-1, 1, VOCAB).astype(np.float32)
PROMPT, ANSWER = [3, 4, 5, 5], [5, 6, 6]
DTYPES = {"seeds": U64, "temperature": F32, "top_k": I32, "top_p": F32, "min_p": F32, "positions": I32}


def make_request(
    params: SamplingParams, index: int = 0, generated: Sequence[int] = (), words: Any = (), completion: int = 0
) -> Request:
    params.bad_words_token_ids = tuple(map(tuple, words))
    made = Request(index, PROMPT, params, answer(index, PROMPT, params))
    made.answer.completion.index = completion
    made.token_ids.extend(generated)
    return made


class Steps:
    """A sampler, and steps of it as the runner makes them: parameters gathered by row, then launched."""

    def __init__(self, device: Device, max_seqs: int, vocab: int = VOCAB, seed: int = 0) -> None:
        self.device, self.max_seqs = device, max_seqs
        self.sampler = Sampler(device, device.stream, max_seqs, vocab, seed, STOP_IDS)
        self._kept: list[Tensor] = []

    def assign(self, requests: Sequence[Request]) -> None:
        for row, request in enumerate(requests):
            request.row = row
            self.sampler.assign(request)

    def prepare(
        self, logits: NDArray, requests: Sequence[Request], rows: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor, Parameters, NDArray[np.int32], NDArray[np.int32]]:
        """The arguments of a step's `sample`; logits float[S, V]. The first is where its tokens will be."""
        order = np.arange(len(requests), dtype=np.int32) if rows is None else np.array(rows, np.int32)
        positions = np.array([len(request.token_ids) for request in requests], np.int32)
        host = {name: self.sampler.by_row[name][order] for name in DTYPES if name != "positions"}
        on_device = {n: self.upload(v, DTYPES[n], n) for n, v in (host | {"positions": positions}).items()}
        token_ids = self.device.empty((len(requests),), I32, "token_ids")
        rows = self.upload(logits.astype(np.float32), F32, "logits")
        self._kept.append(token_ids)
        return token_ids, rows, Parameters(**on_device), order, positions

    def upload(self, values: NDArray, dtype: Any, name: str) -> Tensor:
        self._kept.append(self.device.upload(values, dtype, name))
        return self._kept[-1]

    def run(
        self, logits: NDArray, requests: Sequence[Request], rows: Sequence[int] | None = None
    ) -> tuple[list[int], TokenLogprobs | None]:
        """A step, and what came of it."""
        if rows is None:
            self.assign(requests)
        step = self.prepare(logits, requests, rows)
        pending = self.sampler.sample(*step)
        tokens = step[0].numpy().tolist()
        return tokens, pending.read() if pending else None

    def close(self) -> None:
        self.device.stream.synchronize()
        for tensor in self._kept:
            tensor.free()
        self.sampler.close()


@pytest.fixture
def steps(device: Device, request: pytest.FixtureRequest) -> Iterator[Steps]:
    made = Steps(device, getattr(request, "param", 8))
    yield made
    made.close()


WORDS = [[9], [6, 6], [5, 6, 8], [6, 6, 7]]  # the first bans 9; after ANSWER the second bans 6, the last one 7
DRAWS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 3.0},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.4},
    "penalties": {"repetition_penalty": 1.3, "frequency_penalty": -0.5, "presence_penalty": -1.2},
    "bias-and-bans": {"logit_bias": {0: 2.0, 7: -1.0}, "bad_words": ["w"], "min_tokens": 4, "stop_token_ids": [2]},
    "allowed": {"allowed_token_ids": [1, 5, 9, 19]},
    "all": {
        "temperature": 1.3, "top_k": 9, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 0.8,
        "frequency_penalty": 0.3, "presence_penalty": 0.2, "logit_bias": {4: 1.0}, "bad_words": ["w"],
        "min_tokens": 9, "allowed_token_ids": list(range(3, 20)),
    },
}  # fmt: skip


@pytest.mark.parametrize("fields", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("steps", [ROWS], indirect=True)
def test_draws_follow_the_exact_distribution(steps: Steps, fields: dict[str, Any]) -> None:
    """600 requests that differ in their seed alone."""
    words = WORDS if "bad_words" in fields else []
    requests = [make_request(SamplingParams(seed=seed, **fields), 0, ANSWER, words) for seed in range(ROWS)]
    tokens, _ = steps.run(np.tile(LOGITS, (ROWS, 1)), requests)
    edited = edited_logits(LOGITS, requests[0].params, PROMPT, ANSWER, sorted(STOP_IDS))
    expected = distribution(edited, requests[0].params)
    assert_follows(np.array(tokens), expected)
    with pytest.raises(AssertionError):  # or the test could not tell whether the fields do anything
        assert_follows(np.array(tokens), distribution(LOGITS, SamplingParams()))


ONE_LEFT = {"logit_bias": {0: 5.0}, "allowed_token_ids": [7]}
EDGES: dict[str, tuple[dict[str, Any], set[int]]] = {
    "min_p-1": ({"min_p": 1.0}, {2, 5}),
    "top_k-1-with-a-tie": ({"top_k": 1}, {2, 5}),
    "top_k-beyond-the-vocabulary": ({"top_k": 10**9, "allowed_token_ids": [3, 4]}, {3, 4}),
    "top_p-tiny-with-a-tie": ({"top_p": 1e-6}, {2, 5}),
    "top_p-keeps-all-equals-at-its-edge": ({"top_p": 0.7, "logit_bias": {3: 3.5, 4: 3.5, 6: 3.0}}, {2, 5, 3, 4}),
    "all-but-one-banned": (ONE_LEFT, {7}),
    "all-but-one-banned-greedy": ({**ONE_LEFT, "temperature": 0.0}, {7}),
    "greedy-takes-the-first-of-equals": ({"temperature": 0.0, "top_k": 3}, {2}),
    "nearly-greedy": ({"temperature": 1e-5}, {2, 5}),
}


@pytest.mark.parametrize(("fields", "possible"), EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("steps", [40], indirect=True)
def test_edges(steps: Steps, fields: dict[str, Any], possible: set[int]) -> None:
    """Two tokens tie for the first place, all others for the last; some are NaN or impossible."""
    logits = np.full((40, VOCAB), -1.0)
    logits[:, [2, 5]], logits[:, 10:15], logits[:, 15:] = 3.0, np.nan, -np.inf
    tokens, _ = steps.run(logits, [make_request(SamplingParams(seed=seed, **fields)) for seed in range(40)])
    assert set(tokens) == possible


def test_neither_nan_nor_a_banned_token_is_drawn_while_there_is_another(steps: Steps) -> None:
    logits = np.full((3, VOCAB), np.nan)
    logits[0, 13] = -50.0
    logits[1, 13] = -1e30
    logits[2, 13] = -np.inf
    params = [SamplingParams(seed=1), SamplingParams(seed=1, top_k=3, top_p=0.5), SamplingParams(temperature=0)]
    assert steps.run(logits, [make_request(each) for each in params])[0] == [13, 13, 13]


MIXED = [
    {"seed": 1}, {"temperature": 0}, {"seed": 3, "top_p": 0.8}, {"seed": 4, "repetition_penalty": 1.3},
    {"seed": 5, "top_k": 4, "logprobs": 3}, {"seed": 6, "allowed_token_ids": [1, 2, 3]}, {"min_p": 0.2},
    {"seed": 8, "min_tokens": 5, "logit_bias": {1: 1.0}},
]  # fmt: skip


def test_a_request_gets_the_same_tokens_alone_and_in_any_batch(device: Device, steps: Steps) -> None:
    """In the order of rows, in another one, and alone."""
    logits = np.random.default_rng(5).normal(0, 1, (8, VOCAB))
    requests = [make_request(SamplingParams(**fields), index) for index, fields in enumerate(MIXED)]
    together, _ = steps.run(logits, requests)
    order = [6, 2, 0, 7, 1, 5, 4, 3]
    again, _ = steps.run(logits[order], [requests[i] for i in order], rows=order)
    assert again == [together[i] for i in order]
    for index, request in enumerate(requests):
        alone = Steps(device, 1)
        assert alone.run(logits[index : index + 1], [request])[0] == together[index : index + 1]
        alone.close()


@pytest.mark.parametrize("steps", [64], indirect=True)
def test_what_a_draw_is_keyed_by(device: Device, steps: Steps) -> None:
    """Seed, answer, position; without a seed that of the engine, and the prompt's number."""
    flat = np.zeros((64, VOCAB))

    def draw(requests: Iterator[Request], at: Steps = steps) -> list[int]:
        return at.run(flat, list(requests))[0]

    seeded = draw(make_request(SamplingParams(seed=7), i) for i in range(64))
    assert len(set(seeded)) == 1, "the number of a prompt counts though there is a seed"
    answers = draw(make_request(SamplingParams(seed=7), 0, completion=i) for i in range(64))
    assert answers[0] == seeded[0] and len(set(answers)) > 10
    positions = draw(make_request(SamplingParams(seed=7), 0, [1] * i) for i in range(64))
    assert positions[0] == seeded[0] and len(set(positions)) > 10
    unseeded = draw(make_request(SamplingParams(), i) for i in range(64))
    assert len(set(unseeded)) > 10
    other = Steps(device, 64, seed=1)
    shifted = draw((make_request(SamplingParams(), i) for i in range(64)), other)
    other.close()
    assert shifted[:-1] == unseeded[1:]


@pytest.mark.parametrize("fields", [{}, {"repetition_penalty": 1.7, "top_k": 2}], ids=["plain", "changed"])
def test_logprobs_are_those_before_any_change(steps: Steps, fields: dict[str, Any]) -> None:
    logits = np.random.default_rng(8).normal(0, 2, (3, VOCAB)).astype(np.float32)
    wanted = [SamplingParams(seed=s, logprobs=s, **fields) for s in range(3)]
    tokens, found = steps.run(logits, [make_request(each) for each in wanted])
    x = logits.astype(np.float64)
    expected = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    assert found is not None and found.top_ids.shape == (3, 2)
    error = 64 * F32_EPS * np.abs(expected).max()  # tools/microtest/reference/logprobs.py has the bound of the kernel
    for row, token in enumerate(tokens):
        entries = found.entries(row, token, row, str)
        likeliest = np.argsort(-expected[row])[:row].tolist()
        assert list(entries) == [token, *(each for each in likeliest if each != token)]
        for each, entry in entries.items():
            assert abs(entry.logprob - expected[row, each]) <= error
            assert entry.rank == 1 + (expected[row] > expected[row, each]).sum() and entry.decoded_token == str(each)


def test_a_plain_step_returns_no_logprobs_and_a_vocabulary_smaller_than_the_top_is_no_error(device: Device) -> None:
    small = Steps(device, 2, vocab=3)
    assert small.run(np.zeros((1, 3)), [make_request(SamplingParams(seed=1))])[1] is None
    _, found = small.run(np.zeros((1, 3)), [make_request(SamplingParams(seed=1, logprobs=20))])
    assert found is not None and found.top_ids.tolist() == [[0, 1, 2]]
    assert len(found.entries(0, 1, 20, str)) == 3
    small.close()


def test_logprobs_of_a_prompt(steps: Steps) -> None:
    logits = np.random.default_rng(9).normal(0, 2, (5, VOCAB)).astype(np.float32)
    following = np.array([4, 0, 19, 7, 7], np.int32)
    found = steps.sampler.prompt_logprobs(
        steps.upload(logits, F32, "logits"), steps.upload(following, I32, "following"), 2
    )
    x = logits.astype(np.float64)
    expected = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    error = 64 * F32_EPS * np.abs(expected).max()
    assert (np.abs(found.chosen - expected[np.arange(5), following]) <= error).all()
    assert found.top_ids.tolist() == np.argsort(-expected, axis=1)[:, :2].tolist()


def _two_steps(device: Device) -> list[Any]:
    """Two steps with lists of all kinds, both given before anything is waited for; what came of each."""
    steps, rng, prepared = Steps(device, 8), np.random.default_rng(2), []
    for rows in ([0, 1, 2, 3, 4], [5, 6, 7]):
        fields: dict[str, Any] = {"logit_bias": {t: float(rng.normal()) for t in range(VOCAB)}, "logprobs": 2}
        fields["allowed_token_ids"] = rng.permutation(VOCAB)[:6].tolist()
        requests = [make_request(SamplingParams(seed=row, top_k=5, **fields), row) for row in rows]
        for row, request in zip(rows, requests, strict=True):
            request.row = row
            steps.sampler.assign(request)
        prepared.append(steps.prepare(rng.normal(0, 1, (len(rows), VOCAB)), requests, rows))
    pending = [steps.sampler.sample(*step) for step in prepared]
    device.stream.synchronize()
    found = [each.read() for each in pending if each is not None]
    outcomes = [
        (step[0].numpy().tolist(), each.top_logprobs.tolist()) for step, each in zip(prepared, found, strict=True)
    ]
    steps.close()
    return outcomes


@pytest.mark.cpu_device_only
@pytest.mark.usefixtures("any_schedule")
def test_steps_that_run_late_get_their_own_lists(device: Device, schedule_seeds: range) -> None:
    """On streams that run nothing before the host waits: a list that is written again too early is found."""
    from bindings.cpu import driver

    expected = _two_steps(device)
    for seed in schedule_seeds:
        driver.set_streams("lazy", seed)
        try:
            late = _two_steps(device)
        except CudaError as error:
            late = [str(error)]
            driver.reset_sticky()
        driver.set_streams("eager")
        assert late == expected
