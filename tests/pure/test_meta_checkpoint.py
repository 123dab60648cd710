"""Meta's own folder of Llama 3: what params.json means, and weights that come out as in the Hugging Face layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bindings.dtypes import float32_to_bf16
from engine.checkpoint import open_checkpoint
from engine.config import ModelConfig, RopeScaling
from engine.errors import ModelError
from engine.meta_checkpoint import config_from_params
from engine.model_files import resolve_model
from tests.tiny_meta import (
    PARAMS,
    as_bf16,
    hf_weights,
    meta_tensors,
    split,
    torch_fixture,
    write_hf_folder,
    write_meta_folder,
)
from tests.tiny_model import write_json

# params.json of the models that Meta published, and what their config.json on the hub says.
LLAMA_3_2_1B = {"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256}
LLAMA_3_2_1B |= {"ffn_dim_multiplier": 1.5, "multiple_of": 256, "norm_eps": 1e-05, "rope_theta": 500000.0}
LLAMA_3_2_3B = {**LLAMA_3_2_1B, "dim": 3072, "n_layers": 28, "n_heads": 24, "ffn_dim_multiplier": 1.0}
LLAMA_3_8B = {**LLAMA_3_2_1B, "dim": 4096, "n_layers": 32, "ffn_dim_multiplier": 1.3, "multiple_of": 1024}
LLAMA_3_70B = {**LLAMA_3_8B, "dim": 8192, "n_layers": 80, "n_heads": 64, "multiple_of": 4096}


def read_params(folder: Path, tied: bool = False, **values: Any) -> ModelConfig:
    write_json(folder / "params.json", {name: value for name, value in values.items() if value is not ...})
    return config_from_params(folder / "params.json", tied, "bfloat16")


@pytest.mark.parametrize(
    ("params", "tied", "scaled", "expected"),
    [
        (LLAMA_3_2_1B, True, True, (2048, 16, 32, 8, 64, 8192, 131072, RopeScaling("llama3", 32.0, 1.0, 4.0, 8192))),
        (LLAMA_3_2_3B, True, True, (3072, 28, 24, 8, 128, 8192, 131072, RopeScaling("llama3", 32.0, 1.0, 4.0, 8192))),
        (LLAMA_3_8B, False, True, (4096, 32, 32, 8, 128, 14336, 131072, RopeScaling("llama3", 8.0, 1.0, 4.0, 8192))),
        (LLAMA_3_8B, False, False, (4096, 32, 32, 8, 128, 14336, 8192, None)),
        (LLAMA_3_70B, False, True, (8192, 80, 64, 8, 128, 28672, 131072, RopeScaling("llama3", 8.0, 1.0, 4.0, 8192))),
    ],
)
def test_published_models_have_the_shape_of_their_config_json(
    tmp_path: Path, params: dict[str, Any], tied: bool, scaled: bool, expected: tuple[Any, ...]
) -> None:
    c = read_params(tmp_path, tied, **params, use_scaled_rope=scaled)
    shape = (c.hidden_size, c.num_layers, c.num_heads, c.num_kv_heads, c.head_dim, c.intermediate_size)
    assert (*shape, c.max_position_embeddings, c.rope_scaling) == expected
    assert (c.bos_token_id, c.eos_token_ids) == (128000, (128001, 128008, 128009))
    assert (c.vocab_size, c.rms_norm_eps, c.rope_theta, c.tie_word_embeddings) == (128256, 1e-5, 5e5, tied)


def test_absent_fields_have_metas_defaults(tmp_path: Path) -> None:
    bare = {**LLAMA_3_8B, "n_kv_heads": ..., "ffn_dim_multiplier": ..., "multiple_of": ..., "rope_theta": ...}
    config = read_params(tmp_path, **bare)
    assert (config.num_kv_heads, config.intermediate_size, config.rope_theta) == (32, 11008, 500000.0)


def test_a_factor_in_the_file_is_taken(tmp_path: Path) -> None:
    config = read_params(tmp_path, **LLAMA_3_8B, use_scaled_rope=True, rope_scaling_factor=16)
    assert config.rope_scaling == RopeScaling("llama3", 16.0, 1.0, 4.0, 8192)


def test_fields_may_lie_in_an_object_model(tmp_path: Path) -> None:
    assert read_params(tmp_path, model=LLAMA_3_8B) == read_params(tmp_path, **LLAMA_3_8B)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": ...}, r"dim is missing; expected a whole number"),
        ({"dim": 4097}, r"dim is 4097, no multiple of n_heads 32"),
        ({"n_heads": 64}, None),
        ({"n_heads": "32"}, r'n_heads is "32"; expected a whole number'),
        ({"n_heads": 16}, r"head_dim is 256; the kernels are written for"),
        ({"vocab_size": -1}, r"vocab_size is not given, as in Llama 2 and older"),
        ({"vocab_size": ...}, r"vocab_size is not given, as in Llama 2 and older"),
        ({"vocab_size": 256}, r"vocab_size is 256; expected more than the 256 special tokens"),
        ({"norm_eps": 0}, r"norm_eps is 0; expected a number > 0"),
        ({"ffn_dim_multiplier": "1.3"}, r"ffn_dim_multiplier is"),
        (
            {"quantization_args": {"scheme": "int4"}},
            r"quantization_args is set; quantised checkpoints are",
        ),
        ({"lora_args": {"rank": 16}}, r"lora_args is set; LoRA adapters are not supported"),
        ({"vision_chunk_size": 448}, r"vision_chunk_size is set; vision models are not supported"),
        ({"vision_chunk_size": -1}, None),
        ({"moe_args": {}}, r"moe_args is set; mixtures of experts \(Llama 4\) are not supported"),
        ({"use_scaled_rope": 1}, r"use_scaled_rope is 1; expected true or false"),
    ],
)
def test_unusable_field_is_named(tmp_path: Path, changes: dict[str, Any], message: str | None) -> None:
    values = {**LLAMA_3_8B, **changes}
    if message is None:
        assert read_params(tmp_path, **values).hidden_size == 4096
        return
    with pytest.raises(ModelError, match=message) as caught:
        read_params(tmp_path, **values)
    assert str(caught.value).startswith(f"{tmp_path / 'params.json'}: ") and "\n" not in str(caught.value)


# Weights


def assert_same_weights(folder: Path, weights: dict[str, np.ndarray]) -> None:
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.tensor_names == tuple(weights)
        for name, values in weights.items():
            assert np.array_equal(checkpoint.tensor(name), float32_to_bf16(values)), name


def test_what_torch_wrote_comes_out_in_the_layout_of_hugging_face(tmp_path: Path) -> None:
    folder = write_meta_folder(tmp_path / "meta")
    (folder / "consolidated.00.pth").write_bytes(torch_fixture())
    assert_same_weights(folder, hf_weights())
    with open_checkpoint(folder) as ours, open_checkpoint(write_hf_folder(tmp_path / "hf")) as theirs:
        ids = {"bos_token_id": 264, "eos_token_ids": (265, 272, 273)}
        assert vars(ours.config) == {**vars(theirs.config), **ids}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_other_types_are_rounded_once(tmp_path: Path, dtype: type) -> None:
    tensors = {name: values.astype(dtype) for name, values in meta_tensors(hf_weights()).items()}
    folder = write_meta_folder(tmp_path, [tensors])
    rounded = {name: values.astype(dtype).astype(np.float32) for name, values in hf_weights().items()}
    assert_same_weights(folder, rounded)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.config.dtype == np.dtype(dtype).name


def test_whole_matrices_are_views_of_the_file(tmp_path: Path) -> None:
    with open_checkpoint(write_meta_folder(tmp_path)) as checkpoint:
        name = "model.layers.0.mlp.down_proj.weight"
        assert np.shares_memory(checkpoint.tensor(name), checkpoint.tensor(name))


def test_model_parallel_parts_are_put_together(tmp_path: Path) -> None:
    wide = {"n_heads": 2, "n_kv_heads": 2}
    weights = hf_weights(**wide)
    tensors = as_bf16(meta_tensors(weights) | k_projection(weights))
    folder = write_meta_folder(tmp_path, split(tensors, 2), **wide)
    assert_same_weights(folder, weights)


def k_projection(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With as many key heads as query heads, the keys are in the order that `meta_tensors` gives to the queries."""
    q_name, k_name = (f"model.layers.0.self_attn.{kind}_proj.weight" for kind in "qk")
    permuted = meta_tensors({**weights, q_name: weights[k_name]})["layers.0.attention.wq.weight"]
    return {"layers.0.attention.wk.weight": permuted}


def test_an_output_matrix_of_its_own_unties(tmp_path: Path) -> None:
    weights = hf_weights(tied=False)
    folder = write_meta_folder(tmp_path, [as_bf16(meta_tensors(weights))])
    assert_same_weights(folder, weights)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.config.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)


def test_no_output_matrix_and_an_old_buffer_are_fine(tmp_path: Path) -> None:
    tensors = as_bf16(meta_tensors(hf_weights()))
    del tensors["output.weight"]
    tensors["rope.freqs"] = np.zeros(32, np.uint16)
    assert_same_weights(write_meta_folder(tmp_path, [tensors]), hf_weights())


def broken_parts(damage: str) -> list[dict[str, np.ndarray]]:
    first, second = split(as_bf16(meta_tensors(hf_weights())), 2)
    name = "layers.0.attention.wo.weight"
    if damage == "misshapen":
        second[name] = second[name][:, :-1].copy()
    elif damage == "absent":
        del second[name]
    elif damage == "extra":
        second["extra.weight"] = second[name]
    elif damage == "unknown":
        first["layers.0.attention.wq.bias"] = second["layers.0.attention.wq.bias"] = np.zeros(64, np.uint16)
    elif damage == "no embedding":
        del first["tok_embeddings.weight"], second["tok_embeddings.weight"]
    return [first, second]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("misshapen", r"01\.pth: tensor layers\.0\.attention\.wo\.weight is \[128, 63\], but \[128, 64\] in cons"),
        ("absent", r"consolidated\.01\.pth: lacks tensor layers\.0\.attention\.wo\.weight, unlike consolidated\.00"),
        ("extra", r"consolidated\.01\.pth: has tensor extra\.weight, unlike consolidated\.00\.pth; the parts"),
        ("unknown", r"has tensors that LlamaForCausalLM does not have: layers\.0\.attention\.wq\.bias"),
        ("no embedding", r"consolidated\.00\.pth: has no tensor tok_embeddings\.weight"),
    ],
)
def test_parts_that_do_not_fit_are_named(tmp_path: Path, damage: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        open_checkpoint(write_meta_folder(tmp_path, broken_parts(damage)))


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = write_meta_folder(tmp_path, split(as_bf16(meta_tensors(hf_weights())), 2))
    (folder / "consolidated.01.pth").rename(folder / "consolidated.02.pth")
    with pytest.raises(ModelError, match=r"consolidated\.01\.pth: is missing, and there are later parts"):
        open_checkpoint(folder)
    (folder / "consolidated.00.pth").unlink()
    with pytest.raises(ModelError, match=r"has params\.json but no consolidated\.00\.pth"):
        resolve_model(folder)


def test_a_shape_that_params_json_does_not_say_is_named(tmp_path: Path) -> None:
    message = r"tensor model\.embed_tokens\.weight has shape \[520, 128\]; .* asks for \[521, 128\]"
    with pytest.raises(ModelError, match=message):
        open_checkpoint(write_meta_folder(tmp_path, vocab_size=PARAMS["vocab_size"] + 1))


# Which folder it is


def test_folder_and_what_it_lacks(tmp_path: Path) -> None:
    folder = write_meta_folder(tmp_path / "original")
    assert resolve_model(folder) == folder
    with pytest.raises(ModelError, match=r"has no config\.json; to run Meta's own checkpoint in it, give \S+/original"):
        resolve_model(tmp_path)
    (folder / "tokenizer.model").unlink()
    with pytest.raises(ModelError, match=r"has params\.json but no tokenizer\.model"):
        resolve_model(folder)


def test_params_json_beside_config_json_is_no_checkpoint_of_metas(tmp_path: Path) -> None:
    """Mistral's repositories have both."""
    folder = write_hf_folder(tmp_path)
    (folder / "params.json").write_text("{}")
    assert_same_weights(folder, hf_weights())
