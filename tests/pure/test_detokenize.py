"""Streaming text: pushes joined are exactly decode(all ids), no half characters, linear time."""

from __future__ import annotations

from itertools import accumulate, chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.detokenize import IncrementalDecoder, byte_alphabet, token_bytes
from engine.gguf_header import GgufHeader
from engine.tokenizer import Tokenizer, tokenizer_from_gguf
from tests.tiny_tokenizer import byte_level_metadata, sentencepiece_metadata

BYTE_LEVEL = tokenizer_from_gguf(GgufHeader(Path("tiny.gguf"), byte_level_metadata(), {}))
SENTENCEPIECE = tokenizer_from_gguf(GgufHeader(Path("tiny.gguf"), sentencepiece_metadata(), {}))
BARE_SENTENCEPIECE = tokenizer_from_gguf(
    GgufHeader(Path("tiny.gguf"), sentencepiece_metadata(add_space_prefix=False), {})
)
TOKENIZERS = [BYTE_LEVEL, SENTENCEPIECE, BARE_SENTENCEPIECE]
each_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["bytes", "pieces", "bare-pieces"])
# Mostly ids of the vocabulary (both have about 300 tokens), some beyond it, as from a padded embedding table.
any_ids = st.lists(st.integers(0, 320), max_size=60)
any_text = st.text(st.characters(exclude_categories=["Cs"]))


def stream(tokenizer: Tokenizer, pieces: list[list[int]], skip_special_tokens: bool = True) -> list[str]:
    decoder = IncrementalDecoder(tokenizer, skip_special_tokens)
    return [*(decoder.push(piece) for piece in pieces), decoder.finish()]


@each_tokenizer
@given(ids=any_ids, skip=st.booleans())
def test_one_id_at_a_time_is_decode(tokenizer: Tokenizer, ids: list[int], skip: bool) -> None:
    assert "".join(stream(tokenizer, [[i] for i in ids], skip)) == tokenizer.decode(ids, skip)


@each_tokenizer
@given(pieces=st.lists(st.lists(st.integers(0, 320), max_size=8), max_size=12))
def test_several_ids_at_a_time_is_decode(tokenizer: Tokenizer, pieces: list[list[int]]) -> None:
    assert "".join(stream(tokenizer, pieces)) == tokenizer.decode(list(chain(*pieces)))


@each_tokenizer
@given(text=any_text)
def test_text_comes_whole_and_never_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    parts = stream(tokenizer, [[i] for i in tokenizer.encode(text, add_special_tokens=False)])
    assert "".join(parts) == tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
    for given_out in accumulate(parts):
        assert text.startswith(given_out) or "\ufffd" in text or "\u2581" in text  # text may hold these itself


def test_character_comes_with_its_last_byte() -> None:
    ids = [BYTE_LEVEL.backend.token_to_id(t) for t in ("a", "ð", "Ł", "ĺ", "Ģ", "b")]  # a😀b
    assert stream(BYTE_LEVEL, [[i] for i in ids]) == ["a", "", "", "", "😀", "b", ""]
    ids = [SENTENCEPIECE.backend.token_to_id(t) for t in ("a", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "b")]
    assert stream(SENTENCEPIECE, [[i] for i in ids]) == ["a", "", "", "", "", "😀b", ""]


def test_unfinished_character_is_flushed_as_replacement() -> None:
    ids = [BYTE_LEVEL.backend.token_to_id(t) for t in ("a", "ð", "Ł", "ĺ")]
    assert stream(BYTE_LEVEL, [ids]) == ["a", "\ufffd"]


def test_special_tokens_leave_words_and_spaces_alone() -> None:
    ids = SENTENCEPIECE.encode("hello</s>") + SENTENCEPIECE.encode(" world", add_special_tokens=False)
    assert "".join(stream(SENTENCEPIECE, [[i] for i in ids])) == SENTENCEPIECE.decode(ids)


@pytest.mark.parametrize("tokenizer", TOKENIZERS[:2], ids=["bytes", "pieces"])
@pytest.mark.parametrize("kind", ["text", "endless invalid bytes"])
def test_work_grows_with_the_number_of_ids(tokenizer: Tokenizer, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spelling = {"text": ("h", "h"), "endless invalid bytes": ("Ģ", "<0x80>")}[kind][tokenizer is SENTENCEPIECE]
    looked_at = 0

    def counted_decode(ids: list[int], skip_special_tokens: bool = True) -> str:
        nonlocal looked_at
        looked_at += len(ids)
        return tokenizer.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def counted_token(token_id: int) -> str | None:
        nonlocal looked_at
        looked_at += 1
        return tokenizer.backend.id_to_token(token_id)

    monkeypatch.setattr(tokenizer, "decode", counted_decode)
    monkeypatch.setattr(tokenizer, "token", counted_token)
    count = 2000
    stream(tokenizer, [[tokenizer.backend.token_to_id(spelling)]] * count)
    assert 0 < looked_at <= 6 * count


def test_byte_alphabet_is_a_bijection_onto_all_bytes() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert token_bytes("Ġhello") == b" hello"
    assert token_bytes("日") == "日".encode()  # not in the alphabet: an added token, written as it is
