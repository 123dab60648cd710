"""The main job: a prompt in, an answer out, token by token.

python -m tools.generate "Why is the sky blue?"
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tools import cli
from tools.progress import Progress

if TYPE_CHECKING:
    from engine import LLM, RequestOutput, SamplingParams

MAX_BATCH = 8  # prompts at once; more wait for their turn

# Options with the name and the meaning of a field of SamplingParams.
SAMPLING_OPTIONS = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "min_tokens", "stop", "ignore_eos",
)  # fmt: skip

EXAMPLES = """\
  python -m tools.generate "Why is the sky blue?"
  python -m tools.generate --raw --max-tokens 8 "The capital of France is"
  python -m tools.generate "Name a fruit." "Name a colour."     # a batch: both run at once
  git diff | python -m tools.generate --max-tokens 400          # the prompt is what comes in
  python -m tools.generate --model ~/Llama-3.2-1B-Instruct --temperature 0.7 --seed 3 "Tell me a story."
  python -m tools.generate --model meta-llama/Llama-3.2-1B-Instruct "Hello"     # from the Hugging Face hub
  python -m tools.generate --temperature 0.8 --top-p 0.9 --top-k 40 --min-p 0.02 --seed 3 "Tell me a story."
  python -m tools.generate --repetition-penalty 1.1 --bad-word sky "Why is the sky blue?"
  python -m tools.generate --raw --stop "." --stop ";" --min-tokens 3 "The capital of France is"
  python -m tools.generate --trace calls.jsonl "Hello"          # every driver call, one JSON object a line
"""


def make_parser() -> cli.Parser:
    parser = cli.Parser("generate", "Answer prompts with a language model.", EXAMPLES)
    parser.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help="several run as one batch; - or none: read one from stdin",
    )
    parser.add_argument("--raw", action="store_true", help="continue the text as it is: no chat template")
    parser.add_argument(
        "--model",
        help="a folder of Hugging Face's or Meta's, a .gguf file, or a name on the Hugging Face hub: owner/name, or"
        " owner/name:file.gguf (default: SmolLM2-135M-Instruct); what is not here is fetched once",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a model on the hub (default: its main branch)")
    parser.add_argument("--max-tokens", type=int, default=256, metavar="N", help="stop after N (default: 256)")
    parser.add_argument("--max-model-len", type=int, metavar="N", help="tokens of prompt and answer to keep room for")
    parser.add_argument("--json", action="store_true", help="print one JSON object when all is done")
    add_sampling_options(parser)
    cli.add_common_options(parser)
    return parser


def add_sampling_options(parser: cli.Parser) -> None:
    """The options that say how tokens are chosen and what ends an answer. SamplingParams knows their ranges."""
    group = parser.add_argument_group("how each token is chosen, and what ends the answer")

    def number(option: str, default: float, metavar: str, text: str) -> None:
        kind = type(default)
        group.add_argument(option, type=kind, default=default, metavar=metavar, help=f"{text} (default: {default})")

    number("--temperature", 0.0, "T", "0: the likeliest token, the same answer each run; above 0: sample")
    number("--top-p", 1.0, "P", "sample from the likeliest tokens that together have probability P")
    number("--top-k", 0, "K", "sample from the K likeliest tokens; 0: from all")
    number("--min-p", 0.0, "P", "sample from tokens at least P times as probable as the likeliest")
    number("--seed", 0, "N", "for --temperature above 0: same seed, same answer")
    number("--repetition-penalty", 1.0, "R", "above 1: tokens of prompt and answer become less likely")
    number("--presence-penalty", 0.0, "X", "above 0: tokens that the answer has become less likely")
    number("--frequency-penalty", 0.0, "X", "above 0: the more often the answer has a token, the less likely")
    number("--min-tokens", 0, "N", "nothing ends the answer before it has N tokens")
    for option, text in (
        ("--stop", "end before this text; may be given several times"),
        ("--bad-word", "a text that must not appear in the answer; may be given several times"),
    ):
        group.add_argument(option, action="append", default=[], metavar="TEXT", help=text)
    group.add_argument(
        "--ignore-eos", action="store_true", help="go on to --max-tokens: nothing of the model's ends it"
    )


def read_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts to answer: those given, with `-` or an empty list standing for what stdin holds."""
    if not prompts and (sys.stdin is None or sys.stdin.isatty()):
        raise cli.UsageError('no prompt: give one, as in python -m tools.generate "Why is the sky blue?"')
    if list(prompts).count("-") > 1:
        raise cli.UsageError("standard input can be read once, but - is given more than once")
    given = [read_stdin() if prompt == "-" else prompt for prompt in prompts or ["-"]]
    for number, prompt in enumerate(given, start=1):
        check_prompt(number, prompt)
    return given


def read_stdin() -> str:
    """All of stdin as text, without the line end that a pipe leaves."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise cli.UsageError(f"standard input is not UTF-8 text (first bad byte at {error.start})") from None
    if not text:
        raise cli.UsageError("standard input is empty: give a prompt, or pipe one in")
    return text


def check_prompt(number: int, prompt: str) -> None:
    if not prompt:
        raise cli.UsageError(f"prompt {number} is empty")
    try:
        prompt.encode("utf-8")  # Python keeps bytes of the command line that are no text as lone surrogates
    except UnicodeEncodeError:
        raise cli.UsageError(f"prompt {number} is not UTF-8 text") from None


def sampling_params(arguments: argparse.Namespace) -> SamplingParams:
    """What the options say of sampling. SamplingParams knows the ranges; outside them an option is wrong."""
    from engine import SamplingParams

    given = {name: getattr(arguments, name) for name in SAMPLING_OPTIONS}
    try:
        params = SamplingParams(**given, bad_words=arguments.bad_word)
    except ValueError as error:
        raise cli.UsageError(str(error)) from None
    for name in ("top_p", "top_k", "min_p"):
        if params.temperature == 0 and getattr(params, name) != getattr(SamplingParams(), name):
            option = f"--{name.replace('_', '-')}"
            raise cli.UsageError(f"{option} needs --temperature above 0: without it the likeliest token is taken")
    return params


def choose_device(arguments: argparse.Namespace) -> str:
    """The kind of device of this run; where a GPU was wanted and none is there, says so in one line."""
    from bindings import backend

    chosen = backend.select(arguments.device)
    if chosen.why and not arguments.quiet:
        print(f"{chosen.why}: running on the CPU device", file=sys.stderr, flush=True)
    return chosen.kind


def load(arguments: argparse.Namespace, num_prompts: int) -> LLM:
    from engine import LLM
    from engine.model_files import is_on_hub

    if arguments.revision is not None and not is_on_hub(arguments.model):
        what = arguments.model or "the default model"
        raise cli.UsageError(f"--revision is for a model on the hub, as in --model owner/name; {what} is none")
    kind = choose_device(arguments)
    with Progress(quiet=arguments.quiet) as progress:
        return LLM(
            model=arguments.model,
            revision=arguments.revision,
            device=kind,
            max_model_len=arguments.max_model_len,
            max_num_seqs=min(num_prompts, MAX_BATCH),
            progress=progress,
        )


@dataclass(frozen=True)
class Result:
    """What a run made: the outputs in the order of the prompts, and the seconds that they took together."""

    outputs: list[RequestOutput]
    seconds: float


def answer(llm: LLM, prompts: list[str], params: SamplingParams, chat: bool, show: bool) -> Result:
    """Run all prompts as one batch. `show` prints one prompt's text as it comes, several as each one ends."""
    finished: dict[int, RequestOutput] = {}
    started = time.perf_counter()
    for event in llm.stream(prompts, params, chat=chat):
        if event.finished:
            finished[event.index] = event.output
        if show and len(prompts) == 1:
            print(event.text, end="\n" if event.finished else "", flush=True)
        elif show and event.finished:
            print(f"=== {heading(event.index, prompts)}\n{event.output.outputs[0].text}\n", flush=True)
    return Result([finished[i] for i in range(len(prompts))], time.perf_counter() - started)


def heading(index: int, prompts: list[str]) -> str:
    """ "2. Name a colour." over an answer of a batch; a long prompt is cut."""
    return f"{index + 1}. {textwrap.shorten(prompts[index], 80, placeholder=' ...')}"


def as_json(llm: LLM, model: str | None, result: Result) -> dict[str, Any]:
    """The run as one JSON object."""
    from engine.model_files import DEFAULT_MODEL

    return {
        "model": DEFAULT_MODEL.member if model is None else model,
        "device": {"kind": llm.device.kind, "name": llm.device.name, "arch": llm.device.arch},
        "seconds": result.seconds,
        "outputs": [output_as_json(output) for output in result.outputs],
    }


def output_as_json(output: RequestOutput) -> dict[str, Any]:
    completion, metrics = output.outputs[0], output.metrics
    return {
        "prompt": output.prompt,
        "prompt_token_ids": list(output.prompt_token_ids),
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "metrics": {
            "prompt_tokens": metrics.prompt_tokens,
            "new_tokens": metrics.new_tokens,
            "time_to_first_token": metrics.time_to_first_token,
            "tokens_per_second": metrics.tokens_per_second,
        },
    }


def figures(llm: LLM, result: Result) -> str:
    """The closing line. Of a batch: sums, the latest first token, and the rate of all sequences together."""
    metrics = [output.metrics for output in result.outputs]
    prompt_tokens = sum(m.prompt_tokens for m in metrics)
    new_tokens = sum(m.new_tokens for m in metrics)
    first = max(m.time_to_first_token for m in metrics)
    rate = metrics[0].tokens_per_second if len(metrics) == 1 else new_tokens / result.seconds
    line = f"{llm.device.name}: {prompt_tokens} prompt tokens, {new_tokens} new tokens, first token after {first:.2f} s"
    return f"{line}, {rate:.1f} tokens/s" if rate else line  # one token has no rate


def generate(arguments: argparse.Namespace) -> None:
    prompts = read_prompts(arguments.prompts)
    params = sampling_params(arguments)
    with load(arguments, len(prompts)) as llm:
        result = answer(llm, prompts, params, chat=not arguments.raw, show=not arguments.json)
        if arguments.json:
            print(json.dumps(as_json(llm, arguments.model, result)))
        if not arguments.quiet:
            print(figures(llm, result), file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(make_parser(), generate, argv)


if __name__ == "__main__":
    sys.exit(main())
