"""vLLM's options: taken at the values that ask for what the engine does anyway, else refused by name."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from engine import LLM
from engine.arguments import check_options, either, one_each, one_of
from engine.errors import UsageError
from engine.vllm_options import CHAT_OPTIONS, ENGINE_OPTIONS, GENERATE_OPTIONS

TABLES = {"__init__": ENGINE_OPTIONS, "generate": GENERATE_OPTIONS, "chat": CHAT_OPTIONS}


@pytest.mark.parametrize("method", TABLES)
def test_an_option_is_in_the_table_or_a_parameter_never_both(method: str) -> None:
    both = TABLES[method].keys() & inspect.signature(getattr(LLM, method)).parameters.keys()
    assert TABLES[method] and not both, both


@pytest.mark.parametrize("method", TABLES)
def test_every_accepted_value_is_taken_and_no_other(method: str) -> None:
    for name, option in TABLES[method].items():
        for value in option.accepted:
            check_options("LLM()", {name: value}, TABLES[method], ())
        with pytest.raises(UsageError, match=rf"^LLM\(\) can't take {name}='elsewhere': .+; leave it out"):
            check_options("LLM()", {name: "elsewhere"}, TABLES[method], ())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"tensor_parallel_size": 4},
            "can't take tensor_parallel_size=4: one device runs the whole model; leave it out, or give 1",
        ),
        (
            {"tensor_parallel_size": True},
            "can't take tensor_parallel_size=True: one device runs the whole model; leave it out, or give 1",
        ),
        (
            {"dtype": "float16"},
            "can't take dtype='float16': weights and activations are bfloat16; leave it out, or give "
            "'auto' or 'bfloat16'",
        ),
        (
            {"max_seq_len_to_capture": 8192},
            "can't take max_seq_len_to_capture=8192: decode steps of any length are replayed; leave it out",
        ),
        ({"tensor_paralel_size": 1}, "has no option 'tensor_paralel_size'; did you mean tensor_parallel_size?"),
        ({"max_model_length": 9}, "has no option 'max_model_length'; did you mean max_model_len?"),
        ({"xyzzy": 1}, "has no option 'xyzzy'"),
    ],
)
def test_an_option_that_cannot_be_met_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_options("LLM()", given, ENGINE_OPTIONS, inspect.signature(LLM).parameters)
    assert str(caught.value) == f"LLM() {message}"


def test_an_array_is_compared_with_nothing() -> None:
    with pytest.raises(UsageError, match="hf_overrides"):
        check_options("LLM()", {"hf_overrides": np.zeros(2)}, ENGINE_OPTIONS, ())


def test_an_unmet_option_stops_before_anything_is_loaded() -> None:
    with pytest.raises(UsageError, match="quantization='awq'"):
        LLM("/no/such/model", quantization="awq")
    with pytest.raises(UsageError, match="kv_cache_bytes and kv_cache_memory_bytes are the same"):
        LLM("/no/such/model", kv_cache_bytes=1, kv_cache_memory_bytes=1)
    with pytest.raises(UsageError, match="generation_config is 'x'; it must be one of auto, vllm"):
        LLM("/no/such/model", generation_config="x")  # type: ignore[arg-type]


def test_one_of_two_names() -> None:
    assert (either("a", 1, "b", None), either("a", None, "b", 2), either("a", None, "b", None)) == (1, 2, None)
    assert one_of("a", "x", ("x", "y")) == "x"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1], r"^priority has 1 entries for 2 prompts: give one for each$"),
        ([1, 2, 3], "priority has 3 entries for 2 prompts"),
        ([1, "2"], r"^priority\[1\] is a str; expected int$"),
        (3, "^priority is a int; expected a list of int$"),
    ],
)
def test_lists_must_have_one_entry_for_each_prompt(given: Any, message: str) -> None:
    assert one_each("priority", [1, 2], int, 2) == [1, 2]
    with pytest.raises(UsageError, match=message):
        one_each("priority", given, int, 2)
