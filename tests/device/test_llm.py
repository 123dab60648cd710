"""The engine as a whole, on a toy model with random weights: batching, graphs, sampling, limits, and what is left."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

from bindings.errors import CudaError
from bindings.memory import memory_map
from engine import LLM, SamplingParams
from engine.errors import EngineDeadError, ModelError, UsageError
from engine.random_model import write_random_model

GREEDY = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
WARM = SamplingParams(temperature=5.0, max_tokens=20, seed=3, ignore_eos=True)
PROMPTS = [[(7 * i + s) % 256 for i in range(length)] for s, length in enumerate((1, 5, 40, 17))]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "toy"
    write_random_model("toy", folder)
    return folder


@pytest.fixture(scope="module")
def llm(toy, device):
    with LLM(model=str(toy), device=device.kind, max_num_seqs=4) as llm:
        yield llm


def tokens(outputs):
    return [output.outputs[0].token_ids for output in outputs]


def test_a_batch_gives_what_each_prompt_gives_alone(llm):
    alone = [tokens(llm.generate([prompt], GREEDY))[0] for prompt in PROMPTS]
    assert tokens(llm.generate(PROMPTS, GREEDY)) == alone
    assert len({tuple(answer) for answer in alone}) > 1, "four equal answers would compare nothing"


def test_graphs_give_what_eager_launches_give(llm, toy, device):
    with LLM(model=str(toy), device=device.kind, max_num_seqs=4, enforce_eager=True) as eager:
        assert tokens(eager.generate(PROMPTS, GREEDY)) == tokens(llm.generate(PROMPTS, GREEDY))


def test_reading_tokens_a_step_late_gives_the_same_tokens(llm, toy, device):
    """The host plans a step before it knows the tokens of the one before: they never leave the device on their way."""
    expected = [tokens(llm.generate(PROMPTS * 3, GREEDY)), tokens(llm.generate(PROMPTS, WARM))]
    for eager in (False, True):
        options = {"async_scheduling": True, "enforce_eager": eager, "max_num_seqs": 7}
        with LLM(model=str(toy), device=device.kind, **options) as ahead:
            assert [tokens(ahead.generate(PROMPTS * 3, GREEDY)), tokens(ahead.generate(PROMPTS, WARM))] == expected


def test_more_prompts_than_slots_wait_their_turn(llm):
    many = PROMPTS * 3
    assert tokens(llm.generate(many, GREEDY)) == tokens(llm.generate(PROMPTS, GREEDY)) * 3


def test_a_prompt_in_chunks_gives_what_it_gives_whole(llm, toy, device):
    with LLM(model=str(toy), device=device.kind, max_num_seqs=4, max_num_batched_tokens=13) as chunked:
        assert tokens(chunked.generate(PROMPTS, GREEDY)) == tokens(llm.generate(PROMPTS, GREEDY))


def test_static_batching_gives_what_continuous_batching_gives(llm, toy, device):
    with LLM(model=str(toy), device=device.kind, max_num_seqs=2, batching="static") as static:
        assert tokens(static.generate(PROMPTS, GREEDY)) == tokens(llm.generate(PROMPTS, GREEDY))


def prompts_with_shared_beginnings():
    rng = random.Random(0)
    shared = [rng.randrange(256) for _ in range(48)]
    return [shared[: 16 * (i % 4)] + [rng.randrange(256) for _ in range(rng.randrange(1, 90))] for i in range(16)]


@pytest.mark.parametrize("lookahead", [False, True])
def test_a_pool_that_runs_full_preempts_and_gives_the_same_tokens(toy, device, lookahead):
    """24 pages for 16 requests of up to 11 pages each: some must start anew, and find what they left in the cache."""
    prompts, params = prompts_with_shared_beginnings(), replace(GREEDY, max_tokens=40)
    with LLM(model=str(toy), device=device.kind, max_num_seqs=1, enable_prefix_caching=False) as llm:
        alone = tokens(llm.generate(prompts, params))
    pages = 24 * 16 * llm.kv_bytes_per_token
    options = {"max_num_seqs": 8, "max_model_len": 256, "kv_cache_bytes": pages, "async_scheduling": lookahead}
    with LLM(model=str(toy), device=device.kind, **options) as llm:
        assert tokens(llm.generate(prompts, params)) == alone
        assert llm.scheduler.num_preemptions > 0 and llm.cache.statistics.hit_tokens > 0
        assert llm.cache.available == llm.cache.num_pages == 24


def test_a_prompt_seen_before_is_found_up_to_its_last_page(llm):
    prompt = [(3 * i + 1) % 256 for i in range(64)]
    first = tokens(llm.generate([prompt], GREEDY))
    before = llm.cache.statistics.hit_tokens
    assert tokens(llm.generate([prompt], GREEDY)) == first
    assert llm.cache.statistics.hit_tokens - before == 48, "the last of 4 pages runs again for its last token's logits"


def test_requests_come_and_go_one_by_one(llm):
    alone = [tokens(llm.generate([prompt], GREEDY))[0] for prompt in PROMPTS]
    answers: dict[int, list[int]] = {}
    numbers = [llm.add_request(PROMPTS[0], GREEDY)]
    while llm.has_unfinished_requests:
        for event in llm.step():
            answers.setdefault(event.index, []).extend(event.token_ids)
        if len(numbers) < len(PROMPTS):
            numbers.append(llm.add_request(PROMPTS[len(numbers)], GREEDY))
    assert [answers[number] for number in numbers] == alone


def test_an_aborted_request_gives_its_pages_back_and_others_go_on(llm):
    alone = tokens(llm.generate([PROMPTS[1]], GREEDY))[0]
    kept, dropped = (llm.add_request(PROMPTS[i], GREEDY) for i in (1, 2))
    answer = llm.step()
    llm.abort_request(dropped)
    llm.abort_request(dropped)  # a second time is no error
    while llm.has_unfinished_requests:
        answer += llm.step()
    assert [token for event in answer if event.index == kept for token in event.token_ids] == alone
    assert llm.cache.available == llm.cache.num_pages


def test_decode_attention_agrees_with_prefill_attention(llm):
    """The two kernels share no code for the softmax: their logits may differ by rounding only."""
    prompt = [(31 * i) % 256 for i in range(300)]  # more than one split of decode attention
    whole, stepwise = llm.score(prompt), llm.score(prompt, decode_from=250)
    scale = np.sqrt(np.mean(whole**2))
    # A rounding to bf16 moves a value by at most 2^-8 of it. Each path makes some 16 in two layers, in different places
    # and of either sign: they add up like a random walk, sqrt(2 * 16) = 6 steps, and 2 more for the worst of 10^4.
    assert np.abs(whole - stepwise).max() <= 8 * 2.0**-8 * scale
    assert np.isfinite(whole).all() and whole.shape == (300, 256)


def test_sampling_repeats_with_its_seed_and_differs_without(llm):
    def sample(seed, batch):
        params = SamplingParams(temperature=5.0, max_tokens=20, seed=seed, ignore_eos=True)
        return tokens(llm.generate([PROMPTS[1]] * batch, params))

    first = sample(3, batch=1)[0]
    assert sample(3, batch=1)[0] == first and sample(3, batch=3) == [first] * 3
    assert sample(4, batch=1)[0] != first


def test_stop_tokens_and_lengths(llm):
    answer = tokens(llm.generate([PROMPTS[2]], GREEDY))[0]
    stop = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, stop_token_ids=(answer[3],))
    output = llm.generate([PROMPTS[2]], stop)[0].outputs[0]
    assert output.finish_reason == "stop" and output.token_ids == answer[: answer.index(answer[3]) + 1]
    output = llm.generate([PROMPTS[2]], GREEDY)[0].outputs[0]
    assert output.finish_reason == "length" and len(output.token_ids) == 20


def test_streamed_text_is_the_answer(llm):
    pieces: dict[int, str] = {}
    for event in llm.stream(PROMPTS, GREEDY):
        pieces[event.index] = pieces.get(event.index, "") + event.text
    outputs = llm.generate(PROMPTS, GREEDY)
    assert [pieces[i] for i in range(len(PROMPTS))] == [output.outputs[0].text for output in outputs]


def test_an_abandoned_stream_leaves_no_pages_and_no_requests(llm):
    stream = llm.stream(PROMPTS, GREEDY)
    next(stream)
    stream.close()
    assert not llm.scheduler.has_work and llm.cache.available == llm.cache.num_pages
    assert len(tokens(llm.generate(PROMPTS, GREEDY))) == 4


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt has no tokens"),
        (
            [0] * 512,
            r"512 tokens, this engine takes at most 511 \(max_model_len\); this model reads 512 tokens at most",
        ),
        ([256], r"token ids outside 0\.\.255"),
        ([-1], r"token ids outside 0\.\.255"),
    ],
)
def test_a_prompt_that_cannot_run_is_refused(llm, prompt, message):
    with pytest.raises(ModelError, match=message):
        llm.generate([prompt], GREEDY)
    assert not llm.scheduler.has_work


def test_a_pool_too_small_for_a_prompt_says_at_once_what_would_hold_it(toy, device):
    prompt = [7] * 60
    with LLM(model=str(toy), device=device.kind, kv_cache_bytes=3 * 16384) as llm:
        told = "60 tokens, this engine takes at most 47 .*; give max_model_len=61 .* kv_cache_bytes, .* 65536 or more"
        with pytest.raises(ModelError, match=told):
            llm.generate([prompt], GREEDY)
        assert not llm.scheduler.has_work
    with LLM(model=str(toy), device=device.kind, kv_cache_bytes=65536, max_model_len=61) as llm:
        assert len(tokens(llm.generate([prompt], GREEDY))[0]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_model_len": 513}, "max_model_len must be between 1 and 512"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1"),
        ({"max_num_seqs": 8, "max_num_batched_tokens": 7}, "max_num_batched_tokens must be at least 8"),
        ({"batching": "dynamic"}, "batching is 'dynamic'"),
        ({"max_model_len": 512, "kv_cache_bytes": 1 << 14}, "kv_cache_bytes is 16384; 512 tokens need 524288"),
        ({"kv_cache_bytes": 100}, "kv_cache_bytes is 100"),
    ],
)
def test_limits_that_cannot_hold_are_refused_and_nothing_is_left(toy, device, options, message):
    before = memory_map.live()
    with pytest.raises(ModelError, match=message):
        LLM(model=str(toy), device=device.kind, **options)
    assert memory_map.live() == before


@pytest.mark.cpu_device_only
@pytest.mark.usefixtures("any_schedule")
def test_no_order_of_streams_and_threads_changes_a_token(llm, toy, device, schedule_seeds):
    """From the copy of the weights on: a wait that is missing anywhere, or a buffer reused too early, would show."""
    from bindings.cpu import driver

    sampled = SamplingParams(temperature=5.0, max_tokens=6, seed=3, ignore_eos=True)
    greedy = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    expected = [tokens(llm.generate(PROMPTS, params)) for params in (greedy, sampled)]
    for seed in schedule_seeds:
        for order in ("shuffled", "greedy"):
            driver.set_streams("lazy", seed)
            driver.set_schedule(order, seed)
            with LLM(model=str(toy), device=device.kind, max_num_seqs=4, async_scheduling=order == "greedy") as again:
                assert [tokens(again.generate(PROMPTS, params)) for params in (greedy, sampled)] == expected


@pytest.mark.cpu_device_only
@pytest.mark.usefixtures("any_schedule")
def test_an_engine_that_reuses_its_staging_buffers_too_early_is_found(toy, device, monkeypatch):
    """What the test above would find, seen at work: the wait that guards the buffers of engine/weights.py left out."""
    from bindings.cpu import driver

    monkeypatch.setattr("bindings.device.Event.synchronize", lambda event: None)
    driver.set_streams("lazy")
    with pytest.raises(CudaError) as caught:
        LLM(model=str(toy), device=device.kind)
    driver.reset_sticky()
    text = str(caught.value)
    assert "host buffer reused in cuMemcpyHtoDAsync: the host changed weights.staging." in text
    assert re.search(r"given to stream 0x[0-9a-f]+ at engine/weights\.py:\d+", text)


@pytest.mark.cpu_device_only  # on a GPU it would end the context that all other tests share
@pytest.mark.parametrize("lookahead", [False, True])
def test_a_step_that_fails_ends_all_requests_and_the_engine_says_that_it_is_dead(toy, device, lookahead):
    from bindings.cpu import driver

    with LLM(model=str(toy), device=device.kind, max_num_seqs=4, async_scheduling=lookahead) as llm:
        for prompt in PROMPTS:
            llm.add_request(prompt, GREEDY)
        outputs = [event.output for event in llm.step()]
        llm.cache.block_tables[:] = 1 << 24  # far outside the pool
        with pytest.raises(CudaError, match="_ADDRESS"):
            for _ in range(3):
                llm.step()
        for output in outputs:
            assert output.finished and output.outputs[0].finish_reason == "error"
            assert "_ADDRESS" in output.outputs[0].stop_reason
        assert not llm.has_unfinished_requests
        dead = r"the engine is dead since a step failed: .*_ADDRESS"
        for again in (llm.step, lambda: llm.add_request(PROMPTS[0], GREEDY), lambda: llm.generate(PROMPTS, GREEDY)):
            with pytest.raises(EngineDeadError, match=dead):
                again()
    driver.reset_sticky()


@pytest.mark.parametrize("lookahead", [False, True])
def test_a_step_that_is_broken_off_leaves_no_engine_that_would_go_on_wrong(toy, device, monkeypatch, lookahead):
    """Ctrl-C between the plan of a step and its launch: pages have names by then, and nobody has written them."""
    with LLM(model=str(toy), device=device.kind, max_num_seqs=4, async_scheduling=lookahead) as llm:
        with monkeypatch.context() as patch:
            patch.setattr(llm.engine._runner, "launch", lambda batch: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                llm.generate(PROMPTS, GREEDY)
        with pytest.raises(EngineDeadError, match="the engine is dead since a step failed: KeyboardInterrupt"):
            llm.generate(PROMPTS, GREEDY)


def test_a_closed_engine_says_so(toy, device):
    llm = LLM(model=str(toy), device=device.kind)
    llm.close()
    llm.close()
    for use in (lambda: llm.generate(PROMPTS, GREEDY), lambda: llm.score([1, 2]), llm.step):
        with pytest.raises(EngineDeadError, match="the engine is dead since it was closed"):
            use()


def test_several_streams_and_requests_take_turns(llm):
    """Each step serves all of them; what it brings for another waits until that one asks."""
    alone = tokens(llm.generate(PROMPTS[:3], GREEDY))
    added = llm.add_request(PROMPTS[2], GREEDY)
    texts: list[list[int]] = [[], [], []]
    for pair in zip(llm.stream([PROMPTS[0]], GREEDY), llm.stream([PROMPTS[1]], GREEDY), strict=True):
        for number, event in enumerate(pair):
            texts[number] += event.token_ids
    assert tokens(llm.generate([PROMPTS[0]], GREEDY)) == alone[:1]
    while llm.has_unfinished_requests:
        for event in llm.step():
            assert event.index == added
            texts[2] += event.token_ids
    assert texts == alone


@pytest.mark.parametrize("decode_from", [-3, 4])
def test_score_refuses_a_split_outside_the_text(llm, decode_from):
    with pytest.raises(UsageError, match=f"decode_from must be between 0 and 3, .* not {decode_from}"):
        llm.score([1, 2, 3], decode_from=decode_from)


def test_a_priority_that_is_no_number_is_refused(llm):
    with pytest.raises(UsageError, match="priority must be a whole number, not None"):
        llm.add_request(PROMPTS[0], GREEDY, priority=None)
    assert not llm.has_unfinished_requests


LEAK_FREE = """
import sys
from engine import LLM, SamplingParams
from engine.errors import ModelError

with LLM(model=sys.argv[1], device="cpu") as llm:
    llm.generate([[1, 2, 3]], SamplingParams(temperature=0, max_tokens=5, ignore_eos=True))
    llm.score([1, 2, 3])
try:
    LLM(model=sys.argv[1], device="cpu", max_num_seqs=0)
except ModelError:
    pass
"""


@pytest.mark.cpu_device_only
def test_a_closed_engine_leaves_nothing_on_the_device(toy, repository):
    command = [sys.executable, "-c", LEAK_FREE, str(toy)]
    environment = {**os.environ, "CUTAWAY_CPU_LEAKS": "report"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_closing_frees_everything(toy, device):
    before = memory_map.live()
    LLM(model=str(toy), device=device.kind).close()
    assert memory_map.live() == before


def test_the_models_own_defaults_hold_where_nobody_says_otherwise(toy, device, tmp_path):
    folder = shutil.copytree(toy, tmp_path / "toy")
    fields = {"do_sample": False, "max_new_tokens": 7, "repetition_penalty": 1.2, "num_beams": 4}
    (folder / "generation_config.json").write_text(json.dumps(fields))
    with LLM(model=str(folder), device=device.kind, max_num_seqs=4) as llm:
        with pytest.warns(UserWarning, match=r"generation_config\.json: not applied: num_beams=4$"):
            params = llm.get_default_sampling_params()
        assert params == SamplingParams(temperature=0, max_tokens=7, repetition_penalty=1.2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # once is enough
            assert tokens(llm.generate(PROMPTS)) == tokens(llm.generate(PROMPTS, params))
        assert len(tokens(llm.generate(PROMPTS[:1], GREEDY))[0]) == 20
