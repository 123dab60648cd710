"""Sampling through the whole engine: every parameter in the answers of `generate`, against what `score` says.

Deterministic mode throughout: there a token's logits are the same bits however it is batched, so that `score` gives the
very logits that the sampler had, and equal seeds must give equal texts on any device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bindings.device import Device
from engine import LLM, SamplingParams
from engine.outputs import Logprob, RequestOutput
from engine.params_for_model import params_for_model
from tests.sampling_oracle import distribution, edited_logits
from tests.statistics import assert_follows
from tests.tiny_model import TINIEST, write_tiniest
from tools.microtest.reference.logprobs import error_bound

VOCAB, END = TINIEST["vocab_size"], TINIEST["eos_token_id"]
PAGE_BYTES = 16 * 2 * TINIEST["head_dim"] * 2  # keys and values of 16 tokens, one layer, one head, bf16
PROMPTS = [[(7 * i + 3 * s) % VOCAB for i in range(length)] for s, length in enumerate((5, 40, 1, 17, 33, 30))]
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
DRAWN = SamplingParams(
    temperature=1.3, top_k=40, top_p=0.95, min_p=0.02, seed=11, max_tokens=20, ignore_eos=True
)  # fmt: skip
PENALISED = replace(DRAWN, repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2)
# Whom they run with. The second load has nobody who keeps the host from planning a step ahead.
LOADS = {
    "penalised": [PENALISED, replace(DRAWN, seed=1), GREEDY, PENALISED, replace(PENALISED, seed=2), PENALISED],
    "not penalised": [DRAWN, replace(DRAWN, seed=1), GREEDY, DRAWN, SamplingParams(seed=3), DRAWN],
}
PRESSED = {"kv_cache_bytes": 7 * PAGE_BYTES, "max_model_len": 7 * 16}
WAYS: dict[str, dict[str, Any]] = {
    "together": {},
    "a step ahead": {"async_scheduling": True},
    "eager": {"enforce_eager": True},
    "preempted": PRESSED,
    "preempted, a step ahead": PRESSED | {"async_scheduling": True},
    "nothing shared": {"enable_prefix_caching": False, "max_num_batched_tokens": 16},
}


@pytest.fixture(scope="module")
def tiniest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiniest(tmp_path_factory.mktemp("tiniest"))


def make(tiniest: Path, device: Device, **options: Any) -> LLM:
    options = {"max_num_seqs": 8, "deterministic": True} | options
    return LLM(str(tiniest), load_format="dummy", tokenizer=str(tiniest), device=device.kind, **options)


@pytest.fixture(scope="module")
def llm(tiniest: Path, device: Device) -> Iterator[LLM]:
    with make(tiniest, device) as llm:
        yield llm


@pytest.fixture(scope="module")
def alone(tiniest: Path, device: Device) -> Iterator[LLM]:
    with make(tiniest, device, max_num_seqs=1, enable_prefix_caching=False) as llm:
        yield llm


def texts(outputs: Sequence[RequestOutput]) -> list[list[tuple[list[int], str]]]:
    return [[(answer.token_ids, answer.text) for answer in output.outputs] for output in outputs]


def first(llm: LLM, prompt: Any, params: SamplingParams) -> Any:
    """The one answer to a prompt."""
    return llm.generate(prompt if isinstance(prompt, str) else [prompt], params)[0].outputs[0]


def log_softmax(logits: NDArray) -> NDArray[np.float64]:
    x = logits.astype(np.float64)
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


# --- equal seeds, equal texts ---


@pytest.fixture(scope="module", params=LOADS)
def load(request: pytest.FixtureRequest, alone: LLM) -> tuple[list[SamplingParams], list[Any]]:
    """Parameters for each prompt, and the texts that it gets alone."""
    params = LOADS[request.param]
    return params, [texts(alone.generate([prompt], each))[0] for prompt, each in zip(PROMPTS, params, strict=True)]


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_equal_seeds_give_equal_texts(
    tiniest: Path, device: Device, load: tuple[list[SamplingParams], list[Any]], options: dict[str, Any]
) -> None:
    params, expected = load
    with make(tiniest, device, **options) as llm:
        assert texts(llm.generate(PROMPTS, params)) == expected
        if "kv_cache_bytes" in options:
            assert llm.scheduler.num_preemptions > 0
            assert llm.cache.available == llm.cache.num_pages


def test_another_seed_gives_another_text(alone: LLM) -> None:
    answers = [tuple(first(alone, PROMPTS[1], replace(PENALISED, seed=seed)).token_ids) for seed in range(8)]
    assert len(set(answers)) == 8


# --- several answers ---

FOUR = replace(PENALISED, n=4, max_tokens=24)


@pytest.fixture(scope="module")
def four_alone(alone: LLM) -> list[tuple[list[int], str]]:
    """Answer i of a prompt draws as a request with i in the upper half of its seed does."""
    each = [replace(FOUR, n=1, seed=FOUR.seed + (i << 32)) for i in range(4)]  # type: ignore[operator]
    return [texts(alone.generate([PROMPTS[1]], params))[0][0] for params in each]


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_four_answers_are_those_of_four_requests(
    tiniest: Path, device: Device, four_alone: list[tuple[list[int], str]], options: dict[str, Any]
) -> None:
    with make(tiniest, device, **options) as llm:
        assert texts(llm.generate([PROMPTS[1]], FOUR)) == [four_alone]
        assert len({tuple(ids) for ids, _ in four_alone}) == 4
        assert (llm.scheduler.num_preemptions > 0) == ("kv_cache_bytes" in options)
        if llm.scheduler.num_preemptions == 0:  # three find all of the prompt but the token that chooses the next
            assert llm.cache.statistics.hit_tokens == 3 * (len(PROMPTS[1]) - 1)
            assert llm.cache.statistics.copied_pages == 3, "all but the last to write have a copy of the page begun"
        assert llm.cache.available == llm.cache.num_pages


# --- log-probabilities ---


def assert_logprobs(found: Sequence[dict[int, Logprob] | None], ids: Sequence[int], logits: NDArray, top: int) -> None:
    """`found` are those of the tokens `ids`, each chosen by its row of `logits`, and of the `top` likeliest."""
    exact, bound = log_softmax(logits), error_bound(logits)
    assert len(found) == len(ids) == len(logits)
    for row, (token, entries) in enumerate(zip(ids, found, strict=True)):
        likeliest = np.argsort(-logits[row], kind="stable")[:top].tolist()
        assert entries is not None and set(entries) == {token, *likeliest} and next(iter(entries)) == token
        for each, entry in entries.items():
            assert abs(entry.logprob - exact[row, each]) <= bound[row]
            assert entry.rank == 1 + (logits[row] > logits[row, each]).sum()
            assert entry.decoded_token == chr(ord("0") + each)


@pytest.mark.parametrize("params", [DRAWN, PENALISED, GREEDY], ids=["drawn", "penalised", "greedy"])
def test_logprobs_are_those_of_the_models_own_logits(llm: LLM, params: SamplingParams) -> None:
    """Before penalties and thresholds, in a batch with requests that want none, or fewer."""
    wanted = [None, 5, 0, 2, None, 20]
    each = [replace(params, logprobs=count, max_tokens=6) for count in wanted]
    for output, count in zip(llm.generate(PROMPTS, each), wanted, strict=True):
        prompt, (answer,) = output.prompt_token_ids, output.outputs
        if count is None:
            assert answer.logprobs is None and answer.cumulative_logprob is None
            continue
        logits = llm.score(prompt + answer.token_ids)[len(prompt) - 1 : -1]
        assert_logprobs(answer.logprobs, answer.token_ids, logits, count)
        chosen = [entries[token].logprob for entries, token in zip(answer.logprobs, answer.token_ids, strict=True)]
        assert answer.cumulative_logprob == pytest.approx(sum(chosen), rel=1e-12)  # a float64 sum of a few


@pytest.mark.parametrize(
    "options",
    [{}, {"max_num_batched_tokens": 11}, PRESSED | {"max_num_batched_tokens": 24}],
    ids=["whole", "chunks", "preempted"],
)
def test_logprobs_of_a_prompt_are_those_of_the_models_own_logits(
    tiniest: Path, device: Device, options: dict[str, Any]
) -> None:
    """Of every token but the first, though the prefix cache has the prompts."""
    params = [replace(GREEDY, prompt_logprobs=count, max_tokens=16) for count in (0, 3, 1, None, 2, 20)]
    with make(tiniest, device, **options) as llm:
        llm.generate(PROMPTS, GREEDY)  # so that the cache knows the prompts
        again = [llm.generate(PROMPTS, params) for _ in range(2)]
        for output, count in zip(again[0], (0, 3, 1, None, 2, 20), strict=True):
            ids, found = output.prompt_token_ids, output.prompt_logprobs
            if count is None:
                assert found is None
                continue
            assert found is not None and found[0] is None, "nothing predicts the first token"
            assert_logprobs(found[1:], ids[1:], llm.score(ids)[:-1], count)
        assert [output.prompt_logprobs for output in again[1]] == [output.prompt_logprobs for output in again[0]]
        assert texts(again[1]) == texts(again[0])
        assert (llm.scheduler.num_preemptions > 0) == ("kv_cache_bytes" in options)


def test_logprobs_of_a_prompt_in_normal_mode(tiniest: Path, device: Device) -> None:
    """The two ways may round differently there. A logit then moves by a few roundings to bf16 of the hidden state.

    As in test_llm.py: some 16 roundings of 2^-8 on each side, like a random walk, and 2 more for the worst of them: 8
    steps. The log of the sum moves by no more than the logits do, so twice that.
    """
    with make(tiniest, device, deterministic=False, max_num_batched_tokens=8) as llm:
        (output,) = llm.generate([PROMPTS[1]], replace(GREEDY, prompt_logprobs=0))
        logits = llm.score(PROMPTS[1])[:-1]
        ids = PROMPTS[1][1:]
        rows = zip(output.prompt_logprobs[1:], ids, strict=True)
        found = np.array([entries[token].logprob for entries, token in rows])
        tolerance = 2 * 8 * 2.0**-8 * np.sqrt(np.mean(logits**2))
        assert (np.abs(found - log_softmax(logits)[np.arange(len(ids)), ids]) <= tolerance).all()


# --- what changes the logits: greedy answers against the definitions ---


def by_definition(llm: LLM, prompt: list[int], params: SamplingParams) -> list[int]:
    """The greedy answer, a token at a time: `score`, and the definitions in float64."""
    kept = params_for_model(params, llm.tokenizer, VOCAB, 64)
    stops = () if params.ignore_eos else (END,)
    answer: list[int] = []
    while len(answer) < (params.max_tokens or 0):
        logits = llm.score(prompt + answer)[-1]
        answer.append(int(np.argmax(edited_logits(logits, kept, prompt, answer, (END,)))))
        if len(answer) >= params.min_tokens and answer[-1] in {*stops, *(params.stop_token_ids or ())}:
            break
    return answer


@pytest.fixture(scope="module")
def plain(llm: LLM) -> list[int]:
    """The greedy answer that the fields below change."""
    answer: list[int] = first(llm, PROMPTS[1], GREEDY).token_ids
    assert answer == by_definition(llm, PROMPTS[1], GREEDY)
    return answer


def edits(plain: list[int]) -> dict[str, dict[str, Any]]:
    """Fields that the plain answer cannot survive: each is against a token of it."""
    pair = "".join(chr(ord("0") + token) for token in plain[1:3])
    others = [token for token in range(VOCAB) if token not in plain]
    return {
        "logit_bias": {"logit_bias": {plain[2]: -100.0, 9: 0.5}},
        "allowed_token_ids": {"allowed_token_ids": others},
        "bad_words, one token": {"bad_words": [chr(ord("0") + plain[0])]},
        "bad_words, two tokens": {"bad_words": [pair]},
        "repetition_penalty": {"repetition_penalty": 2.0},
        "presence_penalty": {"presence_penalty": 2.0},
        "frequency_penalty": {"frequency_penalty": 1.5},
        "stop_token_ids": {"stop_token_ids": [plain[3]]},
        "min_tokens": {"stop_token_ids": plain, "min_tokens": 5},
        "end of the model": {"ignore_eos": False, "logit_bias": {END: 3.0}},
        "all": {
            "logit_bias": {plain[0]: 1.0}, "allowed_token_ids": [*plain, *others[::2]], "bad_words": [pair],
            "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.25, "min_tokens": 3,
            "stop_token_ids": [others[1]],
        },
    }  # fmt: skip


def test_greedy_answers_follow_the_definitions(llm: LLM, plain: list[int]) -> None:
    """All in one batch; no answer is the plain one."""
    cases = edits(plain)
    params = [replace(GREEDY, **fields) for fields in cases.values()]
    answers = [output.outputs[0].token_ids for output in llm.generate([PROMPTS[1]] * len(params), params)]
    expected = [by_definition(llm, PROMPTS[1], each) for each in params]
    assert dict(zip(cases, answers, strict=True)) == dict(zip(cases, expected, strict=True))
    assert [name for name, answer in zip(cases, answers, strict=True) if answer == plain] == []


def test_a_bad_word_that_the_model_cannot_say_bans_nothing(llm: LLM, plain: list[int]) -> None:
    """Its token is not in the vocabulary: in the logits of a batch it would be one of the next sequence's."""
    beyond = replace(GREEDY, bad_words=[chr(ord("0") + VOCAB + 1)])
    outputs = llm.generate([PROMPTS[1]] * 2, [beyond, replace(GREEDY, logit_bias={1: 100.0})])
    assert [output.outputs[0].token_ids for output in outputs] == [plain, [1] * len(plain)]


# --- which token is drawn ---


@pytest.mark.parametrize("fields", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-3}], ids=str)
def test_what_leaves_one_token_is_greedy(llm: LLM, plain: list[int], fields: dict[str, Any]) -> None:
    hot = replace(GREEDY, temperature=5.0, seed=3)
    assert first(llm, PROMPTS[1], replace(hot, **fields)).token_ids == plain
    assert first(llm, PROMPTS[1], hot).token_ids != plain


@pytest.mark.parametrize("fields", [{}, {"top_p": 0.7}, {"top_k": 20, "min_p": 0.3}], ids=str)
def test_first_tokens_follow_the_exact_distribution(tiniest: Path, device: Device, fields: dict[str, Any]) -> None:
    """900 requests that differ in their seed alone. Temperature 3 leaves none too rare for the test to count."""
    prompt, params = PROMPTS[3], SamplingParams(temperature=3.0, max_tokens=1, ignore_eos=True, **fields)
    with make(tiniest, device, max_num_seqs=64) as llm:
        outputs = llm.generate([prompt] * 900, [replace(params, seed=seed) for seed in range(900)])
        tokens = np.array([output.outputs[0].token_ids[0] for output in outputs])
        logits = llm.score(prompt)[-1]
        assert_follows(tokens, distribution(logits, params))
        if fields:  # what a draw that ignored them would come to
            with pytest.raises(AssertionError, match="chi-square"):
                assert_follows(tokens, distribution(logits, replace(params, top_p=1.0, top_k=0, min_p=0.0)))


# --- when an answer ends, and its text ---


def test_where_a_text_ends(llm: LLM, plain: list[int]) -> None:
    text = "".join(chr(ord("0") + token) for token in plain)
    stop = text[4:6]
    at = text.index(stop)
    cut = first(llm, PROMPTS[1], replace(GREEDY, stop=[stop]))
    assert (cut.text, cut.finish_reason, cut.stop_reason) == (text[:at], "stop", stop)
    kept = first(llm, PROMPTS[1], replace(GREEDY, stop=[stop], include_stop_str_in_output=True))
    assert kept.text == text[: at + 2] and len(kept.token_ids) == at + 2
    later = first(llm, PROMPTS[1], replace(GREEDY, stop=list(text[:6]), min_tokens=6))
    assert len(later.token_ids) > 6, "a stop text ended it before min_tokens"
    ended = first(llm, PROMPTS[1], replace(GREEDY, stop_token_ids=[plain[3]]))
    at = plain.index(plain[3])
    assert (ended.text, ended.stop_reason, ended.token_ids) == (text[:at], plain[3], plain[: at + 1])
    shown = first(llm, PROMPTS[1], replace(GREEDY, stop_token_ids=[plain[3]], include_stop_str_in_output=True))
    assert shown.text == text[: at + 1]
    short = first(llm, PROMPTS[1], replace(GREEDY, max_tokens=3))
    assert (short.text, short.finish_reason) == (text[:3], "length")


def test_the_models_own_end_and_special_tokens(llm: LLM) -> None:
    ending = replace(GREEDY, logit_bias={END: 100.0}, max_tokens=3)
    assert first(llm, PROMPTS[1], ending).token_ids == [END] * 3
    stopped = first(llm, PROMPTS[1], replace(ending, ignore_eos=False))
    assert (stopped.token_ids, stopped.finish_reason, stopped.stop_reason) == ([END], "stop", None)
    special = replace(GREEDY, logit_bias={1: 100.0}, max_tokens=3)
    assert first(llm, PROMPTS[1], special).text == ""
    assert first(llm, PROMPTS[1], replace(special, skip_special_tokens=False)).text == "111"
    silent = first(llm, PROMPTS[1], replace(GREEDY, detokenize=False))
    assert silent.text == "" and len(silent.token_ids) == 12
