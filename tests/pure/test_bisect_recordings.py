"""Recordings as a side of tools.bisect: what they must hold, which step meets which rows, how far bf16 may lie off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bindings.dtypes import bf16_to_float32, float32_to_bf16
from tests.bisect_script import Script, operation
from tools.bisect.lockstep import Lockstep
from tools.bisect.messages import Output
from tools.bisect.noise import attention_noise
from tools.bisect.recorded_error import RecordedError
from tools.bisect.recording import Recording, RecordingError
from tools.microtest.rounding import round_to_bf16


def recorded(tmp_path: Path, **changes: Any) -> Path:
    """A recording of six tokens, two of them decoded, of one layer of width 4."""
    random = np.random.default_rng(0)
    wide = {name: random.standard_normal((6, 4)).astype(np.float32) for name in ("embedding", "layers.0.attention")}
    arrays = {
        "token_ids": np.arange(6) + 10,
        "prompt_tokens": np.array(4),
        **wide,
        "logits": np.ones((3, 7)),
        **changes,
    }
    path = tmp_path / "recorded.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"token_ids": None}, "'token_ids' must be in it, a list of whole numbers"),
        ({"prompt_tokens": None}, "'prompt_tokens' must be in it, a whole number"),
        ({"prompt_tokens": np.array(1.5)}, "'prompt_tokens' must be in it"),
        ({"prompt_tokens": np.array(0)}, "prompt_tokens is 0, of 6 tokens"),
        ({"prompt_tokens": np.array(7)}, "prompt_tokens is 7, of 6 tokens"),
        ({"embedding": np.array([None])}, "is no .npz archive of arrays of numbers"),
        ({"layers.0.attn": np.ones((6, 4))}, "'layers.0.attn' is no name of the format"),
        ({"embedding": np.ones((5, 4))}, "embedding must be floats of 6 rows, a token each, not float64[5, 4]"),
        ({"layers.0.attention": np.ones((6, 4), np.int32)}, "layers.0.attention must be floats of 6 rows"),
        ({"logits": np.ones((6, 4))}, "logits must be floats of 3 rows"),
    ],
)
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RecordingError) as caught:
        Recording(recorded(tmp_path, **changes))
    assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(text)
    with pytest.raises(RecordingError, match=r"x.npz is no .npz archive"):
        Recording(tmp_path / "x.npz")


def test_a_step_meets_its_rows_of_a_recording(tmp_path: Path) -> None:
    recording = Recording(recorded(tmp_path))
    assert recording.steps == 3

    def met(label: str, op: str, rows: int, width: int = 4, tensor: str = "activations.residual") -> Output | None:
        noise = np.full((rows, width), 0.5) if op == "gemm" else None
        mine = Output(np.zeros((rows, width), np.float32), "f32", tensor, noise=noise)
        found = recording.meet(operation(op, label, out=mine))
        return None if found is None else found.outputs["out"]

    with np.load(recorded(tmp_path)) as file:
        embedding, logits = file["embedding"], file["logits"]
    prompt, decoded = (
        met("step 1 / prefill / embedding", "embedding", 4),
        met("step 3 / decode / embedding", "embedding", 1),
    )
    assert prompt is not None and np.array_equal(prompt.values, embedding[:4])
    assert decoded is not None and np.array_equal(decoded.values, embedding[5:])
    last = met("step 3 / decode / lm head", "gemm", 1, 7, "activations.logits")
    assert last is not None and np.array_equal(last.values, logits[2:])
    update = met("step 2 / decode / layer 0 / attention", "gemm", 1, tensor="activations.update")
    assert update is not None and update.tensor == "layers.0.attention" and (update.absolute == 12 * 0.5).all()
    assert met("step 2 / decode / layer 0 / attention", "gemm", 1, tensor="activations.qkv") is None
    assert met("step 2 / decode / layer 0 / mlp", "gemm", 1, tensor="activations.update") is None, "it was not recorded"
    with pytest.raises(RecordingError, match=r"embedding is \[6, 4\], .* the engine has \[4, 8\]: another model"):
        met("step 1 / prefill / embedding", "embedding", 4, 8)


def test_the_text_goes_on_as_it_was_recorded(tmp_path: Path) -> None:
    recording = Recording(recorded(tmp_path))
    tokens = {}
    for step in (1, 2, 3):
        chosen = Output(np.array([99], np.int32), "i32", "chosen")
        found = recording.meet(operation("argmax", f"step {step} / decode / sample", token_ids=chosen))
        tokens[step] = None if found is None else found.outputs["token_ids"].values.tolist()
    assert tokens == {1: [14], 2: [15], 3: None}
    engine = Script(operation("argmax", "step 1 / prefill / sample", token_ids=chosen))
    made = Lockstep(recording, engine)  # type: ignore[arg-type]
    (pair,) = list(made.pairs())
    assert pair.comparisons == {} and engine.told[0].values["token_ids"].tolist() == [14]


@pytest.fixture(scope="module")
def layer() -> dict[str, np.ndarray]:
    """The stream of one layer in float32, with channels of very different sizes, and the norm behind it."""
    random = np.random.default_rng(1)
    sizes = np.exp(random.standard_normal(96) * 2)
    arrays = {
        name: random.standard_normal((40, 96)) * sizes for name in ("embedding", "layers.0.attention", "layers.0.mlp")
    }
    arrays["layers.0.residual"] = sum(arrays.values(), np.zeros((40, 96)))
    weight = 1 + random.uniform(-0.5, 0.5, 96)
    arrays["final_norm"] = normed(arrays["layers.0.residual"], weight)
    return {**arrays, "weight": weight}


def normed(stream: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight * stream / np.sqrt(np.mean(stream**2, axis=1, keepdims=True))


def test_taking_over_a_stream_in_bf16_stays_within_its_bound_and_near_it(layer: dict[str, np.ndarray]) -> None:
    """What an engine does: three terms rounded, two sums rounded, and the norm of that."""
    error = RecordedError({name: array for name, array in layer.items() if name != "weight"})
    before, attention, mlp = (
        round_to_bf16(layer[name]) for name in ("embedding", "layers.0.attention", "layers.0.mlp")
    )
    stream = round_to_bf16(round_to_bf16(before + attention) + mlp)
    share = np.abs(stream - layer["layers.0.residual"]) / error.of("layers.0.residual")
    assert 0.3 < share.max() <= 1
    apart = np.abs(bf16_to_float32(float32_to_bf16(normed(stream, layer["weight"]))) - layer["final_norm"])
    share = apart / (error.of("final_norm") + 2.0**-8 * np.abs(layer["final_norm"]))
    assert 0.2 < share.max() <= 1


def test_what_a_tolerance_needs_must_be_recorded_too(layer: dict[str, np.ndarray]) -> None:
    assert RecordedError(layer).is_known("layers.0.residual") and RecordedError(layer).is_known("final_norm")
    for missing in ("layers.0.attention", "layers.0.mlp", "layers.0.residual"):
        error = RecordedError({name: array for name, array in layer.items() if name != missing})
        assert not error.is_known("layers.0.residual") and not error.is_known("final_norm")


def test_noise_of_attention_is_what_random_errors_make() -> None:
    """Monte Carlo: a variance measured in 4,000 runs is known to 2 %, and the formula is linear in small errors."""
    random = np.random.default_rng(3)
    q, k, v = (random.standard_normal((count, 8)) for count in (2, 7, 7))
    noises = [random.uniform(0.5, 2, values.shape) * 1e-4 for values in (q, k, v)]
    expected = attention_noise(q, noises[0], k, noises[1], v, noises[2], scale=0.5)

    def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        scores = np.where(np.tri(2, 7, 5, dtype=bool), 0.5 * q @ k.T, -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True) @ v

    def disturbed() -> list[np.ndarray]:
        pairs = zip((q, k, v), noises, strict=True)
        return [values + np.sqrt(noise) * random.standard_normal(values.shape) for values, noise in pairs]

    runs = [attend(*disturbed()) for _ in range(4000)]
    measured = np.var(runs, axis=0)
    of_roundings = attention_noise(q, 0 * noises[0], k, 0 * noises[1], v, 0 * noises[2], scale=0.5)
    ratio = measured / (expected - of_roundings)
    assert (np.abs(ratio - 1) < 0.15).all(), ratio
