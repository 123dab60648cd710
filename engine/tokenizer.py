"""Text <-> token ids of one model, and its chat format.

    tokenizer = load_tokenizer("path/to/model")                  # a folder of Hugging Face's or Meta's, or a .gguf file
    ids = tokenizer.encode("The capital of France is")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}])     # encode with
    add_special_tokens=False

The work of splitting and merging is done by Hugging Face's `tokenizers` package; this module finds the
model's settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from engine.chat_template import ChatTemplate
from engine.detokenize import IncrementalDecoder
from engine.errors import ModelError, UsageError
from engine.fields import Fields, read_json, read_text
from engine.gguf_header import GgufHeader, read_gguf_header
from engine.gguf_tokenizer import backend_from_gguf
from engine.meta_checkpoint import PARAMS, TOKENIZER, is_meta_folder, vocab_size_of
from engine.tiktoken_file import BOS, CHAT_TEMPLATE, EOS, backend_from_tiktoken
from engine.tokenizers_errors import tokenizer_errors

__all__ = ["IncrementalDecoder", "Tokenizer", "load_tokenizer", "tokenizer_from_gguf"]


# Hugging Face's name of a special token -> GGUF's key of its id
SPECIAL_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


class Tokenizer:
    """A `tokenizers.Tokenizer` with the model's special tokens and chat template.

    Attributes:
        backend: the tokenizer proper.
        name: where it came from, for error messages.
        special_tokens: the texts of "bos_token", "eos_token" and the like, where the model has them.
        bos_token_id: the id of "bos_token", or None.
        eos_token_ids: the id of "eos_token", as a tuple of one or none; ModelConfig may know further ids that
            end an answer.
        vocab_size: number of ids, added tokens included; the model's embedding may have more rows.
        special_token_ids: ids of control tokens such as `<|im_end|>`, which are no text.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        name: str,
        special_tokens: Mapping[str, str],
        chat_template: str | None = None,
    ) -> None:
        self.backend, self.name, self.special_tokens = backend, name, dict(special_tokens)
        self.backend.no_truncation()  # a tokenizer.json may carry the settings of its training run
        self.backend.no_padding()
        self._token_texts: dict[int, str] = {}
        self.bos_token_id = self._id_of("bos_token")
        eos = self._id_of("eos_token")
        self.eos_token_ids = () if eos is None else (eos,)
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        added = backend.get_added_tokens_decoder()
        self.special_token_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.chat_template = ChatTemplate(chat_template, self.special_tokens, name) if chat_template else None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; special tokens written out in it (`<|im_end|>`) become their ids.

        `add_special_tokens` puts in what the model expects around a text, such as BOS. Leave it off for text
        from `apply_chat_template`, which writes them itself.

        Raises:
            UsageError: the text holds half of a surrogate pair, so it is not valid Unicode.
            ModelError: the vocabulary has no token for a part of it, and none for what is unknown.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"the text is not valid Unicode: character {error.start} is a lone surrogate") from error
        with tokenizer_errors(f"{self.name}: the tokenizer fails on this text"):
            ids: list[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`; bytes that form no character are U+FFFD, ids without a token nothing."""
        with tokenizer_errors(f"{self.name}: the tokenizer fails on token ids"):
            text: str = self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def token(self, token_id: int) -> str | None:
        """How the vocabulary spells a token (`Ġhello`), or None for an id that it does not have."""
        spelling: str | None = self.backend.id_to_token(token_id)
        return spelling

    @property
    def eos_token_id(self) -> int | None:
        """The id that ends a text, under the name that scripts know from transformers."""
        return self.eos_token_ids[0] if self.eos_token_ids else None

    def token_text(self, token_id: int) -> str:
        """The text of one token alone, special ones too. Kept: log-probabilities ask for the same ones again."""
        text = self._token_texts.get(token_id)
        if text is None:
            text = self._token_texts[token_id] = self.decode([token_id], skip_special_tokens=False)
        return text

    def template(self, source: str | None = None) -> ChatTemplate:
        """The model's chat template, or `source` in its place. Raises ModelError for none, or a broken one."""
        if source is not None:
            return ChatTemplate(source, self.special_tokens, "chat_template")
        if self.chat_template is None:
            raise ModelError(f"{self.name}: the model has no chat template; give it raw text (--raw)")
        return self.chat_template

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, tokenize: bool = False
    ) -> str:
        """The conversation in the model's chat format, as text: see `ChatTemplate.render`.

        Raises:
            ModelError: the model has no chat template, or a broken one.
            UsageError: the messages are not what the template can format, or ids are asked for (`tokenize`).
        """
        if tokenize:
            raise UsageError("apply_chat_template gives text: tokenize it by encode(text, add_special_tokens=False)")
        return self.template().render(messages, add_generation_prompt)

    def _id_of(self, key: str) -> int | None:
        token = self.special_tokens.get(key)
        if token is None:
            return None
        with tokenizer_errors(f"{self.name}: its {key} {token!r}"):  # a lone surrogate is no text to Rust
            token_id: int | None = self.backend.token_to_id(token)
        if token_id is None:
            raise ModelError(f"{self.name}: its {key} {token!r} is not in the vocabulary")
        return token_id


class NoTokenizer(Tokenizer):
    """Stands where a model has no tokenizer: decodes every token to nothing, and refuses text."""

    def __init__(self, name: str) -> None:
        super().__init__(tokenizers.Tokenizer(tokenizers.models.BPE()), name, {})

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Raises ModelError."""
        raise ModelError(f"{self.name}: there is no tokenizer; give token ids in place of text")

    def template(self, source: str | None = None) -> ChatTemplate:
        """Raises ModelError."""
        raise ModelError(f"{self.name}: there is no tokenizer, and so no chat; give token ids")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a model: a folder with tokenizer.json, Meta's folder of Llama 3, or a .gguf file.

    Raises:
        ModelError: nothing there, a file missing or damaged, or a kind of tokenizer that is not supported.
    """
    path = Path(path)
    if path.is_dir():
        return tokenizer_from_meta(path) if is_meta_folder(path) else _tokenizer_from_folder(path)
    if not path.exists():
        raise ModelError(f"{path}: no such model (expected a Hugging Face folder or a .gguf file)")
    return tokenizer_from_gguf(read_gguf_header(path))


def tokenizer_from_gguf(header: GgufHeader) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describes.

    Raises:
        ModelError: see `backend_from_gguf`.
    """
    name, fields = str(header.path), Fields(header.metadata, str(header.path))
    backend = backend_from_gguf(header.metadata, name)
    special_tokens = {}
    for key, stored_as in SPECIAL_TOKENS.items():
        ids = fields.ids(f"tokenizer.ggml.{stored_as}")
        # 2^32 - 1 is how some converters write "none".
        token = backend.id_to_token(ids[0]) if ids and ids[0] < backend.get_vocab_size() else None
        if token is not None:
            special_tokens[key] = token
    return Tokenizer(backend, name, special_tokens, fields.text("tokenizer.chat_template", default="") or None)


def tokenizer_from_meta(folder: Path) -> Tokenizer:
    """The tokenizer and the chat format of Llama 3, from tokenizer.model.

    Raises:
        ModelError: see `backend_from_tiktoken`; or it has not as many tokens as params.json says.
    """
    backend = backend_from_tiktoken(folder / TOKENIZER)
    size, expected = backend.get_vocab_size(), vocab_size_of(folder)
    if size != expected:
        raise ModelError(f"{folder / TOKENIZER}: makes {size} tokens, {PARAMS} says {expected}; one is another model's")
    return Tokenizer(backend, str(folder), {"bos_token": BOS, "eos_token": EOS}, CHAT_TEMPLATE)


def _tokenizer_from_folder(folder: Path) -> Tokenizer:
    backend = _read_backend(folder / "tokenizer.json")
    settings: dict[str, Any] = {}
    for file in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):  # the later one wins
        settings |= read_json(file) if file.is_file() else {}
    special_tokens = {}
    for key in SPECIAL_TOKENS:
        token = settings.get(key)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            special_tokens[key] = text
    return Tokenizer(backend, str(folder), special_tokens, _folder_template(folder, settings))


def _read_backend(file: Path) -> tokenizers.Tokenizer:
    if not file.is_file():
        raise ModelError(
            f"{file}: missing; a model folder needs its tokenizer in this file (tokenizer.model is not read)"
        )
    with tokenizer_errors(f"{file}: not a tokenizer"):
        return tokenizers.Tokenizer.from_file(str(file))


def _folder_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, else `chat_template` in tokenizer_config.json: a text, or a list of named ones."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return read_text(file)
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {str(entry.get("name")): entry.get("template") for entry in template if isinstance(entry, dict)}
        if "default" not in named:
            raise ModelError(f"{folder}: no chat template is named 'default' (found: {', '.join(named)})")
        template = named["default"]
    if template is not None and not isinstance(template, str):
        raise ModelError(
            f"{folder}: chat_template in tokenizer_config.json is a {type(template).__name__}, expected text"
        )
    return template
