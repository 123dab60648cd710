"""The language model: from a prompt to text. `from engine import LLM, SamplingParams`."""

from engine.inputs import PromptType, TextPrompt, TokensPrompt
from engine.llm import LLM
from engine.outputs import CompletionOutput, Logprob, RequestOutput, StreamEvent
from engine.sampling_params import SamplingParams

__all__ = [
    "LLM",
    "CompletionOutput",
    "Logprob",
    "PromptType",
    "RequestOutput",
    "SamplingParams",
    "StreamEvent",
    "TextPrompt",
    "TokensPrompt",
]
