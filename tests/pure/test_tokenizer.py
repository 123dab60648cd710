"""Text to token ids, from GGUF metadata and from a Hugging Face folder; the real vocabulary against its references."""

from __future__ import annotations

import json
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.models import WordLevel

from engine.errors import ModelError, UsageError
from engine.gguf_header import GgufHeader
from engine.gguf_tokenizer import SPLIT_RULES
from engine.model_files import default_model
from engine.tokenizer import Tokenizer, load_tokenizer, tokenizer_from_gguf
from engine.tokenizers_errors import tokenizer_errors
from tests.tiny_tokenizer import PIECES, SPACE, byte_level_metadata, sentencepiece_metadata, write_gguf

TOKENS = json.loads((Path(__file__).parent.parent / "fixtures" / "smollm2_tokens.json").read_text("utf-8"))
TALK = [{"role": "user", "content": "hello"}]


any_text = st.text(st.characters(exclude_categories=["Cs"]))


def from_metadata(metadata: dict[str, Any]) -> Tokenizer:
    return tokenizer_from_gguf(GgufHeader(Path("tiny.gguf"), metadata, {}))


def spell(tokenizer: Tokenizer, text: str, **options: bool) -> list[str | None]:
    return [tokenizer.token(token_id) for token_id in tokenizer.encode(text, **options)]


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    return load_tokenizer(default_model())


# the default model's vocabulary


@pytest.mark.parametrize("name", TOKENS["cases"])
def test_default_model_encodes_as_the_references(smollm2: Tokenizer, name: str) -> None:
    case = TOKENS["cases"][name]
    assert smollm2.encode(case["text"]) == case["ids"]
    assert smollm2.decode(case["ids"], skip_special_tokens=False) == case["text"]


# Its vocabulary has no token for these: six control characters, and the first bytes of the planes from U+40000 on,
# where Unicode assigns nothing. BPE drops what it has no token for.
spellable = st.characters(
    max_codepoint=0x3FFFF, exclude_categories=["Cs"], exclude_characters="\x04\x06\x13\x14\x16\x1d"
)


@given(text=st.text(spellable))
def test_default_model_round_trips_any_text(smollm2: Tokenizer, text: str) -> None:
    assert smollm2.decode(smollm2.encode(text), skip_special_tokens=False) == text


def test_default_model_knows_its_special_tokens(smollm2: Tokenizer) -> None:
    assert smollm2.vocab_size == 49152
    assert (smollm2.bos_token_id, smollm2.eos_token_ids) == (1, (2,))
    assert smollm2.special_token_ids == frozenset(range(17))
    assert smollm2.decode([1, 504, 3575, 2]) == "The capital"
    assert smollm2.decode([1, 504, 3575, 2], skip_special_tokens=False) == "<|im_start|>The capital<|im_end|>"


# byte-level BPE from metadata


def test_byte_level_merges_in_order() -> None:
    assert spell(from_metadata(byte_level_metadata()), "hello world") == ["hello", "Ġworld"]


def test_smollm_splits_every_digit_and_gpt2_does_not() -> None:
    assert spell(from_metadata(byte_level_metadata("smollm")), "a12") == ["a", "1", "2"]
    assert spell(from_metadata(byte_level_metadata("gpt-2")), "a12") == ["a", "12"]


def test_default_rule_splits_three_digits_first() -> None:
    # "default" cuts "1212" after the third digit, so that the last "12" can't form.
    assert spell(from_metadata(byte_level_metadata("default")), "1212") == ["12", "1", "2"]
    assert spell(from_metadata(byte_level_metadata("gpt-2")), "1212") == ["12", "12"]


def test_llama3_takes_three_digits_and_a_whole_token_before_its_merges() -> None:
    metadata = byte_level_metadata("llama-bpe")
    metadata["tokenizer.ggml.tokens"] = ["123" if t == "ĠĠ" else t for t in metadata["tokenizer.ggml.tokens"]]
    metadata["tokenizer.ggml.merges"] = [m for m in metadata["tokenizer.ggml.merges"] if m != "Ġ Ġ"]
    assert spell(from_metadata(metadata), "1234", add_special_tokens=False) == ["123", "4"]


@pytest.mark.parametrize("rule", sorted(SPLIT_RULES))
def test_no_split_rule_loses_text(rule: str) -> None:
    tokenizer = from_metadata(byte_level_metadata(rule, add_bos_token=False))

    @given(text=any_text)
    def round_trip(text: str) -> None:
        expected = unicodedata.normalize("NFC", text) if SPLIT_RULES[rule].composes else text
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == expected

    round_trip()


def test_control_and_user_defined_tokens_stay_whole() -> None:
    tokenizer = from_metadata(byte_level_metadata())
    assert spell(tokenizer, "<s>hello<think></s>") == ["<s>", "hello", "<think>", "</s>"]
    ids = tokenizer.encode("<s>hello<think></s>")
    assert tokenizer.decode(ids) == "hello<think>"  # a user-defined token is text, a control token is not


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["hello"]),
        ({"add_bos_token": True}, ["<s>", "hello"]),
        ({"add_bos_token": True, "add_eos_token": True}, ["<s>", "hello", "</s>"]),
        ({"split_rule": "llama-bpe"}, ["<s>", "hello"]),
        ({"split_rule": "llama-bpe", "add_bos_token": False}, ["hello"]),
    ],
)
def test_bos_and_eos_follow_the_flags(changes: dict[str, Any], expected: list[str]) -> None:
    tokenizer = from_metadata(byte_level_metadata(**changes))
    assert spell(tokenizer, "hello") == expected
    assert spell(tokenizer, "hello", add_special_tokens=False) == ["hello"]


# SentencePiece from metadata

WITHOUT_BOS = from_metadata(sentencepiece_metadata(add_bos_token=False))


def join_by_score(symbols: list[str], scores: dict[str, float]) -> list[str]:
    """SentencePiece's BPE as its paper has it: join the neighbours that form the best-scored piece, leftmost first."""
    while True:
        pairs = [left + right for left, right in pairwise(symbols)]
        known = [index for index, piece in enumerate(pairs) if piece in scores]
        if not known:
            return symbols
        best = max(known, key=lambda index: (scores[pairs[index]], -index))
        symbols = [*symbols[:best], pairs[best], *symbols[best + 2 :]]


@given(text=st.text("helowrdé ", min_size=1))
def test_sentencepiece_joins_by_score(text: str) -> None:
    tokenizer = WITHOUT_BOS
    scores = {piece: -float(rank) for rank, piece in enumerate(PIECES)}
    assert spell(tokenizer, text) == join_by_score(list((" " + text).replace(" ", SPACE)), scores)


def test_sentencepiece_adds_bos_and_a_space_and_takes_them_off_again() -> None:
    tokenizer = from_metadata(sentencepiece_metadata())
    assert spell(tokenizer, "hello world") == ["<s>", SPACE, "hello", f"{SPACE}world"]
    assert tokenizer.decode(tokenizer.encode("hello world")) == "hello world"
    bare = from_metadata(sentencepiece_metadata(add_space_prefix=False, add_bos_token=False))
    assert spell(bare, "hello") == ["hello"]
    assert bare.decode(bare.encode(" hello")) == " hello"


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters=SPACE)))
def test_sentencepiece_falls_back_to_bytes_and_loses_nothing(text: str) -> None:
    assert WITHOUT_BOS.decode(WITHOUT_BOS.encode(text)) == text


# files


def test_gguf_file_and_metadata_make_the_same_tokenizer(tmp_path: Path) -> None:
    for metadata in (byte_level_metadata(), sentencepiece_metadata()):
        tokenizer = load_tokenizer(write_gguf(tmp_path / "tiny.gguf", metadata))
        assert tokenizer.encode("hello é 12") == from_metadata(metadata).encode("hello é 12")
        assert tokenizer.apply_chat_template(TALK) == "<s>user: hello</s>assistant: "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder with the tiny byte-level vocabulary."""
    backend = from_metadata(byte_level_metadata()).backend
    backend.enable_truncation(max_length=3)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    write_settings(tmp_path, bos_token="<s>", eos_token={"content": "</s>"}, chat_template="{{ messages[0].content }}")
    return tmp_path


def write_settings(folder: Path, **settings: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def test_folder_without_its_training_settings(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert spell(tokenizer, "hello hello hello world") == ["hello", "Ġ", "hello", "Ġ", "hello", "Ġworld"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (0, (1,))
    assert tokenizer.apply_chat_template(TALK) == "hello"


def test_folder_template_can_be_named_or_a_file(folder: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes{{ bos_token }}"}]
    write_settings(folder, bos_token="<s>", chat_template=named)
    assert load_tokenizer(folder).apply_chat_template(TALK) == "yes<s>"
    (folder / "chat_template.jinja").write_text("file", "utf-8")
    assert load_tokenizer(folder).apply_chat_template(TALK) == "file"


def test_special_tokens_map_where_the_settings_are_silent(folder: Path) -> None:
    write_settings(folder)
    (folder / "special_tokens_map.json").write_text('{"eos_token": {"content": "</s>"}}', "utf-8")
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (None, (1,))


# what is refused, in one line that names it


def damaged(folder: Path, name: str, content: str | None) -> Path:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content, "utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "tokenizer.json: missing"),
        ("tokenizer.json", "{}", "tokenizer.json: not a tokenizer"),
        ("tokenizer_config.json", "[1]", "tokenizer_config.json"),
        ("tokenizer_config.json", "{", "tokenizer_config.json"),
        ("tokenizer_config.json", '{"eos_token": "<|gone|>"}', "eos_token '<|gone|>' is not in the vocabulary"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "rag", "template": ""}]}', "found: rag"),
        ("tokenizer_config.json", '{"chat_template": [{"name": ["default"], "template": ""}]}', "found: ['default']"),
        ("tokenizer_config.json", '{"chat_template": 7}', "is a int"),
        ("tokenizer_config.json", '{"eos_token": "\\ud800"}', "eos_token '\\ud800'"),
        ("tokenizer.json", '{"model": {"type": "Martian"}}', "tokenizer.json: not a tokenizer"),
        ("tokenizer_config.json", '{"chat_template": "{% if %}"}', "chat template does not parse"),
        ("chat_template.jinja", "{{", "chat template does not parse"),
    ],
)
def test_damaged_folder_is_refused(folder: Path, name: str, content: str | None, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_tokenizer(damaged(folder, name, content))
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "tokenizer.ggml.model is missing; expected a string"),
        ({"tokenizer.ggml.model": ["gpt2"]}, 'tokenizer.ggml.model is ["gpt2"]; expected a string'),
        ({"tokenizer.ggml.model": "bert"}, 'tokenizer.ggml.model is "bert"; only gpt2 and llama are supported'),
        (
            byte_level_metadata("kimi-k2"),
            'pre is "kimi-k2", which is not supported; known: codeshell, command-r, dbrx,',
        ),
        (byte_level_metadata("smollm", pre=7), "tokenizer.ggml.pre is 7; expected a string"),
        (byte_level_metadata(tokens=[]), "tokenizer.ggml.tokens is []; expected a list with entries"),
        (byte_level_metadata(tokens=["a", 3]), "tokenizer.ggml.tokens has the entry 3, which is of a wrong type"),
        (byte_level_metadata(add_bos_token="no"), 'add_bos_token is "no"; expected true or false'),
        (byte_level_metadata(unknown_token_id="0"), 'unknown_token_id is "0"; expected a token id'),
        (sentencepiece_metadata(scores=["x"]), 'tokenizer.ggml.scores has the entry "x"'),
        (byte_level_metadata() | {"tokenizer.chat_template": 7}, "tokenizer.chat_template is 7; expected a string"),
        (byte_level_metadata(tokens=None), "tokenizer.ggml.tokens"),
        (byte_level_metadata(token_type=[1, 2]), "2 entries for"),
        (byte_level_metadata(merges=["h e", "he zz"]), "does not make a tokenizer"),
        (byte_level_metadata(merges=["he"]), 'holds "he"; expected two tokens and a space'),
        (byte_level_metadata(merges=None), "tokenizer.ggml.merges"),
        (byte_level_metadata(add_bos_token=True, bos_token_id=9999), "bos_token_id is 9999"),
        (sentencepiece_metadata(scores=None), "tokenizer.ggml.scores"),
    ],
)
def test_metadata_that_makes_no_tokenizer_is_refused(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        from_metadata(metadata)
    assert message in str(caught.value)
    assert str(caught.value).startswith("tiny.gguf: ")
    assert "\n" not in str(caught.value)


def test_a_piece_without_end_is_refused() -> None:
    with pytest.raises(ModelError, match=r"tokens holds a piece of 5000 characters; expected at most 1024"):
        from_metadata(
            sentencepiece_metadata(tokens=["<s>", "</s>", "a" * 5000], token_type=[3, 3, 1], scores=[0.0] * 3)
        )


def test_folder_with_files_that_are_no_text_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelError, match=r"chat_template\.jinja: is not UTF-8 text"):
        load_tokenizer(folder)


def test_text_that_the_tokenizer_fails_on_is_a_model_error() -> None:
    """A vocabulary of words that has no token for an unknown one."""
    tokenizer = Tokenizer(tokenizers.Tokenizer(WordLevel({"a": 0}, unk_token="?")), "words", {})
    with pytest.raises(ModelError, match="words: the tokenizer fails on this text: "):
        tokenizer.encode("b")


def test_a_panic_of_the_rust_code_is_a_model_error() -> None:
    class PanicException(BaseException):
        """What pyo3 raises: derived from BaseException, and exported by nobody."""

    with pytest.raises(ModelError, match=r"file: index out of bounds$"), tokenizer_errors("file"):
        raise PanicException("index out\nof bounds")
    with pytest.raises(KeyboardInterrupt), tokenizer_errors("file"):
        raise KeyboardInterrupt
    with pytest.raises(ModelError, match=r"^file: x{300}\.\.\.$"), tokenizer_errors("file"):
        raise Exception("x" * 5000)


def test_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model"):
        load_tokenizer(tmp_path / "none.gguf")


def test_model_without_template_says_what_to_do() -> None:
    metadata = byte_level_metadata()
    del metadata["tokenizer.chat_template"]
    with pytest.raises(ModelError, match=r"tiny\.gguf: the model has no chat template.*--raw"):
        from_metadata(metadata).apply_chat_template(TALK)


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(UsageError, match="character 2 is a lone surrogate"):
        from_metadata(byte_level_metadata()).encode("ab\ud800")
