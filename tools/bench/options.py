"""Options that several benchmarks share, under the names of `vllm bench`, and the engine that they ask for."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tools import cli
from tools.progress import Progress

if TYPE_CHECKING:
    from engine import LLM


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 on")
    return int(text)


def count_or_zero(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 0 on")
    return int(text)


def lengths(text: str) -> tuple[int, int]:
    """`100-1024`, or `512` for one length: the shortest and the longest."""
    shortest, _, longest = text.partition("-")
    bounds = count(shortest), count(longest or shortest)
    if bounds[0] > bounds[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: the shorter length comes first")
    return bounds


def number(text: str) -> float:
    """A number, `inf` among them."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number")
    return value


def temperature(text: str) -> float:
    """0 or a finite positive number."""
    value = number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 0 or a positive number")
    return value


def rate(text: str) -> float:
    """Requests a second: above 0; `inf` for all at once."""
    value = number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected requests a second, above 0, or inf for all at once")
    return value


def picture_file(text: str) -> Path:
    """A file to be: known to be possible before anything runs."""
    path = Path(text)
    if path.suffix != ".svg" or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a file name that ends in .svg")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: there is no folder {str(path.parent)!r}")
    return path


def add_model_options(parser: cli.Parser) -> None:
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", help="a Hugging Face folder or a .gguf file (default: the default model)")
    model.add_argument(
        "--random-weights",
        "--shape",
        metavar="SHAPE",
        help="no download, weights made on the device: llama-3.2-1b, llama-3.1-8b, smollm2-135m, toy, or (not for load)"
        " a folder with a config.json",
    )


def add_engine_options(parser: cli.Parser) -> None:
    """The model, and how the engine runs it."""
    add_model_options(parser)
    parser.add_argument("--max-num-batched-tokens", type=count, metavar="N", help="tokens of one step")
    parser.add_argument("--kv-cache-bytes", type=count, metavar="N", help="memory for keys and values")
    parser.add_argument("--enforce-eager", "--eager", action="store_true", help="launch kernels one by one: no graph")
    parser.add_argument(
        "--deterministic", action="store_true", help="the same bits whatever else runs (docs/deterministic.md)"
    )
    parser.add_argument("--seed", type=count_or_zero, default=0, metavar="N", help="default: 0")


def add_batch_options(parser: cli.Parser, batch: int, tokens: int) -> None:
    """A batch of sequences of one length."""
    parser.add_argument(
        "--batch-size", "--batch", type=count, default=batch, metavar="N", help=f"sequences at once (default: {batch})"
    )
    parser.add_argument(
        "--input-len", "--tokens", type=count, default=tokens, metavar="N", help=f"prompt tokens (default: {tokens})"
    )


def add_iterations(parser: cli.Parser, iterations: int) -> None:
    parser.add_argument(
        "--num-iters", type=count, default=iterations, metavar="N", help=f"timed runs (default: {iterations})"
    )
    add_warmup(parser)


def add_warmup(parser: cli.Parser) -> None:
    parser.add_argument(
        "--num-iters-warmup",
        type=count_or_zero,
        default=1,
        metavar="N",
        help="runs before, which are not timed: they capture graphs (default: 1)",
    )


def add_workload_options(parser: cli.Parser, num_prompts: int) -> None:
    """Many sequences of random lengths."""
    parser.add_argument(
        "--num-prompts", type=count, default=num_prompts, metavar="N", help=f"requests (default: {num_prompts})"
    )
    for name, what in (("--input-len", "prompt"), ("--output-len", "answer")):
        parser.add_argument(
            name,
            type=lengths,
            default=(100, 1024),
            metavar="MIN-MAX",
            help=f"tokens of a {what}, drawn evenly; one number: all the same (default: 100-1024)",
        )
    parser.add_argument("--temperature", type=temperature, default=0.6, metavar="T", help="0: greedy (default: 0.6)")
    parser.add_argument("--max-num-seqs", type=count, default=256, metavar="N", help="at once (default: 256)")
    parser.add_argument(
        "--batching",
        choices=("continuous", "static"),
        default="continuous",
        help="static: the baseline, a batch runs to its end before the next one starts (default: continuous)",
    )
    parser.add_argument(
        "--picture",
        type=picture_file,
        metavar="FILE.svg",
        help="draw who ran in which step (of many requests and steps the first ones); taking that down costs time",
    )


@contextmanager
def engine(
    arguments: argparse.Namespace, max_model_len: int, max_num_seqs: int, batching: str = "continuous"
) -> Iterator[LLM]:
    """The engine that the options ask for, as long as the block lasts."""
    from engine import LLM

    given = {name: getattr(arguments, name) for name in ("max_num_batched_tokens", "kv_cache_bytes")}
    with (
        Progress(quiet=arguments.quiet) as progress,
        LLM(
            model=arguments.model or arguments.random_weights,
            load_format="dummy" if arguments.random_weights else "auto",
            device=arguments.device,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            batching=batching,
            enable_prefix_caching=False,  # or a second run would find the first one's keys and values
            enforce_eager=arguments.enforce_eager,
            deterministic=arguments.deterministic,
            seed=arguments.seed,
            progress=progress,
            **{name: value for name, value in given.items() if value is not None},
        ) as llm,
    ):
        yield llm
