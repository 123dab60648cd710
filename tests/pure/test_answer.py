"""One answer as it grows: what ends it, what its text is, and what of it is shown when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.answer import Answer
from engine.detokenize import IncrementalDecoder
from engine.gguf_header import GgufHeader
from engine.logprobs import TokenLogprobs
from engine.outputs import CompletionOutput, Logprob, Metrics, RequestOutput, StreamEvent
from engine.sampling_params import SamplingParams
from engine.tokenizer import Tokenizer, tokenizer_from_gguf
from tests.pure.test_scheduler import answer
from tests.tiny_tokenizer import byte_level_metadata, sentencepiece_metadata

BYTE_LEVEL = tokenizer_from_gguf(GgufHeader(Path("tiny.gguf"), byte_level_metadata(), {}))
SENTENCEPIECE = tokenizer_from_gguf(GgufHeader(Path("tiny.gguf"), sentencepiece_metadata(), {}))
each_tokenizer = pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["bytes", "pieces"])


class CountingDecoder:
    """One letter a token, and how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def push(self, ids: list[int]) -> str:
        self.calls += 1
        return "x" * len(ids)

    def finish(self) -> str:
        return ""

    def token_text(self, token: int) -> str:
        return str(token)


def make(stop_ids: frozenset[int] = frozenset(), **params: Any) -> Answer:
    return answer(0, [1, 2], SamplingParams(**params), stop_ids)


def run(
    tokenizer: Tokenizer,
    ids: list[int],
    params: SamplingParams,
    stop_ids: frozenset[int] = frozenset(),
    streams: bool = True,
) -> tuple[CompletionOutput, list[StreamEvent]]:
    """An answer that takes `ids` until it ends, and its events."""
    output = RequestOutput("0", None, [1], [CompletionOutput()], False, Metrics(1))
    decoder = IncrementalDecoder(tokenizer, params.skip_special_tokens)
    made = Answer(0, output, params, decoder, stop_ids, streams=streams)
    events = []
    for token in ids:
        event = made.append(token)
        events += [event] if event else []
        if made.finished:
            break
    return output.outputs[0], events


def typed(text: str, **params: Any) -> tuple[CompletionOutput, list[str]]:
    """An answer to which `text` comes a letter a token; what its events said."""
    ids = [BYTE_LEVEL.backend.token_to_id(letter) for letter in text.replace(" ", "Ġ")]
    completion, events = run(BYTE_LEVEL, ids, SamplingParams(max_tokens=len(ids), **params))
    return completion, [event.text for event in events]


def test_an_end_token_stops_and_is_not_shown() -> None:
    made = make(max_tokens=8, stop_ids=frozenset({9}))
    event = made.append(5)
    assert event is not None and event.text == "x" and not made.finished
    event = made.append(9)
    assert event is not None and event.finished and event.text == ""
    assert made.completion.finish_reason == "stop" and made.completion.stop_reason is None
    assert made.completion.text == "x" and made.completion.token_ids == [5, 9] and made.output.finished


def test_ignore_eos_goes_on_but_own_stop_tokens_hold() -> None:
    made = make(max_tokens=8, ignore_eos=True, stop_token_ids=(4,), stop_ids=frozenset({9}))
    made.append(9)
    assert not made.finished
    made.append(4)
    assert (made.completion.finish_reason, made.completion.stop_reason) == ("stop", 4)


def test_an_end_token_can_be_shown() -> None:
    made = make(max_tokens=8, stop_token_ids=(4,), include_stop_str_in_output=True)
    made.append(5)
    made.append(4)
    assert made.completion.text == "xx" and made.completion.stop_reason == 4


def test_min_tokens_holds_off_end_tokens_and_stop_texts() -> None:
    made = make(max_tokens=8, min_tokens=2, stop_ids=frozenset({9}))
    made.append(9)
    assert not made.finished
    made.append(9)
    assert made.finished
    assert typed("abab", stop="ab", min_tokens=2)[0].text == "ab"
    assert typed("abab", stop="ab")[0].text == ""


def test_max_tokens_ends_by_length() -> None:
    made = make(max_tokens=1)
    made.append(5)
    assert made.completion.finish_reason == "length" and made.completion.stop_reason is None


def test_a_stop_text_is_cut_off_and_no_part_of_it_is_ever_shown() -> None:
    completion, shown = typed("one, two; and more", stop=["; and", ", too"])
    assert completion.text == "one, two" == "".join(shown) and len(completion.token_ids) == len("one, two; and")
    assert (completion.finish_reason, completion.stop_reason) == ("stop", "; and")
    held = len("; and") - 1
    assert [len("".join(shown[:i])) for i in range(1, 6)] == [max(0, i - held) for i in range(1, 6)]


def test_a_stop_text_can_be_shown() -> None:
    completion, shown = typed("one; two", stop=";", include_stop_str_in_output=True)
    assert completion.text == "one;" == "".join(shown) and completion.stop_reason == ";"


def test_of_two_stop_texts_the_earlier_one_counts() -> None:
    assert typed("abcd", stop=["d", "bc"])[0].text == "a"
    assert typed("aXbc", stop=["Xb", "X"])[0].stop_reason == "X"  # it is whole one token sooner


def test_what_was_held_back_comes_at_the_end() -> None:
    completion, shown = typed("abc", stop="c; and so on")
    assert completion.text == "abc" == "".join(shown) and completion.finish_reason == "length"


def test_without_detokenize_there_is_no_text() -> None:
    made = make(max_tokens=2, detokenize=False)
    made.append(5)
    event = made.append(6)
    assert event is not None and event.text == "" == made.completion.text and made.completion.token_ids == [5, 6]


@pytest.mark.parametrize("failure", [None, "the device is gone"])
@pytest.mark.parametrize("streams", [True, False])
def test_an_answer_that_is_broken_off_ends_as_it_stands(failure: str | None, streams: bool) -> None:
    output = RequestOutput("0", None, [1], [CompletionOutput()], False, Metrics(1))
    made = Answer(0, output, SamplingParams(max_tokens=8, stop="yyy"), CountingDecoder(), streams=streams)
    made.append(5)
    assert made.completion.text == ""
    event = made.fail(failure) if failure else made.abort()
    assert event.finished and event.text == "x" == made.completion.text and event.output.finished
    assert made.completion.finish_reason == ("error" if failure else "abort")
    assert made.completion.stop_reason == failure


def test_an_answer_that_nobody_reads_along_is_decoded_once_and_told_once() -> None:
    output = RequestOutput("0", None, [1], [CompletionOutput()], False, Metrics(1))
    decoder = CountingDecoder()
    made = Answer(0, output, SamplingParams(max_tokens=50), decoder, streams=False)
    events = [made.append(5) for _ in range(50)]
    assert events[:-1] == [None] * 49 and decoder.calls == 1
    last = events[-1]
    assert last is not None and last.text == "x" * 50 == made.completion.text and last.token_ids == [5] * 50
    assert output.metrics.new_tokens == 50


# Mostly text, some special tokens, some ids beyond the vocabulary, as from a padded embedding table.
some_ids = st.lists(st.integers(0, 320), min_size=1, max_size=40)


@each_tokenizer
@given(
    ids=some_ids,
    end=st.integers(0, 320),
    skip=st.booleans(),
    include=st.booleans(),
    stop=st.lists(st.text("ab!\ufffd é", min_size=1, max_size=3), max_size=2),
    min_tokens=st.integers(0, 3),
)
def test_the_text_is_the_same_whether_or_not_somebody_reads_along(
    tokenizer: Tokenizer, ids: list[int], end: int, skip: bool, include: bool, stop: list[str], min_tokens: int
) -> None:
    params = SamplingParams(
        max_tokens=max(len(ids), min_tokens), min_tokens=min_tokens, stop=stop, skip_special_tokens=skip,
        include_stop_str_in_output=include,
    )  # fmt: skip
    whole, last = run(tokenizer, ids, params, frozenset({end}), streams=False)
    streamed, events = run(tokenizer, ids, params, frozenset({end}))
    if not last:  # the ids ran out before min_tokens
        return
    assert whole == streamed and [event.text for event in last] == [whole.text]
    assert "".join(event.text for event in events) == whole.text
    assert [token for event in events for token in event.token_ids] == whole.token_ids
    hidden = whole.finish_reason == "stop" and whole.stop_reason is None and not include
    text = tokenizer.decode(whole.token_ids[: len(whole.token_ids) - hidden], skip)
    if isinstance(whole.stop_reason, str):
        assert text.startswith(whole.text) and whole.stop_reason in text
        assert whole.text.endswith(whole.stop_reason) or not include
    else:
        assert whole.text == text
    if not min_tokens and not include:
        assert not any(each in whole.text for each in stop)


def test_several_answers_share_an_output_that_ends_with_the_last() -> None:
    output = RequestOutput("0", None, [1], [CompletionOutput(0), CompletionOutput(1)], False, Metrics(1))
    params = SamplingParams(max_tokens=2)
    first, second = (Answer(0, output, params, CountingDecoder(), completion=i) for i in range(2))
    for made in (first, second, first):
        event = made.append(5)
        assert event is not None and not event.output.finished
    event = second.append(5)
    assert event is not None and event.output.finished and event.completion == 1 and output.metrics.new_tokens == 4


FOUND = TokenLogprobs(
    chosen=np.array([-1.0, -3.0], np.float32),
    ranks=np.array([1, 7], np.int32),
    top_ids=np.array([[4, 5, 6], [4, 5, 6]], np.int32),
    top_logprobs=np.array([[-1.0, -1.5, -2.0]] * 2, np.float32),
)


def test_logprobs_of_a_prompt_come_in_pieces() -> None:
    output = RequestOutput("0", None, [1, 4, 9, 4], [CompletionOutput()], False, Metrics(1))
    made = Answer(0, output, SamplingParams(prompt_logprobs=1), CountingDecoder())
    made.add_prompt_logprobs([4, 9], FOUND)
    made.add_prompt_logprobs([4], FOUND)
    four = Logprob(-1.0, 1, "4")
    assert output.prompt_logprobs == [None, {4: four}, {9: Logprob(-3.0, 7, "9"), 4: four}, {4: four}]


def test_logprobs_are_kept_by_token_the_chosen_one_first() -> None:
    output = RequestOutput("0", None, [1], [CompletionOutput()], False, Metrics(1))
    made = Answer(0, output, SamplingParams(max_tokens=2, logprobs=2), CountingDecoder())
    made.append(4, FOUND, 0)
    made.append(9, FOUND, 1)
    four, five = Logprob(-1.0, 1, "4"), Logprob(-1.5, 2, "5")
    assert made.completion.logprobs == [{4: four, 5: five}, {9: Logprob(-3.0, 7, "9"), 4: four, 5: five}]
    assert list(made.completion.logprobs[1]) == [9, 4, 5] and made.completion.cumulative_logprob == -4.0


def test_metrics_count_tokens_and_time() -> None:
    made = make(max_tokens=3)
    for _ in range(3):
        made.append(5)
    metrics = made.output.metrics
    assert (metrics.prompt_tokens, metrics.new_tokens) == (2, 3)
    assert 0 <= metrics.time_to_first_token <= metrics.total_time and metrics.tokens_per_second > 0
