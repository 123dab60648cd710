"""vLLM's options that this engine has only one way of doing: the values that mean that way, and why not another.

So a script that was written for vLLM runs as it is, or stops at once with the name of what it asks for in vain.
Options that the engine has are parameters of `LLM` and its methods.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from engine.engine_config import PAGE_SIZE


class OneWay(NamedTuple):
    """The values that ask for what the engine does anyway, and why it takes no other, or what to do instead."""

    accepted: tuple[Any, ...]
    why: str


_ONE_DEVICE = "one device runs the whole model"
_TEXT = "the engine reads and writes text only"
_NO_ADAPTERS = "adapters are not applied: merge it into the weights first"
_NO_SPECULATION = "every token is computed by the model itself"
_ONE_MODEL_FORM = "config.json and weights are read as transformers writes them"

ENGINE_OPTIONS: dict[str, OneWay] = {
    # the model
    "tokenizer_mode": OneWay(("auto", "hf"), "there is one tokenizer, of the package tokenizers"),
    "skip_tokenizer_init": OneWay((False,), "stop tokens and texts need the tokenizer; prompts may still be token ids"),
    "tokenizer_revision": OneWay((None,), "the tokenizer comes with the model: give revision"),
    "trust_remote_code": OneWay((False, True), "a model's code is never run"),
    "code_revision": OneWay((None,), "a model's code is never run"),
    "dtype": OneWay(("auto", "bfloat16"), "weights and activations are bfloat16"),
    "quantization": OneWay((None,), "weights run as bfloat16; a quantised GGUF is recognised without this"),
    "model_impl": OneWay(("auto",), _ONE_MODEL_FORM),
    "config_format": OneWay(("auto", "hf"), _ONE_MODEL_FORM),
    "hf_config_path": OneWay((None,), _ONE_MODEL_FORM),
    "hf_overrides": OneWay((None, {}), "edit the folder's config.json"),
    "hf_token": OneWay((None, True), "set the environment variable HF_TOKEN"),
    "download_dir": OneWay((None,), "set the environment variable HF_HOME"),
    "rope_scaling": OneWay((None, {}), "edit the folder's config.json"),
    "rope_theta": OneWay((None,), "edit the folder's config.json"),
    "override_generation_config": OneWay((None, {}), "give SamplingParams"),
    "task": OneWay(("auto", "generate"), "the engine generates text"),
    "runner": OneWay(("auto", "generate"), "the engine generates text"),
    "convert": OneWay(("auto", "none"), "the engine generates text"),
    "allowed_local_media_path": OneWay(("",), _TEXT),
    "limit_mm_per_prompt": OneWay((None, {}), _TEXT),
    "mm_processor_kwargs": OneWay((None, {}), _TEXT),
    "enable_prompt_embeds": OneWay((False,), "prompts are text or token ids"),
    "enable_lora": OneWay((False,), _NO_ADAPTERS),
    # devices and memory
    "tensor_parallel_size": OneWay((1,), _ONE_DEVICE),
    "pipeline_parallel_size": OneWay((1,), _ONE_DEVICE),
    "data_parallel_size": OneWay((1,), _ONE_DEVICE),
    "enable_expert_parallel": OneWay((False,), _ONE_DEVICE),
    "distributed_executor_backend": OneWay((None, "uni"), _ONE_DEVICE),
    "disable_custom_all_reduce": OneWay((False, True), _ONE_DEVICE),
    "block_size": OneWay((None, PAGE_SIZE), "the size of a KV page is fixed"),
    "num_gpu_blocks_override": OneWay((None,), "give the pool's size as kv_cache_bytes"),
    "kv_cache_dtype": OneWay(("auto", "bfloat16"), "keys and values are bfloat16"),
    "swap_space": OneWay((0, 0.0), "a preempted request is computed anew, nothing is swapped"),
    "cpu_offload_gb": OneWay((0, 0.0), "all weights lie on the device"),
    "enable_sleep_mode": OneWay((False,), "call close() and make a new LLM"),
    "disable_sliding_window": OneWay((False,), "no model with a sliding window is run"),
    # steps
    "enable_chunked_prefill": OneWay((None, True), "raise max_num_batched_tokens for larger pieces of a prompt"),
    "scheduling_policy": OneWay(("fcfs", "priority"), "requests go by priority, and those of equal priority in order"),
    "preemption_mode": OneWay((None, "recompute"), "a preempted request is computed anew, nothing is swapped"),
    "compilation_config": OneWay((None,), "kernels are compiled one by one; enforce_eager=True turns graphs off"),
    "max_seq_len_to_capture": OneWay((), "decode steps of any length are replayed"),
    "speculative_config": OneWay((None,), _NO_SPECULATION),
    "speculative_model": OneWay((None,), _NO_SPECULATION),
    "logits_processors": OneWay((None, []), "SamplingParams can edit logits: logit_bias, allowed_token_ids, bad_words"),
    "disable_log_stats": OneWay((True,), "nothing is logged: read output.metrics and llm.cache.statistics"),
}

_CALL_OPTIONS: dict[str, OneWay] = {
    "lora_request": OneWay((None,), _NO_ADAPTERS),
    "prompt_adapter_request": OneWay((None,), _NO_ADAPTERS),
    "guided_options_request": OneWay((None,), "tokens are not held to a grammar: leave it out"),
    "tokenization_kwargs": OneWay((None, {}), "encode the prompt yourself, and give its token ids"),
    "mm_processor_kwargs": OneWay((None, {}), _TEXT),
}
GENERATE_OPTIONS = _CALL_OPTIONS | {
    "prompt_token_ids": OneWay((None,), 'give token ids as the prompt: {"prompt_token_ids": ids}'),
}
CHAT_OPTIONS = _CALL_OPTIONS
