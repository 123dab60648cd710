"""Tokenizers built from GGUF metadata against the programs that the vocabularies come from: vocabularies.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.detokenize import IncrementalDecoder
from engine.gguf_header import GgufHeader
from engine.tokenizer import Tokenizer, tokenizer_from_gguf

VOCABULARIES = json.loads((Path(__file__).parent.parent / "fixtures" / "vocabularies.json").read_text("utf-8"))
KINDS = {
    "spaced": {"model": "llama"},
    "bare": {"model": "llama", "add_space_prefix": False},
    "llama-bpe": {"model": "gpt2", "pre": "llama-bpe"},
    "qwen2": {"model": "gpt2", "pre": "qwen2"},
}


def tokenizer_of(kind: str, **settings: Any) -> Tokenizer:
    lists = {key: value for key, value in VOCABULARIES[kind].items() if key != "cases"}
    bos = lists["tokens"].index("<s>" if "<s>" in lists["tokens"] else "<|begin_of_text|>")
    fields = {"bos_token_id": bos, "add_bos_token": False} | lists | KINDS[kind] | settings
    metadata = {f"tokenizer.ggml.{key}": value for key, value in fields.items() if value is not None}
    return tokenizer_from_gguf(GgufHeader(Path(f"{kind}.gguf"), metadata, {}))


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_text_are_the_originals(kind: str) -> None:
    tokenizer, cases = tokenizer_of(kind), VOCABULARIES[kind]["cases"]
    assert len(cases) > 100
    wrong = [case for case in cases if tokenizer.encode(case["text"]) != case["ids"]]
    assert wrong == []
    assert [tokenizer.decode(case["ids"], skip_special_tokens=False) for case in cases] == [
        case["decoded"] for case in cases
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_out_of_a_stream_as_it_went_in(kind: str) -> None:
    """One id at a time, as an answer is generated; byte tokens add up to characters."""
    tokenizer = tokenizer_of(kind)
    for case in VOCABULARIES[kind]["cases"]:
        decoder = IncrementalDecoder(tokenizer, skip_special_tokens=False)
        pieces = [*(decoder.push([token_id]) for token_id in case["ids"]), decoder.finish()]
        assert "".join(pieces) == case["decoded"]
        whole = "\ufffd" in case["decoded"]  # the text itself may hold it
        assert whole or not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize(("kind", "adds_bos"), [("spaced", True), ("llama-bpe", True), ("qwen2", False)])
def test_bos_where_the_file_does_not_say(kind: str, adds_bos: bool) -> None:
    """Llama's tokenizers, 2 and 3, begin a text with BOS; Qwen's does not."""
    silent, bare = tokenizer_of(kind, add_bos_token=None), tokenizer_of(kind)
    before = [silent.bos_token_id] if adds_bos else []
    assert silent.encode("Hello") == [*before, *bare.encode("Hello")]
