"""How fast, and how far from the hardware's limit: times are commands, never tests.

python -m tools.bench decode --shape llama-3.2-1b
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tools import cli
from tools.progress import Progress

if TYPE_CHECKING:
    from engine import LLM

EXAMPLES = """\
  python -m tools.bench decode                            # the default model, one token at a time
  python -m tools.bench decode --shape llama-3.2-1b       # random weights of that shape: no download
  python -m tools.bench prefill --tokens 100              # time of one prompt
  python -m tools.bench load --shape llama-3.2-1b         # from the page cache to the device
  python -m tools.bench door                              # what checking every driver call costs
"""

Figures = dict[str, "float | int | str"]


def make_parser() -> cli.Parser:
    parser = cli.Parser("bench", "Time the engine against the floor that the hardware sets.", EXAMPLES)
    parser.add_argument("what", choices=("decode", "prefill", "load", "door"), help="what to time")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", help="a Hugging Face folder or a .gguf file (default: the default model)")
    model.add_argument("--shape", metavar="NAME", help="random weights: llama-3.2-1b, smollm2-135m or toy")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="sequences at once (default: 1)")
    parser.add_argument("--tokens", type=int, default=100, metavar="N", help="prompt tokens (default: 100)")
    parser.add_argument("--steps", type=int, default=128, metavar="N", help="decode steps to time (default: 128)")
    parser.add_argument("--eager", action="store_true", help="launch kernels one by one: no graph")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    cli.add_common_options(parser)
    return parser


@contextmanager
def model_path(arguments: argparse.Namespace) -> Iterator[str | None]:
    """The model to time: --model, or a random one of --shape that lasts as long as the block."""
    if arguments.shape is None:
        yield arguments.model
        return
    from engine.random_model import write_random_model

    with tempfile.TemporaryDirectory(prefix="cutaway-bench-") as folder:
        write_random_model(arguments.shape, Path(folder) / arguments.shape)
        yield str(Path(folder) / arguments.shape)


@contextmanager
def loaded(arguments: argparse.Namespace, model: str | None) -> Iterator[LLM]:
    from engine import LLM

    length = arguments.tokens + arguments.steps + 1
    with (
        Progress(quiet=arguments.quiet) as progress,
        LLM(
            model=model,
            device=arguments.device,
            max_model_len=length,
            max_num_seqs=arguments.batch,
            enable_prefix_caching=False,  # or a second round would find the first one's keys and values
            enforce_eager=arguments.eager or arguments.what == "door",
            progress=progress,
        ) as llm,
    ):
        yield llm


def prompts_of(llm: LLM, batch: int, tokens: int) -> list[list[int]]:
    """Prompts of distinct ids, so that no two rows of a batch are alike."""
    vocab = llm.config.vocab_size
    return [[(17 * i + 7919 * s + 1) % vocab for i in range(tokens)] for s in range(batch)]


def step_times(llm: LLM, arguments: argparse.Namespace) -> tuple[float, list[float]]:
    """Seconds of the prefill, and of each decode step, of one batch."""
    from engine import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=arguments.steps + 1, ignore_eos=True)
    prompts = prompts_of(llm, arguments.batch, arguments.tokens)
    times, last = [], time.perf_counter()
    for event in llm.stream(prompts, params):
        if event.index == arguments.batch - 1:
            now = time.perf_counter()
            times.append(now - last)
            last = now
    return times[0], times[1:]


def read_bandwidth(llm: LLM, nbytes: int = 1 << 28) -> float:
    """Bytes a second of a device-to-device copy, counting what is read and what is written."""
    from bindings.calls import driver

    source, target = llm.device.alloc(nbytes, "bench.source"), llm.device.alloc(nbytes, "bench.target")
    stream, seconds = llm.device.stream, []
    for _ in range(5):
        stream.synchronize()
        start = time.perf_counter()
        for _ in range(8):
            driver.cuMemcpyDtoDAsync(target.address, source.address, nbytes, stream.handle)
        stream.synchronize()
        seconds.append((time.perf_counter() - start) / 8)
    source.free()
    target.free()
    return 2 * nbytes / statistics.median(seconds)


def bench_decode(arguments: argparse.Namespace) -> Figures:
    """Median time of a decode step, against reading every weight and every key and value once."""
    with model_path(arguments) as model, loaded(arguments, model) as llm:
        step_times(llm, arguments)  # compiles, captures and warms up
        _, steps = step_times(llm, arguments)
        median = statistics.median(steps)
        context = arguments.tokens + arguments.steps / 2
        nbytes = llm.weight_bytes + arguments.batch * context * llm.kv_bytes_per_token
        bandwidth = read_bandwidth(llm)
        floor = nbytes / bandwidth
        return {
            "device": llm.device.name,
            "ms_per_step": 1e3 * median,
            "tokens_per_second": arguments.batch / median,
            "bytes_per_step": int(nbytes),
            "bandwidth_GB_per_s": bandwidth / 1e9,
            "floor_ms": 1e3 * floor,
            "time_over_floor": median / floor,
        }


def bench_prefill(arguments: argparse.Namespace) -> Figures:
    """Time of the prompts' prefill, warm."""
    with model_path(arguments) as model, loaded(arguments, model) as llm:
        arguments.steps = 0  # a sequence that decodes would share, and so delay, the steps of the prompts after it
        seconds = statistics.median(step_times(llm, arguments)[0] for _ in range(4))
        tokens = arguments.batch * arguments.tokens
        return {"device": llm.device.name, "seconds": seconds, "tokens_per_second": tokens / seconds}


def bench_load(arguments: argparse.Namespace) -> Figures:
    """Time from the page cache to weights on the device, file opening included."""
    from bindings.device import Device
    from engine.checkpoint import open_checkpoint
    from engine.model_files import resolve_model
    from engine.progress import silent
    from engine.weights import load_weights

    with model_path(arguments) as model, Device.open(arguments.device) as device:
        path = resolve_model(model, silent)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            with open_checkpoint(path) as checkpoint:
                weights = load_weights(device, checkpoint, silent)
            times.append(time.perf_counter() - start)
            nbytes = weights.nbytes
            weights.free()
        best = min(times)
        return {"device": device.name, "seconds": best, "bytes": nbytes, "GB_per_s": nbytes / best / 1e9}


def bench_door(arguments: argparse.Namespace) -> Figures:
    """Host cost of going through bindings/calls.py: extra time a call, times the calls of an eager decode step."""
    from bindings import calls
    from bindings.backend import entry_point

    with model_path(arguments) as model, loaded(arguments, model) as llm:
        step_times(llm, arguments)
        calls_per_step = count_calls(llm, arguments)
        _, steps = step_times(llm, arguments)
        through, straight = calls.driver.cuCtxGetCurrent, entry_point("driver", "cuCtxGetCurrent")
        extra = max(seconds_per_call(through) - seconds_per_call(straight), 0.0)
        step = statistics.median(steps)
        return {
            "device": llm.device.name,
            "calls_per_step": calls_per_step,
            "door_ns_per_call": 1e9 * extra,
            "eager_step_ms": 1e3 * step,
            "door_share_percent": 100 * extra * calls_per_step / step,
        }


def count_calls(llm: LLM, arguments: argparse.Namespace) -> int:
    """Driver and cuBLAS calls of one decode step, read off a trace."""
    from bindings.trace import record_to

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        with record_to(path):
            step_times(llm, arguments)
        labels = [json.loads(line)["label"] for line in path.read_text().splitlines()]
    decode = [label for label in labels if " / decode" in label]
    return len(decode) // arguments.steps


def seconds_per_call(function: object, repeats: int = 200_000) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            function()  # type: ignore[operator]
        best = min(best, time.perf_counter() - start)
    return best / repeats


BENCHES = {"decode": bench_decode, "prefill": bench_prefill, "load": bench_load, "door": bench_door}


def body(arguments: argparse.Namespace) -> None:
    figures = BENCHES[arguments.what](arguments)
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        shown = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
        print(f"{name.replace('_', ' '):24} {shown}")


def main() -> int:
    return cli.run(make_parser(), body)


if __name__ == "__main__":
    sys.exit(main())
