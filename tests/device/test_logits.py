"""Logits of small models against transformers, within what the engine's roundings can do: docs/accuracy.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bindings.device import Device
from engine import LLM
from tests.reference_logits import ReferenceLogits, load_reference_logits
from tests.tiny_llama import MODELS, PROMPT_LENGTHS, TinyLlama
from tools.microtest.comparator import assert_close


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def model(request: pytest.FixtureRequest) -> TinyLlama:
    chosen: TinyLlama = request.param
    return chosen


@pytest.fixture(scope="module")
def llm(model: TinyLlama, device: Device, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder: Path = model.write(tmp_path_factory.mktemp("tiny") / model.name)
    with LLM(model=str(folder), device=device.kind, max_model_len=128, max_num_seqs=2) as llm:
        yield llm


def assert_within_rounding(logits: np.ndarray, reference: ReferenceLogits) -> None:
    """Logits [T, V] at the positions that the fixture keeps."""
    assert logits.dtype == np.float32 and len(logits) == len(reference.token_ids)
    assert_close(logits[reference.positions], reference.logits, reference.tolerance, "logits")


@pytest.mark.parametrize("length", PROMPT_LENGTHS)
def test_prefill_agrees_with_transformers(llm: LLM, model: TinyLlama, length: int) -> None:
    reference = load_reference_logits(model, length)
    assert_within_rounding(llm.score(reference.token_ids), reference)


@pytest.mark.parametrize(("length", "prefilled"), [(5, 0), (37, 1), (83, 60)])
def test_decode_agrees_with_transformers(llm: LLM, model: TinyLlama, length: int, prefilled: int) -> None:
    reference = load_reference_logits(model, length)
    assert_within_rounding(llm.score(reference.token_ids, decode_from=prefilled), reference)
