"""load_format="dummy": a model by its shape alone, weights made on the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bindings.device import Device
from bindings.dtypes import BF16, decode
from bindings.errors import CutawayError
from engine import LLM, SamplingParams
from engine.config import ModelConfig
from engine.progress import silent
from engine.random_model import SHAPES, config_of, write_random_model
from engine.weights import random_weights

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


def dummy(device: Device, model: str = "toy", seed: int = 0) -> LLM:
    return LLM(model, load_format="dummy", device=device.kind, max_num_seqs=4, seed=seed)


def test_a_shape_runs_without_files_and_repeats_with_its_seed(device: Device) -> None:
    logits = []
    for seed in (0, 0, 1):
        with dummy(device, seed=seed) as llm:
            outputs = llm.generate([[1, 2, 3], [4, 5]], GREEDY)
            assert [len(output.outputs[0].token_ids) for output in outputs] == [6, 6]
            assert outputs[0].outputs[0].text == ""
            logits.append(llm.score([1, 2, 3, 250]))
    assert np.array_equal(logits[0], logits[1]) and not np.array_equal(logits[0], logits[2])
    # Near 1 by the choice of the weights' deviation; anything finite and of that order will do.
    assert np.isfinite(logits[0]).all() and 0.3 < logits[0].std() < 3


def test_text_is_refused_since_there_is_no_tokenizer(device: Device) -> None:
    with dummy(device) as llm:
        with pytest.raises(CutawayError, match="toy with random weights: there is no tokenizer; give token ids"):
            llm.generate("hello", GREEDY)
        with pytest.raises(CutawayError, match="no tokenizer"):
            llm.chat([{"role": "user", "content": "hello"}], GREEDY)


def test_a_folders_config_is_enough(device: Device, tmp_path: Path) -> None:
    write_random_model("toy", tmp_path / "toy")
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / "toy" / name).unlink()
    assert ModelConfig.from_hf(tmp_path / "toy") == config_of("toy")
    with dummy(device, str(tmp_path / "toy")) as of_folder, dummy(device) as of_shape:
        assert np.array_equal(of_folder.score([7, 8]), of_shape.score([7, 8]))


def test_weights_have_the_deviation_that_keeps_activations_near_one(device: Device) -> None:
    config = config_of("toy")
    weights = random_weights(device, config, seed=4, progress=silent)
    matrices = [weights.embed, weights.lm_head]
    matrices += [tensor for layer in weights.layers for tensor in (layer.qkv, layer.o, layer.gate_up, layer.down)]
    values = [decode(matrix.numpy(), BF16) for matrix in matrices]
    norm = decode(weights.layers[1].input_norm.numpy(), BF16)
    weights.free()
    for matrix in values:  # 5 standard errors of a sample's deviation, sigma / sqrt(2 n), and of its mean
        scaled = matrix * np.sqrt(matrix.shape[1])
        assert abs(scaled.std() - 1) < 5 / np.sqrt(2 * matrix.size) + 2.0**-9  # and the rounding to bf16
        assert abs(scaled.mean()) < 5 / np.sqrt(matrix.size)
    assert (norm == 1).all()
    firsts = [tuple(matrix.reshape(-1)[:8].tolist()) for matrix in values]
    assert len(set(firsts)) == len(firsts), "two matrices begin alike"


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_a_configuration(shape: str) -> None:
    assert config_of(shape).num_layers == SHAPES[shape]["num_hidden_layers"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": "gpt-5", "load_format": "dummy"}, "gpt-5"),
        ({"load_format": "dummy"}, "llama-3.2-1b"),
        ({"model": "toy", "load_format": "dummy", "revision": "main"}, "revision 'main'"),
        ({"model": "toy", "load_format": "safetensors"}, "load_format is 'safetensors'; it must be one of auto, dummy"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(options: dict[str, str], named: str) -> None:
    with pytest.raises(CutawayError) as caught:
        LLM(**options)
    assert named in str(caught.value) and "\n" not in str(caught.value)
