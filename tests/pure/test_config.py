"""Reading config.json: what each field means, what it means when it is absent, and all that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.config import ModelConfig, RopeScaling
from engine.errors import ModelError
from tests.tiny_model import HF_CONFIG, read_config, write_json

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA3_SCALING = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}


def test_every_field_is_read(tmp_path: Path) -> None:
    assert read_config(tmp_path) == ModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        intermediate_size=32,
        vocab_size=48,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        rope_scaling=None,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_ids=(2,),
        dtype="bfloat16",
    )


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"hidden_size": 256, "head_dim": ...}, "head_dim", 64),
        ({"hidden_size": 256, "head_dim": None}, "head_dim", 64),
        ({"num_key_value_heads": ...}, "num_kv_heads", 4),
        ({"num_key_value_heads": None}, "num_kv_heads", 4),
        ({"rms_norm_eps": ...}, "rms_norm_eps", 1e-6),
        ({"rope_theta": ...}, "rope_theta", 10000.0),
        ({"rope_theta": 500000}, "rope_theta", 500000.0),
        ({"max_position_embeddings": ...}, "max_position_embeddings", 2048),
        ({"tie_word_embeddings": ...}, "tie_word_embeddings", False),
        ({"tie_word_embeddings": True}, "tie_word_embeddings", True),
        ({"torch_dtype": ..., "dtype": "float16"}, "dtype", "float16"),
        ({"torch_dtype": ...}, "dtype", "unspecified"),
        ({"architectures": ...}, "architecture", "LlamaForCausalLM"),
        ({"bos_token_id": None}, "bos_token_id", None),
        ({"bos_token_id": 0}, "bos_token_id", 0),
        ({"bos_token_id": ...}, "bos_token_id", 1),
        ({"eos_token_id": None}, "eos_token_ids", ()),
        ({"eos_token_id": ...}, "eos_token_ids", (2,)),
        ({"eos_token_id": [7, 9, 7]}, "eos_token_ids", (7, 9)),
        ({**MISTRAL, "sliding_window": None}, "architecture", "MistralForCausalLM"),
        ({**MISTRAL, "sliding_window": 256}, "max_position_embeddings", 256),
        # An absent window is 4096 to transformers, here more than the context.
        ({**MISTRAL}, "architecture", "MistralForCausalLM"),
        ({**MISTRAL, "num_attention_heads": 8, "num_key_value_heads": ...}, "num_kv_heads", 8),
    ],
)
def test_absent_and_alternative_fields(tmp_path: Path, changes: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(read_config(tmp_path, **changes), field) == expected


@pytest.mark.parametrize(
    ("changes", "theta", "scaling"),
    [
        ({"rope_scaling": None}, 10000.0, None),
        ({"rope_scaling": {}}, 10000.0, None),
        ({"rope_scaling": {"rope_type": "default"}}, 10000.0, None),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, 10000.0, RopeScaling("linear", 4.0)),
        (
            {"rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 4}},
            10000.0,
            RopeScaling("linear", 4.0),
        ),
        ({"rope_scaling": LLAMA3, "rope_theta": 5e5}, 5e5, LLAMA3_SCALING),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": ...}, 5e5, None),
        ({"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_theta": ...}, 5e5, LLAMA3_SCALING),
        ({"rope_parameters": {"rope_theta": 5e5}}, 5e5, None),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0}}, 10000.0, None),
    ],
)
def test_rope_is_read_old_and_new(
    tmp_path: Path, changes: dict[str, Any], theta: float, scaling: RopeScaling | None
) -> None:
    config = read_config(tmp_path, **changes)
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": ...}, r"hidden_size is missing; expected a whole number >= 1"),
        ({"hidden_size": "64"}, r'hidden_size is "64"; expected a whole number'),
        ({"hidden_size": 64.0}, r"hidden_size is 64\.0; expected a whole number"),
        ({"hidden_size": True}, r"hidden_size is true; expected a whole number"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers is 0; expected a whole number >= 1"),
        ({"vocab_size": [48]}, r"vocab_size is \[48\]; expected a whole number"),
        ({"rms_norm_eps": 0}, r"rms_norm_eps is 0; expected a number > 0"),
        ({"rms_norm_eps": float("nan")}, r"rms_norm_eps is nan; expected a number > 0"),
        ({"rope_theta": float("inf")}, r"rope_theta is inf; expected a number > 0"),
        ({"rope_theta": "1e4"}, r'rope_theta is "1e4"; expected a number'),
        ({"tie_word_embeddings": 1}, r"tie_word_embeddings is 1; expected true or false"),
        ({"eos_token_id": "2"}, r'eos_token_id is "2"; expected a token id or a list'),
        ({"eos_token_id": [2, -1]}, r"eos_token_id is \[2, -1\]; expected a token id or a list"),
        ({"eos_token_id": [True]}, r"eos_token_id is \[true\]; expected a token id or a list"),
        ({"dtype": 16}, r"dtype is 16; expected a string"),
        ({"architectures": ["Qwen2ForCausalLM"]}, r"architectures names Qwen2ForCausalLM; only LlamaForCausalLM and"),
        ({"architectures": ..., "model_type": "gpt2"}, r"architectures names gpt2; only LlamaForCausalLM and"),
        ({"architectures": ..., "model_type": ...}, r"architectures is null; expected a list of one name"),
        ({"architectures": []}, r"architectures is \[\]; expected a list of one name"),
        ({"attention_bias": True}, r"attention_bias is true; models with bias vectors are not supported"),
        ({"mlp_bias": True}, r"mlp_bias is true; models with bias vectors are not supported"),
        ({"hidden_act": "gelu"}, r'hidden_act is "gelu"; only silu is supported'),
        ({"quantization_config": {"bits": 4}}, r"quantization_config is set; quantised safetensors"),
        ({**MISTRAL, "sliding_window": 255}, r"sliding_window is 255 < max_position_embeddings 256; sliding windows"),
        ({**MISTRAL, "max_position_embeddings": 32768}, r"sliding_window is 4096 < max_position_embeddings 32768"),
        ({"head_dim": ..., "num_attention_heads": 6}, r"head_dim is missing, and hidden_size 64 is no multiple of"),
        ({"head_dim": 32}, r"head_dim is 32; the kernels are written for \(64, 80, 96, 128\)"),
        ({"num_key_value_heads": 3}, r"4 query heads share 3 KV heads; the kernels need a whole number from 1 to 8"),
        ({"num_attention_heads": 2, "num_key_value_heads": 4}, r"2 query heads share 4 KV heads"),
        ({"num_attention_heads": 9, "num_key_value_heads": 1}, r"9 query heads share 1 KV heads"),
        ({"hidden_size": 100}, r"hidden_size is 100; the kernels need a multiple of 8"),
        ({"intermediate_size": 36}, r"intermediate_size is 36; the kernels need a multiple of 8"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, r'rope_scaling\.type is "yarn"; only default, linear and'),
        ({"rope_scaling": {"rope_type": "dynamic"}}, r'rope_scaling\.rope_type is "dynamic"; only default'),
        ({"rope_parameters": {"rope_type": "longrope"}}, r'rope_parameters\.rope_type is "longrope"; only'),
        ({"rope_scaling": {"type": "linear"}}, r"rope_scaling\.factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": -2}}, r"rope_scaling\.factor is -2; expected a number > 0"),
        ({"rope_scaling": "linear"}, r'rope_scaling is "linear"; expected an object'),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": None}}, r"rope_scaling\.low_freq_factor is missing"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1}}, r"high_freq_factor is 1\.0; expected more than low_freq"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor is not 1"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, r"rope_parameters\.partial_rotary_factor is not 1"),
    ],
)
def test_unusable_field_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_config(tmp_path, **changes)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
@pytest.mark.parametrize("group", range(1, 9))
def test_every_shape_of_the_kernels_is_let_in(tmp_path: Path, head_dim: int, group: int) -> None:
    config = read_config(tmp_path, head_dim=head_dim, num_attention_heads=3 * group, num_key_value_heads=3)
    assert (config.head_dim, config.num_heads // config.num_kv_heads) == (head_dim, group)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe{}", "is not valid JSON"),
        (b"[" * 200_000, "is not valid JSON"),
        (b"[1, 2]", r"holds \[1, 2\]; expected a JSON object"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_broken_json_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write_json(tmp_path / "config.json", HF_CONFIG)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        ModelConfig.from_hf(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("generation", "expected"),
    [({}, (2,)), ({"eos_token_id": 2}, (2,)), ({"eos_token_id": [9, 2, 7]}, (2, 9, 7)), ({"eos_token_id": 5}, (2, 5))],
)
def test_generation_config_adds_stop_tokens(tmp_path: Path, generation: dict[str, Any], expected: tuple[int]) -> None:
    write_json(tmp_path / "generation_config.json", generation)
    assert read_config(tmp_path).eos_token_ids == expected


def test_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: cannot be read: No such file"):
        ModelConfig.from_hf(tmp_path)
