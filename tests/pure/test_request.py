"""Sampling parameters and how a request ends."""

import pytest

from engine.request import Request, SamplingParams
from tests.pure.test_scheduler import SilentDecoder


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -0.1), ("temperature", float("nan")), ("max_tokens", 0), ("seed", -1), ("seed", 2**64)],
)
def test_a_value_out_of_range_names_its_field(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be"):
        SamplingParams(**{field: value})


def make(**params):
    return Request(0, "hi", [1, 2], SamplingParams(**params), SilentDecoder())


def test_an_end_token_stops_and_is_not_shown():
    request = make(max_tokens=8)
    assert request.append(5, frozenset({9}), 100).text == "x"
    event = request.append(9, frozenset({9}), 100)
    assert event.finished and event.text == "" and event.output.outputs[0].finish_reason == "stop"
    assert request.completion.text == "x" and request.completion.token_ids == [5, 9]


def test_ignore_eos_goes_on_but_own_stop_tokens_hold():
    request = make(max_tokens=8, ignore_eos=True, stop_token_ids=(4,))
    assert not request.append(9, frozenset({9}), 100).finished
    assert request.append(4, frozenset({9}), 100).output.outputs[0].finish_reason == "stop"


def test_max_tokens_and_the_context_end_by_length():
    request = make(max_tokens=1)
    assert request.append(5, frozenset(), 100).output.outputs[0].finish_reason == "length"
    request = make(max_tokens=50)
    assert request.append(5, frozenset(), 3).output.outputs[0].finish_reason == "length"


def test_metrics_count_tokens_and_time():
    request = make(max_tokens=3)
    for _ in range(3):
        request.append(5, frozenset(), 100)
    metrics = request.output.metrics
    assert (metrics.prompt_tokens, metrics.new_tokens) == (2, 3)
    assert 0 <= metrics.time_to_first_token <= metrics.total_time and metrics.tokens_per_second > 0
