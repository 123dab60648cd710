"""The public API: a model, and text from it. Names and meanings follow vLLM's offline `LLM`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from bindings.device import Device
from bindings.dtypes import BF16
from bindings.errors import CudaError
from engine.checkpoint import expected_tensors, open_checkpoint
from engine.config import ModelConfig
from engine.detokenize import IncrementalDecoder
from engine.errors import ModelError, out_of_memory_advice
from engine.generation_config import read_generation_config
from engine.kv_cache import KVCache
from engine.model_files import resolve_model
from engine.models import llama
from engine.progress import Progress, silent
from engine.request import Request, RequestOutput, SamplingParams, StreamEvent
from engine.runner import Runner
from engine.scheduler import Batch, Batching, Piece, Scheduler
from engine.step import StepBuffers
from engine.tokenizer import load_tokenizer
from engine.weights import LlamaWeights, load_weights

Prompts = str | Sequence[str] | Sequence[Sequence[int]]
Message = dict[str, str]

PAGE_SIZE = 16
MAX_BATCHED_TOKENS = 2048

KV_ADVICE = "lower max_model_len (--max-model-len), kv_cache_bytes or max_num_seqs, or take a smaller model"
ACTIVATIONS_ADVICE = "lower max_num_seqs, max_model_len (--max-model-len) or kv_cache_bytes, or take a smaller model"

# KV memory when nobody says: a laptop keeps room for itself, a GPU is there to be used.
CPU_KV_BYTES = 256 * 1024 * 1024
DEFAULT_KV_FRACTION = 0.5  # of what the weights left free


@dataclass(frozen=True)
class EngineConfig:
    """Limits of an engine: tokens of one sequence, sequences at once, tokens of one prefill step, KV pages."""

    max_model_len: int
    max_num_seqs: int
    max_batched_tokens: int
    num_pages: int


class LLM:
    """A loaded model.

    model: a folder of Hugging Face's or Meta's, a .gguf file, a name on the Hugging Face hub (`owner/name`, or
        `owner/name:file.gguf`), or None for the default model. What is not there yet is fetched once.
    revision: a branch, tag or commit of a model on the hub.
    device: `auto`, `cuda` or `cpu`.
    max_model_len: the longest prompt and answer in tokens (default: the model's own, or what the KV memory holds).
    max_num_seqs: sequences that run at once. max_num_batched_tokens: tokens of one step, of all sequences together.
    kv_cache_bytes: memory for keys and values. enable_prefix_caching: prompts share what an earlier one computed.
    batching: `continuous`, or `static`, the baseline (a batch runs to its end before the next one starts).
    enforce_eager: launch kernels one by one instead of replaying graphs.
    seed: for requests that bring none.
    progress: called as (stage, done, total, unit) while fetching, compiling and loading.

    Raises ModelError for what is wrong with the model, DeviceError and CudaError for the device. Use it as a context
    manager, or call `close()`.
    """

    def __init__(
        self,
        model: str | None = None,
        device: str = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int = 8,
        max_num_batched_tokens: int = MAX_BATCHED_TOKENS,
        kv_cache_bytes: int | None = None,
        enable_prefix_caching: bool = True,
        batching: Batching = "continuous",
        enforce_eager: bool = False,
        seed: int = 0,
        progress: Progress = silent,
        revision: str | None = None,
    ) -> None:
        with ExitStack() as undo:  # what is open already is closed again if a later step fails
            path = resolve_model(model, progress, revision)
            checkpoint = undo.enter_context(open_checkpoint(path))
            self.config: ModelConfig = checkpoint.config
            self.tokenizer = load_tokenizer(path)
            self._generation_config = read_generation_config(path)
            self.device = Device.open(device)
            undo.callback(self.device.close)
            self._compile_kernels(progress)
            with out_of_memory_advice(self._weights_advice()):
                weights = load_weights(self.device, checkpoint, progress)
            self.engine_config = self._plan(max_model_len, max_num_seqs, max_num_batched_tokens, kv_cache_bytes)
            self.cache = KVCache(self.engine_config.num_pages, PAGE_SIZE, enable_prefix_caching)
            self.scheduler = Scheduler(self.cache, max_num_seqs, self.engine_config.max_batched_tokens, batching)
            self._build(weights, seed, enforce_eager, undo)
            self._open = undo.pop_all()
        checkpoint.close()
        self._next_index, self._warned = 0, False
        self._requests: dict[int, Request] = {}
        self._stop_ids = frozenset(self.config.eos_token_ids) | frozenset(self.tokenizer.eos_token_ids)

    def _compile_kernels(self, progress: Progress) -> None:
        """Compile what the model needs on all cores, then load it: nothing may be loaded while a graph is captured."""
        wanted = llama.kernels_of(self.config, PAGE_SIZE)
        jobs = [(op.source, op.defines(symbols, self.device.max_dynamic_smem)) for op, symbols in wanted]
        self.device.kernels.precompile(jobs, lambda done, total: progress("compile kernels", done, total, "kernels"))
        for op, symbols in wanted:
            op.kernel(self.device, symbols)

    def _plan(
        self, max_model_len: int | None, max_num_seqs: int, max_batched_tokens: int, kv_bytes: int | None
    ) -> EngineConfig:
        """Settle the limits against each other and the memory. Raises ModelError when they cannot hold."""
        limit = self.config.max_position_embeddings
        if max_model_len is not None and not 1 <= max_model_len <= limit:
            raise ModelError(f"max_model_len must be between 1 and {limit} for this model, not {max_model_len}")
        if max_num_seqs < 1:
            raise ModelError(f"max_num_seqs must be at least 1, not {max_num_seqs}")
        if max_batched_tokens < max_num_seqs:
            each = f"{max_num_seqs} (max_num_seqs): each running sequence needs one token a step"
            raise ModelError(f"max_num_batched_tokens must be at least {each}; it is {max_batched_tokens}")
        one_sequence = -(-(max_model_len or 1) // PAGE_SIZE) * self._page_bytes()
        if kv_bytes is None:  # a length that was asked for is room that was asked for
            kv_bytes = max(self._default_kv_bytes(), one_sequence if max_model_len else 0)
        if kv_bytes < one_sequence:
            tokens = f"{max_model_len or 1} tokens need {one_sequence}"
            raise ModelError(f"kv_cache_bytes is {kv_bytes}; {tokens}: give that much, or lower max_model_len")
        wanted = max_num_seqs * -(-(max_model_len or limit) // PAGE_SIZE)
        num_pages = min(kv_bytes // self._page_bytes(), wanted)
        length = min(max_model_len or limit, num_pages * PAGE_SIZE)
        return EngineConfig(length, max_num_seqs, min(max_batched_tokens, max_num_seqs * length), num_pages)

    def _default_kv_bytes(self) -> int:
        free, _ = self.device.memory_info()
        share = int(free * DEFAULT_KV_FRACTION)
        return min(CPU_KV_BYTES, share) if self.device.kind == "cpu" else share

    def _weights_advice(self) -> str:
        nbytes = BF16.itemsize * sum(prod(shape) for shape in expected_tensors(self.config).values())
        return f"the weights are {nbytes / 1e6:,.1f} MB in all: take a smaller model, or a device with more memory"

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token, all layers."""
        c = self.config
        return 2 * c.num_layers * c.num_kv_heads * c.head_dim * BF16.itemsize

    def _page_bytes(self) -> int:
        return PAGE_SIZE * self.kv_bytes_per_token

    def _build(self, weights: LlamaWeights, seed: int, enforce_eager: bool, undo: ExitStack) -> None:
        c, limits, device = self.config, self.engine_config, self.device
        shape = (2 * c.num_layers, limits.num_pages, c.num_kv_heads, PAGE_SIZE, c.head_dim)
        with out_of_memory_advice(KV_ADVICE):
            kv_pages = device.empty(shape, BF16, "kv_pages")
        self.weight_bytes = weights.nbytes
        sizes = (limits.max_batched_tokens, limits.max_num_seqs)
        with out_of_memory_advice(ACTIVATIONS_ADVICE):
            model = llama.build(device, device.stream, c, weights, kv_pages, *sizes, limits.max_model_len)
            undo.callback(model.blas.close)
            buffers = StepBuffers(device, *sizes, self.cache.pages_for(limits.max_model_len))
            self._runner = Runner(device, model, self.cache, buffers, seed, enforce_eager)
            undo.callback(self._runner.close)

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's generation_config.json asks for, where it has one: temperature and max_tokens.

        Warns once of fields there that would change the text and that this engine does not have.
        """
        if self._generation_config.not_applied and not self._warned:
            fields = ", ".join(self._generation_config.not_applied)
            warnings.warn(f"{self._generation_config.source}: not applied: {fields}", stacklevel=2)
            self._warned = True
        return self._generation_config.sampling_params()

    def generate(self, prompts: Prompts, sampling_params: SamplingParams | None = None) -> list[RequestOutput]:
        """Continue each prompt (text, or token ids). Answers come in the order of the prompts.

        `sampling_params` None: those of `get_default_sampling_params`.
        """
        return _collect(self.stream(prompts, sampling_params))

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, or several, through the model's chat template."""
        conversations = [messages] if messages and isinstance(messages[0], dict) else messages
        prompts = [self._chat_ids(list(conversation)) for conversation in conversations]  # type: ignore[arg-type]
        return _collect(self.stream(prompts, sampling_params))

    def stream(
        self, prompts: Prompts, sampling_params: SamplingParams | None = None, chat: bool = False
    ) -> Iterator[StreamEvent]:
        """As `generate`, but each new piece of text as it comes. `chat`: each prompt is one user message."""
        given: Sequence[str] | Sequence[Sequence[int]] = [prompts] if isinstance(prompts, str) else prompts
        params = sampling_params or self.get_default_sampling_params()
        requests = [self._request(prompt, params, chat) for prompt in given]  # all are checked before any is added
        order = {request.index: number for number, request in enumerate(requests)}
        waiting = set(order)
        try:
            for request in requests:
                self._add(request)
            while waiting:
                for event in self.step():
                    number = order.get(event.index)
                    if number is None:
                        continue  # a request that was added with add_request; its output grows all the same
                    if event.finished:
                        waiting.remove(event.index)
                    yield replace(event, index=number)
        finally:
            for index in waiting:
                self.abort_request(index)

    def add_request(
        self, prompt: str | Sequence[int], sampling_params: SamplingParams | None = None, priority: int = 0
    ) -> int:
        """Queue a prompt; its number, which events carry as `index`. A lower `priority` number goes first.

        Raises ModelError when the prompt cannot run.
        """
        params = sampling_params or self.get_default_sampling_params()
        return self._add(self._request(prompt, params, chat=False, priority=priority))

    def _add(self, request: Request) -> int:
        self.scheduler.add(request)
        self._requests[request.index] = request
        return request.index

    def abort_request(self, index: int) -> None:
        """Drop a request that has not ended, and take its pages back. One that has ended, or never was, is no error."""
        request = self._requests.pop(index, None)
        if request is not None:
            self.scheduler.finish(request)

    @property
    def has_unfinished_requests(self) -> bool:
        """Whether `step` has something to do."""
        return self.scheduler.has_work

    def step(self) -> list[StreamEvent]:
        """Run one scheduled batch: the next tokens of every request that runs."""
        batch = self.scheduler.schedule()
        sampled = self._runner.execute(batch)
        ended = [piece.is_last for piece in batch.pieces]
        self.scheduler.ran(batch)
        events = []
        for piece, is_last, token in zip(batch.pieces, ended, sampled, strict=True):
            if is_last:
                events.append(self._advance(piece.request, token))
        return events

    def _advance(self, request: Request, token: int) -> StreamEvent:
        event = request.append(token, self._stop_ids, self.engine_config.max_model_len)
        if event.finished:
            self.scheduler.finish(request)
            del self._requests[request.index]
        return event

    def score(self, token_ids: Sequence[int], decode_from: int | None = None) -> NDArray[np.float32]:
        """Logits f32[T, V] after every token of one sequence.

        The first `decode_from` tokens (default: all) are prefilled together, the others follow one decode step each.
        """
        request = self._request(token_ids, SamplingParams(max_tokens=1), chat=False)
        split = len(token_ids) if decode_from is None else decode_from
        bounds = [0] * (split > 0) + list(range(split, len(token_ids) + 1))
        pieces = [Piece(request, start, stop) for start, stop in pairwise(bounds)]
        self.cache.open(request)  # without looking for a prefix: the logits of every token are wanted
        try:
            if not self.cache.grow(request, len(token_ids)):
                raise ModelError(f"{len(token_ids)} tokens do not fit into the {self.cache.available} free KV pages")
            batches = [Batch([], [piece]) if piece.start < split else Batch([piece], []) for piece in pieces]
            return np.concatenate([self._runner.logits(batch) for batch in batches])
        finally:
            self.cache.release(request)

    def _request(self, prompt: str | Sequence[int], params: SamplingParams, chat: bool, priority: int = 0) -> Request:
        text = prompt if isinstance(prompt, str) else None
        if text is None:
            ids = [int(token) for token in prompt]
        else:
            ids = self._chat_ids([{"role": "user", "content": text}]) if chat else self.tokenizer.encode(text)
        self._check_ids(ids)
        index = self._next_index
        self._next_index += 1
        return Request(index, text, ids, self._fit(params, len(ids)), IncrementalDecoder(self.tokenizer), priority)

    def _chat_ids(self, messages: list[Message]) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _check_ids(self, ids: list[int]) -> None:
        limit, vocab = self.engine_config.max_model_len, self.config.vocab_size
        if not ids:
            raise ModelError("the prompt has no tokens; give at least one word")
        if len(ids) >= limit:
            raise ModelError(f"the prompt has {len(ids)} tokens, this engine takes at most {limit - 1} (max_model_len)")
        if not all(0 <= token < vocab for token in ids):
            raise ModelError(f"the prompt has token ids outside 0..{vocab - 1}")

    def _fit(self, params: SamplingParams, prompt_tokens: int) -> SamplingParams:
        """max_tokens cut to what the context has room for, so that no more pages are promised than can be used."""
        room = self.engine_config.max_model_len - prompt_tokens
        return replace(params, max_tokens=min(params.max_tokens, room))

    def close(self) -> None:
        """Free everything on the device."""
        self._open.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        # After a sticky error nothing can be freed, and that error is the one to show.
        with suppress(CudaError) if error else nullcontext():
            self.close()


def _collect(events: Iterator[StreamEvent]) -> list[RequestOutput]:
    """The whole outputs, in the order of their prompts."""
    outputs = {event.index: event.output for event in events}
    return [outputs[index] for index in sorted(outputs)]
