"""Greedy continuations of the default model: token for token those of transformers on the same weights.

The reference computes in float32, the engine in bf16. Where the reference's lead is greater than what the engine's
roundings can do (`separation` above SIGMAS), the token must be the same; elsewhere it may be either. See
docs/accuracy.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bindings.device import Device
from engine import LLM, SamplingParams
from tests.logit_error import SIGMAS

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "fixtures" / "smollm2_greedy.json").read_text("utf-8")
)["cases"]
NAMES = [case["name"] for case in CASES]
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def llm(device: Device) -> Iterator[LLM]:
    with LLM(device=device.kind, max_model_len=256, max_num_seqs=len(CASES)) as llm:
        yield llm


@pytest.fixture(scope="module")
def answers(llm: LLM) -> dict[str, list[int]]:
    """All prompts as one batch: prefill, then 64 decode steps."""
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    outputs = llm.generate([case["prompt_token_ids"] for case in CASES], params)
    return {name: output.outputs[0].token_ids for name, output in zip(NAMES, outputs, strict=True)}


def certain(case: dict[str, Any]) -> np.ndarray:
    """Which of the 64 tokens every right engine must find, given the ones before."""
    return np.array(case["separation"]) > SIGMAS


def test_prompts_become_the_same_ids(llm: LLM) -> None:
    for case in CASES:
        prompt = case["prompt"]
        raw = isinstance(prompt, str)
        text = prompt if raw else llm.tokenizer.apply_chat_template(prompt)
        assert llm.tokenizer.encode(text, add_special_tokens=raw) == case["prompt_token_ids"], case["name"]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_continuation_is_the_references(case: dict[str, Any], answers: dict[str, list[int]]) -> None:
    answer = answers[case["name"]]
    assert len(answer) == NEW_TOKENS
    same = np.array(answer) == np.array(case["token_ids"])
    if same.all():
        return
    parted = int(np.argmin(same))  # from here on the two continue different texts
    separation = case["separation"][parted]
    assert separation <= SIGMAS, (
        f"token {parted} is {answer[parted]}, expected {case['token_ids'][parted]}, which leads by "
        f"{case['margin'][parted]}: {separation} standard deviations of the engine's rounding errors"
    )


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_every_certain_token_given_the_reference_before_it(llm: LLM, case: dict[str, Any]) -> None:
    prompt, tokens = case["prompt_token_ids"], case["token_ids"]
    logits = llm.score([*prompt, *tokens[:-1]])[len(prompt) - 1 :]
    assert np.isfinite(logits).all()
    wrong = [i for i in np.flatnonzero(certain(case)) if int(np.argmax(logits[i])) != tokens[i]]
    assert not wrong, f"at {wrong} of the 64 tokens another one has the highest logit"


def test_enough_is_compared(answers: dict[str, list[int]]) -> None:
    total = NEW_TOKENS * len(CASES)
    assert sum(int(certain(case).sum()) for case in CASES) >= 0.6 * total
    # Up to its first uncertain token each text must agree, and a coin decides there: most get much further.
    agreed = [np.cumprod(np.array(answers[case["name"]]) == np.array(case["token_ids"])) for case in CASES]
    assert sum(int(prefix.sum()) for prefix in agreed) >= 0.25 * total


def test_the_capital_of_france_is_paris(llm: LLM, answers: dict[str, list[int]]) -> None:
    assert llm.tokenizer.decode(answers["capital"]).startswith(" Paris.")
