"""The language model: from a prompt to text. `from engine import LLM, SamplingParams`."""

from engine.llm import LLM
from engine.request import CompletionOutput, RequestOutput, SamplingParams, StreamEvent

__all__ = ["LLM", "CompletionOutput", "RequestOutput", "SamplingParams", "StreamEvent"]
