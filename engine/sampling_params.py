"""What a user asks for, under vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens, and when to stop.

    temperature: 0 takes the likeliest token (greedy); above 0 divides the logits before sampling.
    max_tokens: new tokens at most. seed: same seed, same prompt, same tokens (None: the engine's seed).
    stop_token_ids: tokens that end the text, beside the model's own. ignore_eos: do not stop at the model's own.
    Raises ValueError naming the field and its range.
    """

    temperature: float = 1.0
    max_tokens: int = 16
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    @property
    def needs_tokens(self) -> bool:
        """Whether the choice of a token depends on which were chosen before it."""
        return False

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or a positive number, not {self.temperature}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be between 0 and 2**64 - 1, not {self.seed}")
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
