"""From prompts to token ids that the engine can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import ModelError
from engine.inputs import ParsedPrompt, Prompts, parse_prompts
from engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids to continue, and the text that comes back with the answer (None: only ids were given)."""

    text: str | None
    token_ids: list[int]


class PromptEncoder:
    """Makes token ids of the prompts for one model, and refuses what could never run there.

    advice: what would let a prompt of so many tokens run.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, max_model_len: int, advice: Callable[[int], str]) -> None:
        self._tokenizer, self._vocab_size, self._max_model_len = tokenizer, vocab_size, max_model_len
        self._advice = advice

    def encode(self, prompts: Prompts, special_tokens: bool = True) -> list[EncodedPrompt]:
        """One prompt of any form that `inputs.parse_prompts` knows, or several.

        `special_tokens`: put in what the model expects around a text, such as BOS; a chat template writes it itself.
        Raises UsageError for a form that is not known, ModelError for ids that can't run.
        """
        return [self.encode_one(prompt, special_tokens) for prompt in parse_prompts(prompts)]

    def encode_one(self, prompt: ParsedPrompt, special_tokens: bool = True) -> EncodedPrompt:
        """As `encode`, for one that is parsed already."""
        ids = prompt.token_ids
        if ids is None:
            ids = self._tokenizer.encode(prompt.text or "", add_special_tokens=special_tokens)
        self._check(ids, prompt.place)
        return EncodedPrompt(prompt.text, ids)

    def _check(self, ids: list[int], place: str) -> None:
        longest = self._max_model_len - 1
        if not ids:
            raise ModelError(f"{place} has no tokens; give at least one word")
        if len(ids) > longest:
            limit = f"this engine takes at most {longest} (max_model_len)"
            raise ModelError(f"{place} has {len(ids)} tokens, {limit}; {self._advice(len(ids))}")
        if not (min(ids) >= 0 and max(ids) < self._vocab_size):
            raise ModelError(f"{place} has token ids outside 0..{self._vocab_size - 1}")
