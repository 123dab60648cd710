"""A tokenizer built from the metadata of a GGUF file, which carries no tokenizer.json.

The keys `tokenizer.ggml.*` hold the vocabulary in one of two styles:
- "gpt2": byte-level BPE. Tokens in GPT-2's byte alphabet, merges in order, and under `pre` the *name* of the
  rule that cuts text into words first. The rules themselves are part of the program that reads the file.
- "llama": SentencePiece BPE. Tokens with scores and no merges: the best-scored pair of neighbours joins
  first, and a character that is no token falls back to byte tokens such as <0x0A>.

The names and what they stand for: llama.cpp, src/llama-vocab.cpp (the file format's reference). The rules are
written with the originals' steps, those of the models' tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer

from engine.errors import ModelError
from engine.fields import Fields, shown
from engine.tokenizers_errors import tokenizer_errors

# values of tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPACE = "\u2581"  # SentencePiece's visible space
MAX_PIECE = 1024  # characters; the ways to cut a piece in two grow with its length, their cost with the square
_PREFIX = "tokenizer.ggml."


@dataclass(frozen=True)
class SplitRule:
    """How text is cut before BPE, and what else the name of the rule implies.

    Attributes:
        patterns: regular expressions, applied in turn; matches and what lies between become pieces.
        single_digits: before that, every digit becomes a piece of its own.
        ignore_merges: a piece that is a token as a whole is taken as it is, even where the merges would not
            build it.
        adds_bos: whether text begins with the BOS token where the file has no `add_bos_token`.
        composes: before everything, accents and their letters are joined (Unicode's form NFC).
    """

    patterns: tuple[str, ...]
    single_digits: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False
    composes: bool = False


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PUNCTUATION_FIRST = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")

_NAMES = {
    SplitRule((_GPT2,)): "gpt-2 phi-2 mpt olmo jais",
    SplitRule((_GPT2,), single_digits=True): "smollm starcoder refact command-r codeshell exaone",
    SplitRule((_LLAMA3,), ignore_merges=True, adds_bos=True): "llama-bpe llama3 llama-v3 falcon3",
    SplitRule((_LLAMA3,)): "dbrx smaug-bpe",
    SplitRule((_QWEN2,), composes=True): "qwen2 deepseek-r1-qwen",
    SplitRule((_QWEN2,)): "stablelm2",
    SplitRule((_TEKKEN,), ignore_merges=True, adds_bos=True): "tekken",
    SplitRule(_PUNCTUATION_FIRST): "default",
}
SPLIT_RULES = {name: rule for rule, names in _NAMES.items() for name in names.split()}


def backend_from_gguf(metadata: Mapping[str, Any], name: str) -> Tokenizer:
    """Build the tokenizer that `metadata` (see gguf_header.py) describes; `name` (a path) is for errors.

    Raises:
        ModelError: the file has no vocabulary, or one of a style or split rule that is not supported.
    """
    style = Fields(metadata, name).text("tokenizer.ggml.model")
    builders = {"gpt2": _byte_level_bpe, "llama": _sentencepiece_bpe}
    if style not in builders:
        raise ModelError(f"{name}: tokenizer.ggml.model is {shown(style)}; only gpt2 and llama are supported")
    vocabulary = Vocabulary(metadata, name)
    with tokenizer_errors(f"{name}: its vocabulary does not make a tokenizer"):
        backend = builders[style](vocabulary)
        _add_whole_tokens(backend, vocabulary)
        _add_bos_and_eos(backend, vocabulary, adds_bos=_adds_bos(vocabulary, style))
        return backend


class Vocabulary:
    """The tokenizer's part of the metadata: tokens, and lists of the same length beside them."""

    def __init__(self, metadata: Mapping[str, Any], name: str) -> None:
        self.fields = Fields(metadata, name)
        self.tokens: list[str] = self._list("tokens", str, None)
        self.types: list[int] = self._list("token_type", int, len(self.tokens), default=NORMAL)
        self.ids = {token: index for index, token in enumerate(self.tokens)}

    def scores(self) -> list[float]:
        return self._list("scores", (int, float), len(self.tokens))

    def merges(self) -> list[tuple[str, str]]:
        pairs = [merge.split(" ") for merge in self._list("merges", str, None)]
        broken = [" ".join(pair) for pair in pairs if len(pair) != 2]
        if broken:
            raise self.fields.error(f"{_PREFIX}merges", f"holds {shown(broken[0])}; expected two tokens and a space")
        return [(left, right) for left, right in pairs]

    def of_type(self, *kinds: int) -> Iterator[str]:
        return (token for token, its_type in zip(self.tokens, self.types, strict=True) if its_type in kinds)

    def flag(self, key: str, default: bool) -> bool:
        return self.fields.flag(_PREFIX + key) if self.fields.has(_PREFIX + key) else default

    def token(self, key: str) -> str:
        """The token whose id is under `key`, such as "bos_token_id"."""
        token_id = self.fields.integer(_PREFIX + key, minimum=0)
        if token_id >= len(self.tokens):
            raise self.fields.error(_PREFIX + key, f"is {token_id}; expected an id below {len(self.tokens)}")
        return self.tokens[token_id]

    def _list(self, key: str, kind: Any, length: int | None, default: Any = None) -> list[Any]:
        name = _PREFIX + key
        if default is not None and length is not None and not self.fields.has(name):
            return [default] * length
        values = self.fields.values.get(name)
        if not isinstance(values, list) or not values:
            raise self.fields.error(name, f"is {shown(values)}; expected a list with entries")
        wrong = next((value for value in values if not isinstance(value, kind)), None)
        if wrong is not None:
            raise self.fields.error(name, f"has the entry {shown(wrong)}, which is of a wrong type")
        if length is not None and len(values) != length:
            raise self.fields.error(name, f"has {len(values)} entries for {length} tokens")
        return values


def _split_rule(vocabulary: Vocabulary) -> SplitRule:
    name = vocabulary.fields.text(f"{_PREFIX}pre", default="default")
    if name not in SPLIT_RULES:
        known = ", ".join(sorted(SPLIT_RULES))
        raise vocabulary.fields.error(f"{_PREFIX}pre", f"is {shown(name)}, which is not supported; known: {known}")
    return SPLIT_RULES[name]


def _byte_level_bpe(vocabulary: Vocabulary) -> Tokenizer:
    rule = _split_rule(vocabulary)
    backend = Tokenizer(BPE(vocabulary.ids, vocabulary.merges(), ignore_merges=rule.ignore_merges))
    if rule.composes:
        backend.normalizer = normalizers.NFC()
    steps: list[PreTokenizer] = [pre_tokenizers.Digits(individual_digits=True)] if rule.single_digits else []
    steps += [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, to_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece_bpe(vocabulary: Vocabulary) -> Tokenizer:
    has_bytes = next(vocabulary.of_type(BYTE), None) is not None
    unknown = next(vocabulary.of_type(UNKNOWN), None)
    merges = _merges_by_score(vocabulary)
    backend = Tokenizer(BPE(vocabulary.ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes))
    show_spaces = normalizers.Replace(" ", SPACE)
    hide_spaces = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.flag("add_space_prefix", True):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), show_spaces])
        backend.decoder = decoders.Sequence([*hide_spaces, decoders.Strip(" ", left=1, right=0)])
    else:
        backend.normalizer, backend.decoder = show_spaces, decoders.Sequence(hide_spaces)
    return backend


def _merges_by_score(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, the piece of the highest score first.

    SentencePiece joins whichever neighbours form the best-scored piece; BPE applies the merge of the lowest
    rank. With ranks in the order of the scores the two are one algorithm. Control and byte tokens are no pieces.
    """
    pieces = {token: vocabulary.ids[token] for token in vocabulary.of_type(NORMAL, USER_DEFINED)}
    merges = []
    for token, score in zip(vocabulary.tokens, vocabulary.scores(), strict=True):
        if token not in pieces:
            continue
        if len(token) > MAX_PIECE:
            what = f"holds a piece of {len(token)} characters; expected at most {MAX_PIECE}"
            raise vocabulary.fields.error(f"{_PREFIX}tokens", what)
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in pieces and right in pieces:
                merges.append((-score, pieces[left], pieces[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]


def _add_whole_tokens(backend: Tokenizer, vocabulary: Vocabulary) -> None:
    """Control tokens (special) and user-defined ones (plain text) are found before text is split."""
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in vocabulary.of_type(CONTROL)])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in vocabulary.of_type(USER_DEFINED)])


def _adds_bos(vocabulary: Vocabulary, style: str) -> bool:
    default = style == "llama" or _split_rule(vocabulary).adds_bos
    return vocabulary.flag("add_bos_token", default)


def _add_bos_and_eos(backend: Tokenizer, vocabulary: Vocabulary, adds_bos: bool) -> None:
    before = [vocabulary.token("bos_token_id")] if adds_bos else []
    after = [vocabulary.token("eos_token_id")] if vocabulary.flag("add_eos_token", False) else []
    if before or after:
        backend.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            special_tokens=[(token, vocabulary.ids[token]) for token in {*before, *after}],
        )
