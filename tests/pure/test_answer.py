"""Sampling parameters and how an answer ends."""

import pytest

from engine.sampling_params import SamplingParams
from tests.pure.test_scheduler import answer


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -0.1), ("temperature", float("nan")), ("max_tokens", 0), ("seed", -1), ("seed", 2**64)],
)
def test_a_value_out_of_range_names_its_field(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be"):
        SamplingParams(**{field: value})


def make(stop_ids=frozenset(), **params):
    return answer(0, [1, 2], SamplingParams(**params), stop_ids)


def test_an_end_token_stops_and_is_not_shown():
    made = make(max_tokens=8, stop_ids=frozenset({9}))
    assert made.append(5).text == "x"
    event = made.append(9)
    assert event.finished and event.text == "" and event.output.outputs[0].finish_reason == "stop"
    assert made.completion.text == "x" and made.completion.token_ids == [5, 9]


def test_ignore_eos_goes_on_but_own_stop_tokens_hold():
    made = make(max_tokens=8, ignore_eos=True, stop_token_ids=(4,), stop_ids=frozenset({9}))
    assert not made.append(9).finished
    assert made.append(4).output.outputs[0].finish_reason == "stop"


def test_max_tokens_ends_by_length():
    assert make(max_tokens=1).append(5).output.outputs[0].finish_reason == "length"


def test_metrics_count_tokens_and_time():
    made = make(max_tokens=3)
    for _ in range(3):
        made.append(5)
    metrics = made.output.metrics
    assert (metrics.prompt_tokens, metrics.new_tokens) == (2, 3)
    assert 0 <= metrics.time_to_first_token <= metrics.total_time and metrics.tokens_per_second > 0
