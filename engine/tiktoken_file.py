"""Llama 3's tokenizer as Meta ships it: `tokenizer.model`, a list of byte strings and their ranks, made for tiktoken.

A line is a token in base64, a space, and its rank, which is its id. The file has neither merges nor special tokens nor
the rule that cuts text into pieces: Meta's program brings those (llama-models, llama_models/llama3/tokenizer.py and
chat_format.py), and so does this module.

tiktoken joins, among all neighbours whose bytes together are a token, those whose token has the lowest rank. BPE with a
list of merges does the same if the list has every way to cut each token in two tokens, in the order of the ranks. Most
of these are never used, and do no harm: a token's bytes lie side by side as two pieces in one way only.

The 128,000 ranks of Llama 3 take 1.2 to 1.7 s of one core. To read the result back from a tokenizer.json of 17 MB would
take 0.8 to 1.0 s, so it is not kept.
"""

from __future__ import annotations

import base64
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from engine.detokenize import byte_alphabet
from engine.errors import ModelError
from engine.gguf_tokenizer import SPLIT_RULES

NUM_SPECIAL_TOKENS = 256
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
_NAMED = [BOS, EOS, "<|reserved_special_token_0|>", "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>"]
_NAMED += ["<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]
_NAMED += ["<|image|>"]
# Their ids follow the last rank, in this order.
SPECIAL_TOKENS = (
    *_NAMED,
    *(f"<|reserved_special_token_{2 + i}|>" for i in range(NUM_SPECIAL_TOKENS - len(_NAMED))),
)
STOP_TOKENS = (EOS, "<|eom_id|>", "<|eot_id|>")  # end of text, of a message that calls a tool, of a turn

# Meta's format encodes header and content apart, and so do these: they part at the line breaks, unless a message itself
# begins with line breaks.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ 'ipython' if message.role == 'tool' else message.role }}<|end_header_id|>\n\n"
    "{{ message.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def special_token_id(token: str, vocab_size: int) -> int:
    """The id of one of SPECIAL_TOKENS in a vocabulary of `vocab_size` ids, which it counts among them."""
    return vocab_size - NUM_SPECIAL_TOKENS + SPECIAL_TOKENS.index(token)


def backend_from_tiktoken(path: Path) -> Tokenizer:
    """The tokenizer of a rank file with Llama 3's special tokens; text begins with BOS.

    Raises ModelError naming the file and the line: not a rank file, damaged, or without some of the 256 bytes.
    """
    tokens = _read_ranks(path)
    spelled = _spell(tokens)
    ids = {token: rank for rank, token in enumerate(spelled)}
    rule = SPLIT_RULES["llama-bpe"]
    backend = Tokenizer(BPE(ids, _merges(spelled, ids), ignore_merges=rule.ignore_merges))
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, to_bytes])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    bos = special_token_id(BOS, len(tokens) + NUM_SPECIAL_TOKENS)
    backend.post_processor = processors.TemplateProcessing(single=[BOS, "$A"], special_tokens=[(BOS, bos)])
    return backend


def _read_ranks(path: Path) -> list[bytes]:
    """The tokens in the order of their ranks, which must be 0, 1, 2 ..."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            what = f"line {number} is {line[:40]!r}; expected a token in base64 and its rank, as Llama 3's has it"
            raise ModelError(f"{path}: {what} (Llama 2's SentencePiece model is not read)") from error
    tokens = sorted(ranks, key=ranks.__getitem__)
    if len(ranks) != len(lines) or any(ranks[token] != rank for rank, token in enumerate(tokens)):
        raise ModelError(f"{path}: its {len(lines)} lines are not as many tokens of ranks from 0 on; fetch it again")
    missing = 256 - sum(len(token) == 1 for token in tokens)
    if missing:
        raise ModelError(f"{path}: {missing} of the 256 single bytes are no tokens; it is damaged, fetch it again")
    return tokens


def _spell(tokens: list[bytes]) -> list[str]:
    """Each token in GPT-2's alphabet, a printable character a byte, as BPE on text wants it."""
    alphabet = {byte: character for character, byte in byte_alphabet().items()}
    return [token.decode("latin-1").translate(alphabet) for token in tokens]


def _merges(spelled: list[str], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to cut a token in two tokens, in the order of the ranks. Half of the time goes here."""
    merges = []
    for token in spelled:
        for cut in range(1, len(token)):
            left = token[:cut]
            if left in ids and (right := token[cut:]) in ids:
                merges.append((left, right))
    return merges
