"""The public API: a model, and text from it. Names and meanings follow vLLM's offline `LLM`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from bindings.device import Device
from bindings.dtypes import BF16
from bindings.errors import CudaError
from engine import engine_config
from engine.answer import Answer
from engine.checkpoint import expected_tensors
from engine.detokenize import IncrementalDecoder
from engine.engine_config import Limits
from engine.errors import ModelError, out_of_memory_advice
from engine.kv_cache import KVCache
from engine.llm_engine import LLMEngine
from engine.model_source import LoadFormat, open_model
from engine.models import llama
from engine.outputs import CompletionOutput, Metrics, RequestOutput, StreamEvent
from engine.progress import Progress, silent
from engine.request import Request
from engine.runner import build_runner
from engine.sampling_params import SamplingParams
from engine.scheduler import Batching, Scheduler

Prompts = str | Sequence[str] | Sequence[Sequence[int]]
Message = dict[str, str]


class LLM:
    """A loaded model.

    model: a folder of Hugging Face's or Meta's, a .gguf file, a name on the Hugging Face hub (`owner/name`, or
        `owner/name:file.gguf`), or None for the default model. What is not there yet is fetched once.
    revision: a branch, tag or commit of a model on the hub.
    load_format: `auto`, or `dummy`: random weights of the shape `model`, which is a name (engine/random_model.py) or a
        folder with a config.json; nothing is fetched, there is no tokenizer, prompts are token ids.
    device: `auto`, `cuda` or `cpu`.
    max_model_len: the longest prompt and answer in tokens (default: the model's own, or what the KV memory holds).
    max_num_seqs: sequences that run at once. max_num_batched_tokens: tokens of one step, of all sequences together.
    gpu_memory_utilization: share of the device's memory that weights, activations and KV pages may take together
        (default 0.9; on the CPU device 256 MiB of pages). kv_cache_bytes: memory for the pages, in its place.
    enable_prefix_caching: prompts share what an earlier one computed.
    batching: `continuous`, or `static`, the baseline (a batch runs to its end before the next one starts).
    enforce_eager: launch kernels one by one instead of replaying graphs.
    async_scheduling: plan a step while the one before it runs (default: on a GPU).
    deterministic: the same bits in a request's logits whatever else runs; slower (docs/deterministic.md).
    seed: for requests that bring none, and for random weights.
    progress: called as (stage, done, total, unit) while fetching, compiling and loading.

    Raises ModelError for what is wrong with the model, DeviceError and CudaError for the device. Use it as a context
    manager, or call `close()`.
    """

    def __init__(
        self,
        model: str | None = None,
        device: str = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int = engine_config.MAX_NUM_SEQS,
        max_num_batched_tokens: int = engine_config.MAX_NUM_BATCHED_TOKENS,
        gpu_memory_utilization: float | None = None,
        kv_cache_bytes: int | None = None,
        enable_prefix_caching: bool = True,
        batching: Batching = "continuous",
        enforce_eager: bool = False,
        async_scheduling: bool | None = None,
        deterministic: bool = False,
        seed: int = 0,
        progress: Progress = silent,
        revision: str | None = None,
        load_format: LoadFormat = "auto",
    ) -> None:
        with ExitStack() as undo:  # what is open already is closed again if a later step fails
            source = undo.enter_context(closing(open_model(model, load_format, revision, seed, progress)))
            self.config, self.tokenizer = source.config, source.tokenizer
            self._generation_config = source.generation_config
            self.device = Device.open(device)
            undo.callback(self.device.close)
            self._compile_kernels(progress)
            with out_of_memory_advice(self._weights_advice()):
                weights = source.load(self.device, progress)
            self.weight_bytes = weights.nbytes
            sizes = (max_model_len, max_num_seqs, max_num_batched_tokens, kv_cache_bytes, gpu_memory_utilization)
            limits = Limits(*sizes)
            activation_bytes = self._activation_bytes(limits, deterministic)
            self.engine_config = engine_config.settle(limits, self.config, self.device, activation_bytes)
            cache, budget = self._kv_cache(enable_prefix_caching), self.engine_config.max_num_batched_tokens
            scheduler = Scheduler(cache, max_num_seqs, budget, batching)
            shape = (self.device, self.config, weights, self.engine_config)
            runner = build_runner(*shape, cache, seed, enforce_eager, deterministic)
            undo.callback(runner.close)
            lookahead = self.device.kind == "cuda" if async_scheduling is None else async_scheduling
            self.engine = LLMEngine(scheduler, runner, lookahead)
            self._open = undo.pop_all()
        source.close()
        self._next_index, self._warned = 0, False
        self._stop_ids = frozenset(self.config.eos_token_ids) | frozenset(self.tokenizer.eos_token_ids)

    def _compile_kernels(self, progress: Progress) -> None:
        """Compile what the model needs on all cores, then load it: nothing may be loaded while a graph is captured."""
        wanted = llama.kernels_of(self.config, engine_config.PAGE_SIZE)
        jobs = [(op.source, op.defines(symbols, self.device.max_dynamic_smem)) for op, symbols in wanted]
        self.device.kernels.precompile(jobs, lambda done, total: progress("compile kernels", done, total, "kernels"))
        for op, symbols in wanted:
            op.kernel(self.device, symbols)

    def _kv_cache(self, prefix_caching: bool) -> KVCache:
        limits = self.engine_config
        pages_per_seq = -(-limits.max_model_len // limits.page_size)
        return KVCache(limits.num_pages, limits.page_size, limits.max_num_seqs, pages_per_seq, prefix_caching)

    def _activation_bytes(self, limits: Limits, deterministic: bool) -> int:
        longest = limits.max_model_len or self.config.max_position_embeddings
        sizes = (limits.max_num_batched_tokens, limits.max_num_seqs, longest)
        return llama.activation_bytes(self.config, *sizes, deterministic)

    @property
    def scheduler(self) -> Scheduler:
        """Who runs and who waits."""
        return self.engine.scheduler

    @property
    def cache(self) -> KVCache:
        """The pages of keys and values."""
        return self.engine.cache

    def _weights_advice(self) -> str:
        nbytes = BF16.itemsize * sum(prod(shape) for shape in expected_tensors(self.config).values())
        return f"the weights are {nbytes / 1e6:,.1f} MB in all: take a smaller model, or a device with more memory"

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token, all layers."""
        return engine_config.kv_bytes_per_token(self.config)

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
        encoded = [self._encode(prompt, chat) for prompt in given]  # all are checked before any is added
        order: dict[int, int] = {}
        waiting: set[int] = set()
        try:
            for number, ids in enumerate(encoded):
                index = self._add(given[number], ids, params)
                order[index] = number
                waiting.add(index)
            while waiting:
                for event in self.step():
                    number = order.get(event.index, -1)
                    if number < 0:
                        continue  # a request that was added with add_request; its output grows all the same
                    if event.output.finished:
                        waiting.discard(event.index)
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
        return self._add(prompt, self._encode(prompt, chat=False), params, priority)

    def _add(self, prompt: str | Sequence[int], ids: list[int], params: SamplingParams, priority: int = 0) -> int:
        params = self._fit(params, len(ids))
        index = self._next_index
        self.engine.add_request(index, ids, params, self._answers(index, prompt, ids, params), priority)
        self._next_index += 1
        return index

    def _answers(self, index: int, prompt: str | Sequence[int], ids: list[int], params: SamplingParams) -> list[Answer]:
        text = prompt if isinstance(prompt, str) else None
        output = RequestOutput(str(index), text, ids, [CompletionOutput()], False, Metrics(prompt_tokens=len(ids)))
        return [Answer(index, output, params, IncrementalDecoder(self.tokenizer), self._stop_ids)]

    def abort_request(self, index: int) -> None:
        """Drop a request that has not ended, and take its pages back. One that has ended, or never was, is no error."""
        self.engine.abort_request(index)

    @property
    def has_unfinished_requests(self) -> bool:
        """Whether `step` has something to do."""
        return self.engine.has_unfinished_requests

    def step(self) -> list[StreamEvent]:
        """Run one scheduled batch: the next tokens of every request that runs."""
        return self.engine.step()

    def score(self, token_ids: Sequence[int], decode_from: int | None = None) -> NDArray[np.float32]:
        """Logits f32[T, V] after every token of one sequence.

        The first `decode_from` tokens (default: all) are prefilled together, the others follow one decode step each.
        """
        ids, params, index = self._encode(token_ids, chat=False), SamplingParams(max_tokens=1), self._next_index
        self._next_index += 1
        return self.engine.score(Request(index, ids, params, self._answers(index, ids, ids, params)[0]), decode_from)

    def _encode(self, prompt: str | Sequence[int], chat: bool) -> list[int]:
        if not isinstance(prompt, str):
            ids = [int(token) for token in prompt]
        else:
            ids = self._chat_ids([{"role": "user", "content": prompt}]) if chat else self.tokenizer.encode(prompt)
        self._check_ids(ids)
        return ids

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
