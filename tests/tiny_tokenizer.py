"""Small vocabularies in the form in which a GGUF file carries them: the metadata keys `tokenizer.*`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import GGUFValueType, GGUFWriter

from engine.detokenize import byte_alphabet

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "Ã ©", "ð Ł", "1 2", "Ġ Ġ"]
SPACE = "\u2581"
# In SentencePiece's manner: the longer the piece, the rarer and the lower its score; single characters come last.
PIECES = [
    "he",
    "ll",
    "or",
    f"{SPACE}w",
    "hell",
    f"{SPACE}wor",
    "ld",
    f"{SPACE}world",
    f"{SPACE}he",
    "hello",
    "é",
    SPACE,
]
CHARACTERS = "abcdefghijklmnopqrstuvwxyz.,!"


def byte_level_metadata(split_rule: str = "smollm", **changes: Any) -> dict[str, Any]:
    """GPT-2's style: control tokens, the 256 bytes, one token a merge, and a user-defined token."""
    alphabet = byte_alphabet()
    bytes_ = sorted(alphabet, key=alphabet.__getitem__)
    tokens = ["<s>", "</s>", *bytes_, *(merge.replace(" ", "") for merge in MERGES), "<think>"]
    types = [CONTROL] * 2 + [NORMAL] * (len(tokens) - 3) + [USER_DEFINED]
    fields = {"model": "gpt2", "tokens": tokens, "token_type": types, "pre": split_rule, "merges": MERGES}
    return _metadata(fields | changes)


def sentencepiece_metadata(**changes: Any) -> dict[str, Any]:
    """Llama 2's style: unknown and control tokens, the 256 byte tokens, pieces with scores."""
    special, bytes_ = ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*special, *bytes_, *PIECES, *CHARACTERS]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * (len(PIECES) + len(CHARACTERS))]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(PIECES) + len(CHARACTERS))]
    fields = {"model": "llama", "tokens": tokens, "token_type": types, "scores": scores}
    return _metadata(fields | changes)


def _metadata(fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` (None: absent) under GGUF's keys, with the ids of `<s>` and `</s>` and a chat template."""
    tokens = fields["tokens"] or []
    special = {"bos_token_id": "<s>", "eos_token_id": "</s>"}
    ids = {key: tokens.index(token) for key, token in special.items() if token in tokens}
    kept = {f"tokenizer.ggml.{key}": value for key, value in (ids | fields).items() if value is not None}
    return {**kept, "tokenizer.chat_template": TEMPLATE}


def write_gguf(path: Path, metadata: dict[str, Any]) -> Path:
    """Write `metadata` as a GGUF file without tensors."""
    writer = GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, str: GGUFValueType.STRING}
            writer.add_key_value(key, value, kinds[type(value)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
