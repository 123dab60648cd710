"""Scripts as one writes them for vLLM run here with `vllm` replaced by `engine`, and mean the same.

Each is a whole program. Only the name of its import and of its model are changed; none of them closes its LLM.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bindings.device import Device
from bindings.memory import memory_map
from engine.errors import UsageError
from engine.model_files import default_model
from engine.random_model import write_random_model

Script = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "toy"
    write_random_model("toy", folder)
    return str(folder)


def translated(source: str, model: str) -> str:
    """The script with another import, and a model that is here: the only changes."""
    assert "from vllm import" in source and '"facebook/opt-125m"' in source
    return source.replace("from vllm", "from engine").replace('"facebook/opt-125m"', repr(model))


def run(source: str, model: str) -> dict[str, Any]:
    """The script's variables at its end."""
    variables: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(translated(source, model), "<script>", "exec"), variables)
    return variables


BASIC = """
from vllm import LLM, SamplingParams

prompts = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
]
sampling_params = SamplingParams(temperature=0.0, max_tokens=6)

llm = LLM(model="facebook/opt-125m", max_model_len=256)
outputs = llm.generate(prompts, sampling_params)

for output in outputs:
    prompt = output.prompt
    generated_text = output.outputs[0].text
    print(f"Prompt: {prompt!r}, Generated text: {generated_text!r}")
"""


def test_basic_offline_inference(repository: Path, device: Device) -> None:
    """As a program of its own: it prints its answers, and leaves nothing on the device though it never closes."""
    environment = {**os.environ, "CUTAWAY_DEVICE": device.kind, "CUTAWAY_CPU_LEAKS": "report"}
    command = [sys.executable, "-c", translated(BASIC, str(default_model()))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and lines[2].startswith("Prompt: 'The capital of France is', Generated text: ' Paris.")
    assert len({line.split("Generated text: ")[1] for line in lines}) == 4


def test_the_example_in_the_readme(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text("utf-8"), flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith(" Paris.")


CHAT = """
from vllm import LLM, SamplingParams

llm = LLM(model="facebook/opt-125m", max_model_len=512)
sampling_params = SamplingParams(temperature=0, max_tokens=7)
conversation = [
    {"role": "system", "content": "You are a helpful assistant"},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can I assist you today?"},
    {"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]},
]
single = llm.chat(conversation, sampling_params=sampling_params, use_tqdm=False)
batch = llm.chat([conversation, conversation[:2]], sampling_params)

chat_template = "{% for message in messages %}{{ message.role }}: {{ message['content'] }}\\n{% endfor %}assistant:"
with_template = llm.chat(conversation, SamplingParams(max_tokens=1), chat_template=chat_template)

begun = conversation[3:] + [{"role": "assistant", "content": "The capital of France is"}]
continued = llm.chat(begun, sampling_params, add_generation_prompt=False, continue_final_message=True,
                     use_tqdm=False)

tokenizer = llm.get_tokenizer()
text = tokenizer.apply_chat_template(conversation[:2], tokenize=False, add_generation_prompt=True)
ids = tokenizer.encode(text, add_special_tokens=False)
by_hand = llm.generate([{"prompt_token_ids": ids}], SamplingParams(max_tokens=1))
"""


@pytest.fixture(scope="module")
def chat(device: Device) -> dict[str, Any]:
    return run(CHAT, str(default_model()))


def test_chat_answers_a_conversation(chat: dict[str, Any]) -> None:
    (single,) = chat["single"]
    assert "Paris" in single.outputs[0].text
    assert single.prompt.endswith("What is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    assert chat["batch"][0].outputs[0].text == single.outputs[0].text
    assert chat["batch"][1].outputs[0].text not in ("", single.outputs[0].text)


def test_chat_with_another_template(chat: dict[str, Any]) -> None:
    prompt = chat["with_template"][0].prompt
    assert prompt.startswith("system: You are a helpful assistant\nuser: Hello\n")
    assert prompt.endswith("user: What is the capital of France?\nassistant:")


def test_chat_goes_on_with_a_message(chat: dict[str, Any]) -> None:
    (continued,) = chat["continued"]
    assert continued.prompt.endswith("<|im_start|>assistant\nThe capital of France is")
    assert continued.outputs[0].text.startswith(" Paris")


def test_a_template_applied_by_hand_is_the_same_prompt(chat: dict[str, Any]) -> None:
    assert chat["by_hand"][0].prompt_token_ids == chat["batch"][1].prompt_token_ids


PARAMETERS_OF_EACH = """
from vllm import LLM, SamplingParams

llm = LLM("facebook/opt-125m", enforce_eager=True, seed=0, dtype="bfloat16", trust_remote_code=True,
          tensor_parallel_size=1, gpu_memory_utilization=0.8, max_num_seqs=8)
prompts = ["Hello, my name is", "The future of AI is", "One, two,"]
each = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (3, 9, 5)]
outputs = llm.generate(prompts, each)
alone = [llm.generate(prompt, params)[0] for prompt, params in zip(prompts, each)]
"""


def test_each_prompt_has_its_own_parameters(toy: str) -> None:
    variables = run(PARAMETERS_OF_EACH, toy)
    outputs = variables["outputs"]
    assert [len(output.outputs[0].token_ids) for output in outputs] == [3, 9, 5]
    assert [output.prompt for output in outputs] == variables["prompts"]
    assert [output.outputs[0].text for output in outputs] == [output.outputs[0].text for output in variables["alone"]]
    assert all(output.finished and output.outputs[0].finish_reason == "length" for output in outputs)


PROMPT_FORMS = """
from vllm import LLM, SamplingParams, TextPrompt, TokensPrompt
from vllm.inputs import TokensPrompt as SameTokensPrompt

llm = LLM(model="facebook/opt-125m")
params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
text = "The capital of France is"
ids = llm.get_tokenizer().encode(text)
forms = [
    text,
    {"prompt": text},
    TextPrompt(prompt=text),
    {"prompt_token_ids": ids},
    TokensPrompt(prompt_token_ids=ids),
    SameTokensPrompt(prompt_token_ids=ids, prompt=text),
]
together = llm.generate(forms, params, use_tqdm=False)
alone = [llm.generate(form, params)[0] for form in forms]
"""


def test_every_form_of_a_prompt(toy: str) -> None:
    variables = run(PROMPT_FORMS, toy)
    for outputs in (variables["together"], variables["alone"]):
        assert [output.prompt_token_ids for output in outputs] == [variables["ids"]] * 6
        assert len({tuple(output.outputs[0].token_ids) for output in outputs}) == 1
        assert [output.prompt for output in outputs] == [variables["text"]] * 3 + [None] * 2 + [variables["text"]]


PREFIX_CACHING = """
from vllm import LLM, SamplingParams

prefix = "You are an expert school principal, skilled in effectively managing faculty and staff. " * 3
prompts = [prefix + question for question in ("Hello, my name is", "The capital of France is", "The future is")]
sampling_params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)

regular_llm = LLM(model="facebook/opt-125m", gpu_memory_utilization=0.4, enable_prefix_caching=False)
regular = [output.outputs[0].text for output in regular_llm.generate(prompts, sampling_params)]
del regular_llm

cached_llm = LLM(model="facebook/opt-125m", gpu_memory_utilization=0.4, enable_prefix_caching=True)
cached_llm.generate(prompts[0], sampling_params)
cached = [output.outputs[0].text for output in cached_llm.generate(prompts, sampling_params)]
"""


def test_prefix_caching_changes_no_answer(toy: str) -> None:
    variables = run(PREFIX_CACHING, toy)
    assert variables["cached"] == variables["regular"] and len(set(variables["cached"])) > 1
    shared = len(variables["prefix"]) // 16 * 16  # the toy has a token a byte, and pages of 16
    assert variables["cached_llm"].cache.statistics.hit_tokens >= 3 * shared


SEEDS = """
from vllm import LLM, SamplingParams

llm = LLM(model="facebook/opt-125m", seed=None)
prompt = "Once upon a time"
def sample(seed, count=1):
    params = SamplingParams(temperature=5.0, max_tokens=12, seed=seed, ignore_eos=True)
    return [output.outputs[0].token_ids for output in llm.generate([prompt] * count, params)]

first, again, in_a_batch, other = sample(7), sample(7), sample(7, 3), sample(8)
unseeded = sample(None, 2)
"""


def test_a_seed_repeats_a_sample(toy: str) -> None:
    variables = run(SEEDS, toy)
    assert variables["first"] == variables["again"] and variables["in_a_batch"] == variables["first"] * 3
    assert variables["other"] != variables["first"]
    assert variables["unseeded"][0] != variables["unseeded"][1]


STOP_TOKENS = """
from vllm import LLM, SamplingParams

llm = LLM(model="facebook/opt-125m", skip_tokenizer_init=False)
free = llm.generate("Hello", SamplingParams(temperature=0, max_tokens=10, ignore_eos=True))[0].outputs[0]
third = free.token_ids[2]
stopped = llm.generate(
    "Hello", SamplingParams(temperature=0, max_tokens=10, ignore_eos=True, stop_token_ids=[third])
)[0].outputs[0]
"""


def test_a_stop_token_ends_the_text(toy: str) -> None:
    variables = run(STOP_TOKENS, toy)
    free, stopped = variables["free"], variables["stopped"]
    end = free.token_ids.index(variables["third"]) + 1
    assert stopped.token_ids == free.token_ids[:end] and stopped.finish_reason == "stop"
    assert free.finish_reason == "length"


STOP_TEXTS = """
from vllm import LLM, SamplingParams

llm = LLM(model="facebook/opt-125m")
def text(**params):
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, **params)
    return llm.generate("Hello", params)[0].outputs[0]

free = text()
stop = free.text[5:7]
cut, kept, hidden = text(stop=[stop]), text(stop=stop, include_stop_str_in_output=True), text(detokenize=False)
"""


def test_a_stop_text_ends_the_answer(toy: str) -> None:
    variables = run(STOP_TEXTS, toy)
    free, stop, cut, kept = (variables[name] for name in ("free", "stop", "cut", "kept"))
    at = free.text.index(stop)
    assert cut.text == free.text[:at] and kept.text == free.text[:at] + stop
    assert (cut.finish_reason, cut.stop_reason) == (kept.finish_reason, kept.stop_reason) == ("stop", stop)
    assert (free.finish_reason, free.stop_reason) == ("length", None)
    assert variables["hidden"].text == "" and variables["hidden"].token_ids == free.token_ids


LOGPROBS = """
from vllm import LLM, SamplingParams

llm = LLM(model="facebook/opt-125m")
params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True, logprobs=3)
for output in llm.generate(["Hello", "Once upon"], params):
    for completion in output.outputs:
        for token_id, entries in zip(completion.token_ids, completion.logprobs):
            chosen = entries[token_id]
            print(f"{chosen.decoded_token!r}: {chosen.logprob:.3f}, rank {chosen.rank}, of {len(entries)}")
        print(completion.cumulative_logprob)
"""


def test_logprobs_of_each_token(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    completion = run(LOGPROBS, toy)["completion"]
    chosen = [entries[token] for token, entries in zip(completion.token_ids, completion.logprobs, strict=True)]
    assert completion.cumulative_logprob == sum(entry.logprob for entry in chosen)
    assert all(
        entry.rank == 1 and entry.logprob == max(e.logprob for e in entries.values()) <= 0
        for entry, entries in zip(chosen, completion.logprobs, strict=True)
    )
    assert {len(entries) for entries in completion.logprobs} == {3}
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 12 and printed[-1] == str(completion.cumulative_logprob)


EDITED = """
from vllm import LLM, SamplingParams

llm = LLM(model="facebook/opt-125m")
def ids(**params):
    params = SamplingParams(max_tokens=8, ignore_eos=True, seed=1, **params)
    return llm.generate("Hello", params)[0].outputs[0].token_ids

free = ids(temperature=0)
likeliest = ids(temperature=0.8, top_k=1)
nucleus = ids(temperature=0.8, top_p=1e-6)
allowed = ids(temperature=2.0, allowed_token_ids=[65, 66])
(favourite,) = llm.get_tokenizer().encode("d")
biased = ids(temperature=0, logit_bias={favourite: 100})
banned = ids(temperature=0, logit_bias={favourite: 100}, bad_words=["d"])
unrepeated = ids(temperature=0, presence_penalty=2.0, frequency_penalty=2.0, repetition_penalty=100.0)
"""


def test_sampling_parameters_by_their_names(toy: str) -> None:
    v = run(EDITED, toy)
    assert v["likeliest"] == v["nucleus"] == v["free"]
    assert set(v["allowed"]) <= {65, 66} and v["biased"] == [v["favourite"]] * 8
    assert v["favourite"] not in v["banned"]
    assert len(set(v["unrepeated"])) == 8


SEVERAL_ANSWERS = """
from vllm import LLM, SamplingParams

llm = LLM(model="facebook/opt-125m")
params = SamplingParams(n=3, temperature=5.0, max_tokens=8, ignore_eos=True, seed=5, logprobs=1)
outputs = llm.generate(["Hello, my name is", "Once upon a time"], params)
again = llm.generate(["Hello, my name is", "Once upon a time"], params)
for output in outputs:
    for completion in output.outputs:
        print(f"{output.request_id} {completion.index}: {completion.text!r} {completion.cumulative_logprob:.2f}")
"""


def test_several_answers_to_one_prompt(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    variables = run(SEVERAL_ANSWERS, toy)
    for output, again in zip(variables["outputs"], variables["again"], strict=True):
        answers = [completion.token_ids for completion in output.outputs]
        assert [completion.index for completion in output.outputs] == [0, 1, 2] and output.finished
        assert len({tuple(ids) for ids in answers}) == 3 and {len(ids) for ids in answers} == {8}
        assert all(len(completion.logprobs) == 8 for completion in output.outputs)
        assert [completion.token_ids for completion in again.outputs] == answers
    assert len(capsys.readouterr().out.splitlines()) == 6


PRIORITY = """
from vllm import LLM, SamplingParams

llm = LLM(model="facebook/opt-125m", scheduling_policy="priority", max_num_seqs=1)
params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
outputs = llm.generate(["third", "first", "second"], params, priority=[5, -1, 0])
"""


def test_lower_priority_numbers_are_served_first(toy: str) -> None:
    outputs = run(PRIORITY, toy)["outputs"]
    assert [output.prompt for output in outputs] == ["third", "first", "second"]
    served = sorted(outputs, key=lambda output: output.metrics.time_to_first_token)
    assert [output.prompt for output in served] == ["first", "second", "third"]


THROUGHPUT = """
import random
import time
from vllm import LLM, SamplingParams

random.seed(0)
llm = LLM("facebook/opt-125m", enforce_eager=False, max_model_len=128)
prompts = [[random.randint(0, 255) for _ in range(random.randint(10, 40))] for _ in range(12)]
each = [SamplingParams(temperature=0.6, ignore_eos=True, max_tokens=random.randint(1, 12)) for _ in prompts]
start = time.time()
outputs = llm.generate([dict(prompt_token_ids=ids) for ids in prompts], each, use_tqdm=False)
seconds = time.time() - start
total = sum(params.max_tokens for params in each)
print(f"Total: {total}tok, Time: {seconds:.2f}s, Throughput: {total / seconds:.2f}tok/s")
"""


def test_a_throughput_benchmark(toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    variables = run(THROUGHPUT, toy)
    lengths = [len(output.outputs[0].token_ids) for output in variables["outputs"]]
    assert lengths == [params.max_tokens for params in variables["each"]]
    captured = capsys.readouterr()
    assert captured.out.startswith(f"Total: {sum(lengths)}tok") and captured.err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("tensor_parallel_size=4", "LLM() can't take tensor_parallel_size=4: one device runs the whole model"),
        ("quantization='awq'", "LLM() can't take quantization='awq'"),
        ("speculative_config={'method': 'ngram'}", "LLM() can't take speculative_config="),
    ],
)
def test_a_script_that_asks_for_what_is_not_there_is_told_so(toy: str, options: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(f'from vllm import LLM\nllm = LLM("facebook/opt-125m", {options})', toy)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("call", ["generate('a', lora_request='x')", "chat([], lora_request='x')"])
def test_an_adapter_is_refused(toy: str, call: str) -> None:
    with pytest.raises(UsageError, match="can't take lora_request='x': adapters are not applied"):
        run(f'from vllm import LLM\nLLM("facebook/opt-125m").{call}', toy)


MISMATCHED = """
from vllm import LLM, SamplingParams
llm = LLM("facebook/opt-125m")
llm.generate(["a", "b"], {arguments})
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("[SamplingParams()]", "^sampling_params has 1 entries for 2 prompts: give one for each$"),
        ("[SamplingParams(), 3]", r"^sampling_params\[1\] is a int; expected SamplingParams$"),
        ("priority=[1, 2, 3]", "^priority has 3 entries for 2 prompts"),
    ],
)
def test_lists_that_do_not_fit_the_prompts_are_refused(toy: str, arguments: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(MISMATCHED.format(arguments=arguments), toy)


def test_memory_is_freed_when_python_lets_go(toy: str) -> None:
    gc.collect()
    before = memory_map.live()
    variables = run(STOP_TOKENS, toy)
    assert memory_map.live() != before
    variables.clear()
    gc.collect()
    assert memory_map.live() == before
