"""The public API: a model, and text from it. Names and meanings follow vLLM's offline `LLM`."""

from __future__ import annotations

import secrets
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bindings.device import Device
from bindings.errors import CudaError
from engine import engine_config
from engine.answer import Answer
from engine.arguments import check_options, either, one_each, one_of
from engine.build import Ways, build_engine, compile_kernels, settle_limits, weights_advice
from engine.conversation import ChatFormat, ContentFormat, Conversations, split_conversations, write_conversation
from engine.detokenize import IncrementalDecoder
from engine.engine_config import Limits
from engine.errors import UsageError, out_of_memory_advice
from engine.generation_bar import GenerationBar, UseTqdm
from engine.inputs import ParsedPrompt, Prompts, PromptType, parse_prompt, parse_prompts
from engine.kv_cache import KVCache
from engine.model_files import local_tokenizer
from engine.model_source import LoadFormat, open_model
from engine.outputs import CompletionOutput, Metrics, RequestOutput, StreamEvent
from engine.params_for_model import params_for_model
from engine.progress import Progress, silent
from engine.prompts import EncodedPrompt, PromptEncoder
from engine.request import Request
from engine.sampling_params import SamplingParams
from engine.scheduler import Batching, Scheduler
from engine.tokenizer import Tokenizer, load_tokenizer
from engine.vllm_options import CHAT_OPTIONS, ENGINE_OPTIONS, GENERATE_OPTIONS


class LLM:
    """A loaded model.

    model: a folder of Hugging Face's or Meta's, a .gguf file, a name on the Hugging Face hub (`owner/name`, or
        `owner/name:file.gguf`), or None for the default model. What is not there yet is fetched once.
    revision: a branch, tag or commit of a model on the hub.
    load_format: `auto`, or `dummy`: random weights of the shape `model`, which is a name (engine/random_model.py) or a
        folder with a config.json; nothing is fetched, and prompts are token ids unless `tokenizer` is given.
    tokenizer: a folder or .gguf file with another tokenizer than the model's own.
    generation_config: `auto` takes the model's sampling defaults, `vllm` (that is, none) those of SamplingParams.
    device: `auto`, `cuda` or `cpu`.
    max_model_len: the longest prompt and answer in tokens (default: the model's own, or what the KV memory holds).
    max_num_seqs: sequences that run at once. max_num_batched_tokens: tokens of one step, of all sequences together.
    gpu_memory_utilization: share of the device's memory that weights, activations and KV pages may take together
        (default 0.9; on the CPU device 256 MiB of pages). kv_cache_bytes: memory for the pages, in its place;
        kv_cache_memory_bytes: vLLM's name for the same.
    enable_prefix_caching: prompts share what an earlier one computed (default: they do).
    batching: `continuous`, or `static`, the baseline (a batch runs to its end before the next one starts).
    enforce_eager: launch kernels one by one instead of replaying graphs.
    async_scheduling: plan a step while the one before it runs (default: on a GPU).
    deterministic: the same bits in a request's logits whatever else runs; slower (docs/deterministic.md).
    seed: for requests that bring none, and for random weights (None: another one each time).
    progress: called as (stage, done, total, unit) while fetching, compiling and loading.
    options: vLLM's others, where they ask for what the engine does anyway (engine/vllm_options.py).

    Raises ModelError for what is wrong with the model, UsageError for an option, DeviceError and CudaError for the
    device. Use it as a context manager, or call `close()`: else memory is freed when Python lets go of the object.
    """

    def __init__(
        self,
        model: str | None = None,
        device: str = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        gpu_memory_utilization: float | None = None,
        kv_cache_bytes: int | None = None,
        enable_prefix_caching: bool | None = None,
        batching: Batching = "continuous",
        enforce_eager: bool = False,
        async_scheduling: bool | None = None,
        deterministic: bool = False,
        seed: int | None = 0,
        progress: Progress = silent,
        revision: str | None = None,
        load_format: LoadFormat = "auto",
        *,
        tokenizer: str | None = None,
        generation_config: Literal["auto", "vllm"] = "auto",
        kv_cache_memory_bytes: int | None = None,
        **options: Any,
    ) -> None:
        check_options("LLM()", options, ENGINE_OPTIONS, signature(LLM).parameters)
        self._defaults = one_of("generation_config", generation_config, ("auto", "vllm"))
        limits = _limits(
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            kv_cache_bytes=either("kv_cache_bytes", kv_cache_bytes, "kv_cache_memory_bytes", kv_cache_memory_bytes),
            gpu_memory_utilization=gpu_memory_utilization,
        )
        with ExitStack() as undo:  # what is open already is closed again if a later step fails
            seed = secrets.randbits(63) if seed is None else seed
            source = undo.enter_context(closing(open_model(model, load_format, revision, seed, progress)))
            self.config, self.tokenizer = source.config, source.tokenizer
            if tokenizer is not None and (tokenizer != model or load_format == "dummy"):
                self.tokenizer = load_tokenizer(local_tokenizer(str(tokenizer)))
            self._generation_config = source.generation_config
            self.device = Device.open(device)
            undo.callback(self.device.close)
            compile_kernels(self.device, self.config, progress)
            with out_of_memory_advice(weights_advice(self.config)):
                weights = source.load(self.device, progress)
            self.weight_bytes = weights.nbytes
            self.engine_config = settle_limits(limits, self.config, self.device, deterministic)
            ends = {*self.config.eos_token_ids, *self.tokenizer.eos_token_ids}
            self._stop_ids = frozenset(token for token in ends if token < self.config.vocab_size)
            lookahead = self.device.kind == "cuda" if async_scheduling is None else async_scheduling
            ways = Ways(batching, enable_prefix_caching is not False, enforce_eager, lookahead, deterministic, seed)
            model_on_device = (self.device, self.config, weights, self.engine_config)
            self.engine, runner = build_engine(*model_on_device, ways, self._stop_ids)
            undo.callback(runner.close)
            self._open = undo.pop_all()
        source.close()
        # A script that never calls close() leaves nothing behind either.
        self._finalizer = weakref.finalize(self, _close_quietly, self._open)
        limit = self.engine_config.max_model_len
        advice = partial(engine_config.room_advice, config=self.config)
        self._encoder = PromptEncoder(self.tokenizer, self.config.vocab_size, limit, advice)
        self._next_index, self._warned = 0, False
        self._streamed: set[int] = set()  # requests of generate, chat and stream, whose events are not for `step`
        self._unclaimed: list[StreamEvent] = []

    @property
    def scheduler(self) -> Scheduler:
        """Who runs and who waits."""
        return self.engine.scheduler

    @property
    def cache(self) -> KVCache:
        """The pages of keys and values."""
        return self.engine.cache

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token, all layers."""
        return engine_config.kv_bytes_per_token(self.config)

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's generation_config.json asks for, where it has one.

        Warns once of fields there that would change the text and that this engine does not have.
        """
        if self._defaults == "vllm":
            return SamplingParams()
        if self._generation_config.not_applied and not self._warned:
            fields = ", ".join(self._generation_config.not_applied)
            warnings.warn(f"{self._generation_config.source}: not applied: {fields}", stacklevel=2)
            self._warned = True
        return self._generation_config.sampling_params()

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer: encode, decode, apply_chat_template, eos_token_id."""
        return self.tokenizer

    def generate(
        self,
        prompts: Prompts,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: UseTqdm = True,
        priority: Sequence[int] | None = None,
        **options: Any,
    ) -> list[RequestOutput]:
        """Continue each prompt, of any form in engine/inputs.py. Answers come in the order of the prompts.

        sampling_params: for all prompts, or one for each; None: those of `get_default_sampling_params`.
        use_tqdm: show a bar where stderr is a terminal; or what makes a bar, called as tqdm is.
        priority: a number for each prompt; lower ones go first. options: vLLM's others, where they ask for nothing.

        Raises UsageError and ModelError before anything runs.
        """
        check_options("generate()", options, GENERATE_OPTIONS, ("prompts", "sampling_params", "use_tqdm", "priority"))
        return self._complete(self._encoder.encode(prompts), sampling_params, use_tqdm, priority)

    def chat(
        self,
        messages: Conversations,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: UseTqdm = True,
        *,
        chat_template: str | None = None,
        chat_template_content_format: ContentFormat = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[RequestOutput]:
        """Answer one conversation, or several, each a list of {"role": ..., "content": text or text parts}.

        chat_template: Jinja text in place of the model's own. The others: `ChatFormat` in engine/conversation.py, and
        `generate`.
        """
        check_options("chat()", options, CHAT_OPTIONS, signature(self.chat).parameters)
        template = self.tokenizer.template(chat_template)
        variables = chat_template_kwargs or {}
        chat = ChatFormat(chat_template_content_format, add_generation_prompt, continue_final_message, tools, variables)
        texts = [write_conversation(template, one, chat) for one in split_conversations(messages)]
        return self._complete(self._encoder.encode(texts, special_tokens=False), sampling_params, use_tqdm)

    def stream(
        self,
        prompts: Prompts,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        chat: bool = False,
    ) -> Iterator[StreamEvent]:
        """As `generate`, but each new piece of text as it comes. `chat`: each prompt is one user message."""
        encode = self._as_user_message if chat else self._encoder.encode_one
        encoded = [encode(prompt) for prompt in parse_prompts(prompts)]  # all are checked before any is added
        params = self._params_of_each(sampling_params, len(encoded))
        with closing(self._run(encoded, params)) as events:  # if the caller leaves early, so do the requests
            for number, event in events:
                yield replace(event, index=number)

    def _as_user_message(self, prompt: ParsedPrompt) -> EncodedPrompt:
        if prompt.text is None or prompt.token_ids is not None:
            raise UsageError(f"{prompt.place} is token ids; a message of a chat is text")
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": prompt.text}])
        encoded = self._encoder.encode_one(replace(prompt, text=text), special_tokens=False)
        return replace(encoded, text=prompt.text)

    def _complete(
        self,
        prompts: Sequence[EncodedPrompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        use_tqdm: UseTqdm,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """The whole outputs, in the order of their prompts."""
        params, outputs = self._params_of_each(sampling_params, len(prompts)), {}
        with GenerationBar(use_tqdm, len(prompts)) as bar:
            for number, event in self._run(prompts, params, priority, streams=False):
                if event.output.finished and number not in outputs:
                    outputs[number] = event.output
                    bar.finished(event.output)
        return [outputs[number] for number in range(len(prompts))]

    def _params_of_each(
        self, given: SamplingParams | Sequence[SamplingParams] | None, count: int
    ) -> Sequence[SamplingParams]:
        if given is None or isinstance(given, SamplingParams):
            return [given or self.get_default_sampling_params()] * count
        return one_each("sampling_params", given, SamplingParams, count)

    def _run(
        self,
        prompts: Sequence[EncodedPrompt],
        params: Sequence[SamplingParams],
        priority: Sequence[int] | None = None,
        streams: bool = True,
    ) -> Generator[tuple[int, StreamEvent], None, None]:
        """What happens to these prompts, each event with the number of its prompt, until all have ended.

        streams: whether somebody reads along (see `Answer`).
        """
        priorities = [0] * len(prompts) if priority is None else one_each("priority", priority, int, len(prompts))
        numbers: dict[int, int] = {}  # request -> number of its prompt
        waiting: dict[int, int] = {}  # request -> answers to come, until all have told their end
        try:
            for number, prompt in enumerate(prompts):
                index = self._add(prompt, params[number], priorities[number], streams)
                numbers[index], waiting[index] = number, params[number].n
                self._streamed.add(index)
            while waiting and (self.engine.has_unfinished_requests or self._unclaimed):
                for event in self._take(lambda index: index in waiting):
                    yield numbers[event.index], event
                    waiting[event.index] -= event.finished
                    if waiting[event.index] == 0:
                        del waiting[event.index]
                        self._streamed.discard(event.index)
        finally:
            for index in waiting:
                self.abort_request(index)
                self._streamed.discard(index)

    def _take(self, wanted: Callable[[int], bool]) -> list[StreamEvent]:
        """Events of the requests that are `wanted`: those that others' steps brought, or those of a step.

        Several may take turns with one engine, each with requests of its own: the events of others wait for them.
        """
        if not any(wanted(event.index) for event in self._unclaimed):
            self._unclaimed += self.engine.step()
        mine = [event for event in self._unclaimed if wanted(event.index)]
        self._unclaimed = [event for event in self._unclaimed if not wanted(event.index)]
        return mine

    def add_request(
        self,
        prompt: PromptType,
        sampling_params: SamplingParams | None = None,
        priority: int = 0,
        streams: bool = True,
    ) -> int:
        """Queue a prompt; its number, which events carry as `index`. A lower `priority` number goes first.

        streams: an event for each step that brings something new; otherwise one for each answer, at its end, which
        costs the host less. Raises ModelError when the prompt cannot run.
        """
        encoded = self._encoder.encode_one(parse_prompt(prompt))
        return self._add(encoded, sampling_params or self.get_default_sampling_params(), priority, streams)

    def _add(self, prompt: EncodedPrompt, params: SamplingParams, priority: int, streams: bool = True) -> int:
        if not isinstance(priority, int):
            raise UsageError(f"priority must be a whole number, not {priority!r}")
        params, index = self._fit(params, len(prompt.token_ids)), self._next_index
        answers = self._answers(index, prompt, params, streams)
        self.engine.add_request(index, prompt.token_ids, params, answers, priority)
        self._next_index += 1
        return index

    def _answers(self, index: int, prompt: EncodedPrompt, params: SamplingParams, streams: bool = True) -> list[Answer]:
        """The n answers to a prompt, together in one output."""
        ids, completions = prompt.token_ids, [CompletionOutput(number) for number in range(params.n)]
        output = RequestOutput(str(index), prompt.text, ids, completions, False, Metrics(prompt_tokens=len(ids)))
        decoders = [IncrementalDecoder(self.tokenizer, params.skip_special_tokens) for _ in completions]
        return [
            Answer(index, output, params, decoder, self._stop_ids, number, streams)
            for number, decoder in enumerate(decoders)
        ]

    def abort_request(self, index: int) -> None:
        """Drop a request that has not ended, and take its pages back. One that has ended, or never was, is no error."""
        self.engine.abort_request(index)
        self._unclaimed = [event for event in self._unclaimed if event.index != index]

    @property
    def has_unfinished_requests(self) -> bool:
        """Whether `step` has something to do."""
        unclaimed = any(event.index not in self._streamed for event in self._unclaimed)
        return unclaimed or self.engine.has_unfinished_requests

    def step(self) -> list[StreamEvent]:
        """Run one scheduled batch: the next tokens of every request that was added with `add_request` and runs."""
        return self._take(lambda index: index not in self._streamed)

    def score(self, token_ids: Sequence[int], decode_from: int | None = None) -> NDArray[np.float32]:
        """Logits f32[T, V] after every token of one sequence.

        The first `decode_from` tokens (default: all) are prefilled, in chunks as large as a step; the others follow one
        decode step each.
        """
        prompt = self._encoder.encode_one(parse_prompt(token_ids))
        params, index = SamplingParams(max_tokens=1), self._next_index
        self._next_index += 1
        answer = self._answers(index, prompt, params)[0]
        return self.engine.score(Request(index, prompt.token_ids, params, answer), decode_from)

    def _fit(self, params: SamplingParams, prompt_tokens: int) -> SamplingParams:
        """The engine's copy: held against the model, and cut to what the context has room for."""
        room = self.engine_config.max_model_len - prompt_tokens
        return params_for_model(params, self.tokenizer, self.config.vocab_size, room)

    def close(self) -> None:
        """Free everything on the device. A second time is no error; anything else is, from now on."""
        self._finalizer.detach()
        self.engine.close()
        self._open.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        # After a sticky error nothing can be freed, and that error is the one to show.
        with suppress(CudaError) if error else nullcontext():
            self.close()


def _limits(**given: int | float | None) -> Limits:
    """What was asked for; the others keep the defaults of `Limits`."""
    return Limits(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _close_quietly(opened: ExitStack) -> None:
    with suppress(CudaError):  # nobody is left to tell, and after a sticky error nothing can be freed
        opened.close()
