"""Llama 3's tokenizer from its rank file: the real one against tiktoken, and all that is refused."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from engine.detokenize import IncrementalDecoder
from engine.errors import ModelError
from engine.tiktoken_file import SPECIAL_TOKENS, backend_from_tiktoken
from engine.tokenizer import Tokenizer, load_tokenizer
from tests.llama3_tokenizer import llama3_ranks
from tests.tiny_meta import TOKENS, write_meta_folder, write_tokenizer

# What Meta's program brings beside the ranks: llama-models 0.3.0, llama_models/llama3/tokenizer.py.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# id - 128000 -> token, of those that have a meaning; the others are <|reserved_special_token_N|>.
NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    5: "<|step_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
    11: "<|image|>",
}
RESERVED = [index for index in range(256) if index not in NAMED]

TEXTS = {
    "latin": "The quick brown fox doesn't jump; it's tired, they'LL say. Größe, naïve, Łódź, İstanbul.",
    "cyrillic": "Съешь ещё этих мягких французских булок, да выпей чаю.",
    "greek": "Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία.",
    "arabic": "نصٌّ حكيمٌ له سرٌّ قاطعٌ وذو شأنٍ عظيمٍ ١٢٣٤٥",
    "hebrew": "דג סקרן שט בים מאוכזב ולפתע מצא חברה, שָׁלוֹם",
    "devanagari": "ऋषियों को सताने वाले दुष्ट राक्षसों का १२३४ वध।",
    "thai": "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ๑๒๓",
    "chinese": "視野無限廣，窗外有藍天。天地玄黄，宇宙洪荒。",  # noqa: RUF001
    "japanese": "いろはにほへと チリヌルヲ 我が世誰ぞ",
    "korean": "키스의 고유조건은 입술끼리 만나야 하고 각 각",
    "tamil": "யாமறிந்த மொழிகளிலே தமிழ்மொழி போல் இனிதாவது",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇫🇷🇯🇵 ☕️ 1️⃣ 🤷🏿‍♀️",
    "combining": "Z\u0351\u036b\u0343a\u0300\u0301lgo e\u0301 ½ Ⅷ ② \U0001d518\U0001d52b\U0001d526 𓀀 \U000e0041",
    "code": 'def f(x):\n\treturn {"a": [x**2, -1e-5]}  # why?\n\n\nif __name__ == "__main__":\r\n    f(0x1F)\n',
    "spaces": "a  b   c    \n   d \t\t e\u00a0f\u3000g \n\n \n\nh" + " " * 200 + "i" + "\n" * 40,
    "digits": "1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x1234 ١٢٣٤",
    "control": "\x00\x01\x07\x08\x0b\x0c\x1b[0m\x7f\x80\x9f\u200b\u200e\ufeff\ufffd\u2028\u2029",
    "long": "a" * 3000 + "ab" * 500,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Meta's folder with the real tokenizer."""
    folder = write_meta_folder(tmp_path_factory.mktemp("llama3"), vocab_size=128256)
    shutil.copy(llama3_ranks(), folder / "tokenizer.model")
    return folder


@pytest.fixture(scope="module")
def llama3(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def reference() -> tiktoken.Encoding:
    """tiktoken with these ranks, as Meta's program makes it."""
    lines = (line.split() for line in llama3_ranks().read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    special = {SPECIAL_TOKENS[index]: 128000 + index for index in range(256)}
    return tiktoken.Encoding("llama3", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)


@pytest.mark.parametrize("name", TEXTS)
def test_encodes_and_decodes_as_tiktoken(llama3: Tokenizer, reference: tiktoken.Encoding, name: str) -> None:
    ids = llama3.encode(TEXTS[name])
    assert ids == [128000, *reference.encode(TEXTS[name])]
    assert llama3.decode(ids) == TEXTS[name] == reference.decode(ids[1:])
    stream = IncrementalDecoder(llama3)
    assert "".join(stream.push([token]) for token in ids) + stream.finish() == TEXTS[name]


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_encodes_as_tiktoken(llama3: Tokenizer, reference: tiktoken.Encoding, text: str) -> None:
    assert llama3.encode(text, add_special_tokens=False) == reference.encode(text, allowed_special="all")


@given(text=st.text(st.sampled_from("abetins' \n10THE"), max_size=60))
def test_crowded_text_encodes_as_tiktoken(llama3: Tokenizer, reference: tiktoken.Encoding, text: str) -> None:
    """Few characters, so that many merges compete."""
    assert llama3.encode(text, add_special_tokens=False) == reference.encode(text)


def test_every_token_is_the_same_bytes(llama3: Tokenizer, reference: tiktoken.Encoding) -> None:
    whole = [rank for rank in range(0, 128000, 7) if decodes(reference, rank)]
    assert len(whole) > 15000
    texts = [reference.decode([rank]) for rank in whole]
    assert [llama3.decode([rank]) for rank in whole] == texts
    batch = llama3.backend.encode_batch(texts, add_special_tokens=False)
    assert [encoding.ids for encoding in batch] == [reference.encode(text) for text in texts]


def decodes(reference: tiktoken.Encoding, rank: int) -> bool:
    """Whether the token is whole characters."""
    try:
        reference.decode_single_token_bytes(rank).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def test_special_tokens_have_the_ids_of_metas_program(llama3: Tokenizer) -> None:
    assert llama3.vocab_size == 128256
    assert llama3.special_token_ids == frozenset(range(128000, 128256))
    assert {index: llama3.token(128000 + index) for index in NAMED} == NAMED
    reserved = [f"<|reserved_special_token_{number}|>" for number in range(246)]
    assert [llama3.token(128000 + index) for index in RESERVED] == reserved
    assert (llama3.bos_token_id, llama3.eos_token_ids) == (128000, (128001,))
    for index, token in NAMED.items():
        assert llama3.encode(f"a{token}b", add_special_tokens=False) == [64, 128000 + index, 65]
    assert llama3.decode([128000, 9906, 128009]) == "Hello"


def test_chat_format_is_metas(llama3: Tokenizer) -> None:
    """The ids by hand from ChatFormat.encode_dialog_prompt of llama_models/llama3/chat_format.py: BOS; for each message
    <|start_header_id|> role <|end_header_id|> "\\n\\n" content <|eot_id|>; then the header of the assistant."""
    start, end, eot, blank = 128006, 128007, 128009, 271
    messages = [
        {"role": "system", "content": "You are a helpful assistant"},
        {"role": "user", "content": " Hello!\n"},
        {"role": "assistant", "content": "Hello"},
        {"role": "tool", "content": "1"},
    ]
    text = llama3.apply_chat_template(messages)
    assert llama3.encode(text, add_special_tokens=False) == [
        *(128000, start, 9125, end, blank, 2675, 527, 264, 11190, 18328, eot),
        *(start, 882, end, blank, 22691, 4999, eot),  # " Hello", "!\n": nothing is trimmed
        *(start, 78191, end, blank, 9906, eot),
        *(start, 23799, 4690, end, blank, 16, eot),  # a tool's answer comes from "ipython"
        *(start, 78191, end, blank),
    ]
    assert llama3.apply_chat_template(messages[:1], add_generation_prompt=False).endswith("assistant<|eot_id|>")


# What is refused


@pytest.fixture
def ranks(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path / "tokenizer.model")
    return tmp_path / "tokenizer.model"


def test_a_small_file_makes_a_tokenizer(ranks: Path) -> None:
    backend = backend_from_tiktoken(ranks)
    spelled = [TOKENS[token] for token in backend.encode("hello the", add_special_tokens=False).ids]
    assert spelled == [b"hello", b" the"]


def test_an_unreachable_token_is_found_whole_only(ranks: Path) -> None:
    """tiktoken looks a piece up as a whole first; "xyz" can't be merged, since none of its parts is a token."""
    with ranks.open("ab") as file:
        file.write(base64.b64encode(b"xyz") + b" %d\n" % len(TOKENS))
    backend = backend_from_tiktoken(ranks)
    assert backend.encode("xyz", add_special_tokens=False).ids == [len(TOKENS)]
    assert len(backend.encode("xyzz", add_special_tokens=False).ids) == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"", b"\n\x0a\x05<unk>\x15\x00\n", r"line 1 is b''; expected a token in base64 .* \(Llama 2's SentencePiece"),
        (b"IQ== 33", b"IQ= 33", r"line 34 is b'IQ= 33'; expected a token in base64 and its rank"),
        (b"IQ== 33", b"IQ==", r"line 34 is b'IQ=='"),
        (b"IQ== 33", b"IQ== x", r"line 34 is b'IQ== x'"),
        (b"IQ== 33", b"IQ== 34", r"its 264 lines are not as many tokens of ranks from 0 on"),
        (b"IQ== 33", b"IA== 33", r"its 264 lines are not as many tokens of ranks from 0 on"),
        (b"IQ== 33", b"ISE= 33", r"1 of the 256 single bytes are no tokens"),
    ],
)
def test_a_damaged_rank_file_is_named(ranks: Path, old: bytes, new: bytes, message: str) -> None:
    ranks.write_bytes(ranks.read_bytes().replace(old, new, 1))
    with pytest.raises(ModelError, match=message) as caught:
        backend_from_tiktoken(ranks)
    assert str(caught.value).startswith(f"{ranks}: ") and "\n" not in str(caught.value)


def test_a_rank_file_of_another_model_is_named(tmp_path: Path) -> None:
    folder = write_meta_folder(tmp_path, vocab_size=128256)
    with pytest.raises(ModelError, match=r"tokenizer\.model: makes 520 tokens, params\.json says 128256"):
        load_tokenizer(folder)


def test_a_rank_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.model: cannot be read: No such file"):
        backend_from_tiktoken(tmp_path / "tokenizer.model")
