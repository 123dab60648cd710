"""Streaming text: token ids as they come -> text that is final, never half a character.

A token can hold part of a character: an emoji is four UTF-8 bytes, often spread over three or four tokens. So
text is held back until its bytes are complete. What all pushes and `finish()` returned, joined, is exactly
`tokenizer.decode(all ids)`, and each token is looked at a bounded number of times, so a long answer takes
linear time.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from engine.tokenizer import Tokenizer

BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # how SentencePiece vocabularies spell a single byte


class IncrementalDecoder:
    """Decodes one sequence as it grows.

    Args:
        tokenizer: whose ids these are.
        skip_special_tokens: leave out tokens such as `<|im_end|>`.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer, self._skip_special_tokens = tokenizer, skip_special_tokens
        self._stream: _TextStream = _ByteStream(tokenizer) if is_byte_level(tokenizer) else _WindowStream(tokenizer)

    def push(self, ids: Sequence[int]) -> str:
        """Take further ids; returns the text that has become certain, often empty."""
        return self._stream.push([token_id for token_id in ids if self._is_text(token_id)])

    def finish(self) -> str:
        """The text still held back; bytes that never became a character as U+FFFD. Call it once."""
        return self._stream.finish()

    def token_text(self, token: int) -> str:
        """The text of one token alone, special or not; half a character is U+FFFD."""
        return self._tokenizer.token_text(token)

    def _is_text(self, token_id: int) -> bool:
        # An embedding table padded beyond the vocabulary can yield ids that no token has; decode() drops them
        # too.
        if self._tokenizer.token(token_id) is None:
            return False
        return not (self._skip_special_tokens and token_id in self._tokenizer.special_token_ids)


class _TextStream(Protocol):
    def push(self, ids: list[int]) -> str: ...

    def finish(self) -> str: ...


class _ByteStream:
    """Byte-level vocabularies (GPT-2, Llama 3, SmolLM2): a token is a string of bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: list[int]) -> str:
        return self._utf8.decode(b"".join(token_bytes(self._tokenizer.token(token_id) or "") for token_id in ids))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowStream:
    """Other vocabularies: decode the new tokens behind the ones before them, and cut off what was there
    already.

    A token alone does not tell its text: SentencePiece drops the space of the first word only. Behind at
    least one earlier token the rest is decoded as it would be in the whole. A run of byte tokens is judged as
    a whole (one bad byte turns the entire run into U+FFFD), so it is held back until another token ends it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # already given out; decoded again as the left neighbour of what follows
        self._pending: list[int] = []

    def push(self, ids: list[int]) -> str:
        held = len(self._pending)  # a run of byte tokens, or nothing
        self._pending += ids
        end = len(self._pending)
        while end > held and BYTE_TOKEN.fullmatch(self._tokenizer.token(self._pending[end - 1]) or ""):
            end -= 1
        return self._give(end) if end > held else ""

    def finish(self) -> str:
        return self._give(len(self._pending))

    def _give(self, count: int) -> str:
        ready, self._pending = self._pending[:count], self._pending[count:]
        if not ready:
            return ""
        before = self._tokenizer.decode(self._context, skip_special_tokens=False)
        text = self._tokenizer.decode(self._context + ready, skip_special_tokens=False)[len(before) :]
        self._context = ready if text else self._context + ready
        return text


def is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether tokens spell bytes in GPT-2's alphabet: `ByteLevel` is all that the decoder does."""
    decoder = tokenizer.backend.decoder
    if decoder is None:
        return False
    steps = _flatten(json.loads(decoder.__getstate__()))
    return [step["type"] for step in steps] == ["ByteLevel"]


def _flatten(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for child in decoder["decoders"] for step in _flatten(child)]


def byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of the 256 bytes as printable characters: character -> byte.

    Printable Latin-1 characters stand for themselves; the other 68 bytes take the code points from 256 on, in
    order.
    Source: `bytes_to_unicode` of Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


_BYTE_OF = byte_alphabet()


def token_bytes(token: str) -> bytes:
    """The bytes that a byte-level token stands for; a token written in other characters is its own UTF-8."""
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError:
        return token.encode("utf-8")
