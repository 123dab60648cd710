"""The debugger over a real engine: what it shows is what is there, and what it does leaves nothing behind."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bindings import calls
from bindings.device import Device
from bindings.dtypes import BF16, decode
from bindings.memory import memory_map
from bindings.trace import Event, recorder
from engine import LLM, SamplingParams
from engine.random_model import write_random_model
from tools.trace.debugger.console import Console
from tools.trace.debugger.session import Debugger, debugging
from tools.trace.terminal import Screen

PROMPTS = [list(range(1, 21)), [1, 2, 3]]
GREEDY = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)

# A session as a generator: it yields commands, and between them looks at what they have come to.
Script = Callable[["Run"], Iterator[str]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "toy"
    write_random_model("toy", folder)
    return folder


class Run:
    """The toy model answers PROMPTS while `script` holds it; `tokens` is what came out, None if it was ended."""

    def __init__(self, toy: Path, device: Device, script: Script, keep_graphs: bool = False) -> None:
        self.output, commands = io.StringIO(), script(self)
        self.debugger = Debugger(Console(commands, screen=Screen(self.output)))
        self.tokens: list[list[int]] | None = None
        with debugging(self.debugger, keep_graphs):
            self.tokens = answer(toy, device)
        assert next(commands, None) is None, "the program ended before the script did"

    def said(self) -> str:
        """What was said since this was last asked."""
        text = self.output.getvalue()
        self.output.seek(0)
        self.output.truncate()
        return text


def answer(toy: Path, device: Device) -> list[list[int]]:
    with LLM(model=str(toy), device=device.kind, max_model_len=64, max_num_seqs=2, kv_cache_bytes=1 << 20) as llm:
        outputs = llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def numbers(text: str) -> list[float]:
    """All numbers between the brackets of a printed array."""
    inside = text[text.index("\n[") + 1 : text.rindex("]") + 1]
    return [float(word) for word in re.findall(r"[-+.\w]+", inside)]


def test_stops_at_a_kernel_of_a_layer_and_shows_it(toy: Path, device: Device) -> None:
    def script(run: Run) -> Iterator[str]:
        yield "break op rope_kv_write if layer == 1 and step == 2"
        yield "continue"
        event = run.debugger.event
        assert event["label"] == "step 2 / decode / layer 1 / attention" and event["kernel"] == "rope_kv_write"
        said = run.said()
        assert re.search(r"^ +qkv +inout +activations\.qkv:bf16\[2, 10, 64\]$", said, re.MULTILINE)
        assert "grid 2 x 1 x 1, block 128 x 1 x 1" in said and "num_heads     6" in said
        assert re.search(r"^  >  \d+ +ops\.ROPE_KV_WRITE\($", said, re.MULTILINE)
        yield "where"
        assert re.search(r"#\d+ +engine/models/llama\.py:\d+ in _attention\n", run.said())
        yield "cu"
        assert re.search(r'^ +\d+  extern "C" __global__ void', run.said(), re.MULTILINE)
        yield "args"
        assert re.search(r"^ +gridDimX +2$", run.said(), re.MULTILINE)
        yield "explain"
        assert "rotate queries and keys by their positions" in " ".join(run.said().split())

    assert Run(toy, device, script).tokens == answer(toy, device)


def test_peek_shows_what_numpy_reads(toy: Path, device: Device) -> None:
    def script(run: Run) -> Iterator[str]:
        yield "tbreak op rope_kv_write if step == 2"
        yield "c"
        tensor = run.debugger.operands["qkv"]
        with recorder.ignoring():
            values = decode(tensor.numpy(), BF16)
        for command, expected in (
            ("peek qkv[0, 0, :8]", values[0, 0, :8]),
            ("peek qkv[-1, 2:4, ::16]", values[-1, 2:4, ::16]),
            ("peek activations.qkv[1, :3, 0]", values[1, :3, 0]),
            ("peek activations.qkv:bf16[20, 64][3, :4]", values.reshape(20, 64)[3, :4]),
        ):
            run.said()
            yield command
            shown = numbers(run.said())
            np.testing.assert_allclose(shown, expected.ravel(), rtol=1e-4, atol=1e-5)  # five digits are shown
        yield "stat qkv"
        said = run.said()
        assert f"min {values.min():.4g}  max {values.max():.4g}" in said and "NaN 0  Inf 0" in said
        yield "hexdump qkv[1, 2]"
        shown_bytes = re.search(r"\+0000  ([\da-f ]+?)  ", run.said())
        assert shown_bytes and bytes.fromhex(shown_bytes[1]) == values_bits(values[1, 2, :4]).tobytes()
        yield "diff qkv"
        yield "out"
        yield "diff qkv"
        assert re.search(r"\d+ of 1,280 values have changed, by ", run.said())

    assert Run(toy, device, script).tokens == answer(toy, device)


def values_bits(values: NDArray) -> NDArray:
    """bf16 values as their bits."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def test_out_shows_what_the_call_has_written(toy: Path, device: Device) -> None:
    def script(run: Run) -> Iterator[str]:
        yield "tbreak op silu_mul; c; out"
        yield "here"
        with recorder.ignoring():
            gated = decode(run.debugger.operands["out"].numpy(), BF16)
        assert f"min {gated.min():.4g}  max {gated.max():.4g}" in run.said()
        assert run.debugger.has_returned

    Run(toy, device, script)


def kv_bytes() -> tuple[int, NDArray[np.uint8]]:
    """Where the buffer of all pages begins, and its bytes."""
    ((address, nbytes, _),) = [one for one in memory_map.live() if one[2] == "kv_pages"]
    return address, np.empty(nbytes, np.uint8)


@pytest.mark.parametrize("layer", [0, 1])
def test_kv_says_where_the_kernel_writes(toy: Path, device: Device, layer: int) -> None:
    """Against the bytes that change when rope_kv_write runs in a decode step: one row a head, of keys and of values."""

    def script(run: Run) -> Iterator[str]:
        yield f"tbreak op rope_kv_write if step == 3 and layer == {layer}"
        yield "c"
        address, before = kv_bytes()
        after = before.copy()
        pages = run.debugger.operands["k_cache"].buffer.device
        with recorder.ignoring():
            pages.copy_out(before, address)
        yield "out"
        with recorder.ignoring():
            pages.copy_out(after, address)
        changed = np.flatnonzero(before != after) + address
        for request, token in run.debugger.pool.step["decodes"]:
            run.said()
            yield f"kv {token} request {request}"
            said = run.said()
            rows = [int(one, 16) for one in re.findall(r"head 0 at kv_pages\+0x[\da-f]+ = (0x[\da-f]+)", said)]
            assert len(rows) == 2
            assert f"kv_pages[{2 * layer}, " in said and f"kv_pages[{2 * layer + 1}, " in said
            for row in rows:
                heads = [range(row + head * 16 * 64 * 2, row + head * 16 * 64 * 2 + 128) for head in range(2)]
                assert all(any(one in head for one in changed.tolist()) for head in heads)
                changed = np.array([one for one in changed.tolist() if not any(one in head for head in heads)])
            with recorder.ignoring():
                slots = run.debugger.operands["slot_mapping"].numpy()
            assert int(re.findall(r"slot   = .* = (\d+)", said)[0]) in slots.tolist()
            plane, page, offset = map(int, re.findall(r"kv_pages\[(\d+), (\d+), head, (\d+)\]", said)[1])
            shown = numbers(said[said.index("V head 0 =") :].replace("= [", "\n[").replace("...", ""))
            yield f"peek kv_pages[{plane}, {page}, 0, {offset}, :6]"
            assert numbers(run.said()) == pytest.approx(shown[:6], rel=1e-4)
        assert not changed.size, "the kernel has written where kv names no row"

    Run(toy, device, script)


def test_the_pages_are_those_of_the_cache(toy: Path, device: Device) -> None:
    def script(run: Run) -> Iterator[str]:
        yield "pages"
        assert "has not begun a step" in run.said()
        yield "step; batch"
        assert "request 0 prefills: its tokens 0 to 19" in run.said()
        yield "table 0; kv 17"
        tables = run.debugger.pool.tables
        said = run.said()
        assert f"table[1] = page {tables[0][1]}" in said and "no call has used kv_pages yet" in said
        yield "pages"
        assert re.search(r"^ +0  001\.+$", run.said(), re.MULTILINE)
        yield "kv 40; table 7"
        assert "no request 7 holds pages; those that do: 0, 1" in run.said()
        yield "tbreak op rope_kv_write; c; kv 40"
        assert "request 0 has pages for tokens 0 to 31, not for 40" in run.said()
        yield "kv 17; kv 17 layer 1"
        assert re.search(r"this call writes the token.*rope_kv_write of layer 1 writes", run.said(), re.DOTALL)
        yield "out; kv 17"
        assert "this step computes the token: rope_kv_write of layer 0 writes" in run.said()
        yield "kv 25"
        assert "no step has computed this token yet" in run.said()
        yield "kv 3 layer 9"
        assert "the model has layers 0 to 1, not 9" in run.said()
        yield "memory"
        assert re.search(r"^  KV pages: 1 buffer, ", run.said(), re.MULTILINE)

    Run(toy, device, script)


def test_kernels_are_launched_one_by_one_unless_graphs_are_kept(toy: Path, device: Device) -> None:
    kept = Run(toy, device, in_a_graph, keep_graphs=True)
    assert kept.tokens == answer(toy, device)
    assert kept.debugger.breakpoints and not recorder.wants_eager


def in_a_graph(run: Run) -> Iterator[str]:
    yield "break call cuGraphLaunch; tbreak op rope_kv_write if step == 3; tbreak call cuStreamBeginCapture"
    run.said()
    yield "c; peek activations.qkv[0, 0, :2]"
    assert len(numbers(run.said())) == 2
    yield "out; peek activations.qkv[0]"
    assert "cannot read device memory now" in run.said()
    yield "c"
    assert "captured into graph" in run.said() and recorder.capturing
    yield "peek qkv[0, 0, :4]"
    assert "cannot read device memory now: the stream is being captured into a graph" in run.said()
    yield "out"
    assert "cannot read device memory now" in run.said()
    yield "tbreak call cuStreamEndCapture; c; peek activations.qkv[0]"
    assert "cannot read device memory now" in run.said()
    yield "out; peek activations.qkv[0, 0, :2]"
    assert len(numbers(run.said())) == 2
    yield "c"
    assert "no call at which to stop among them" in run.said()


@pytest.mark.parametrize(
    "where", ["until 1", "until 3", "step", "until 60", "tbreak op silu_mul", "tbreak call cuMemAlloc"]
)
@pytest.mark.parametrize("how", ["quit", "out; quit"])
@pytest.mark.parametrize("keep_graphs", [False, True])
def test_quit_leaves_nothing_behind(toy: Path, device: Device, where: str, how: str, keep_graphs: bool) -> None:
    def script(run: Run) -> Iterator[str]:
        yield where if where != "until 1" else "here"
        if where.startswith("tbreak"):
            yield "c"
        yield how

    before = memory_map.live()
    run = Run(toy, device, script, keep_graphs)
    assert run.tokens is None
    assert memory_map.live() == before and not recorder.labels and not recorder.active


def test_nothing_is_read_after_an_error_that_killed_the_context(
    toy: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(run: Run) -> Iterator[str]:
        yield "tbreak op silu_mul; c"
        run.said()
        with monkeypatch.context() as patch:
            patch.setattr(calls, "sticky_errors", calls.sticky_errors + 1)
            yield "peek gate_up[0]"
        assert "cannot read device memory any more: an error has killed the context" in run.said()

    Run(toy, device, script)


def test_buffers_that_no_call_has_shown_can_be_read_with_a_type(toy: Path, device: Device) -> None:
    def script(run: Run) -> Iterator[str]:
        yield "peek embed:bf16[2, 4]"
        assert "no buffer is called embed" in run.said()
        yield "tbreak op rmsnorm; c; peek layers.1.mlp.gate_up"
        assert "give dtype and shape, as in peek layers.1.mlp.gate_up:bf16[2, 8]" in run.said()
        yield "peek layers.1.mlp.gate_up:bf16[512, 128][511, -4:]"
        assert len(numbers(run.said())) == 4
        yield "peek layers.1.mlp.gate_up:bf16[513, 128][0]"
        assert "does not fit: its buffer ends 131,072 bytes from there" in run.said()
        yield "peek layers.1.mlp.gate_up+0x1fffe:bf16[1]; peek layers.1.mlp.gate_up+0x1fffe:bf16[2]"
        assert "+0x1fffe:bf16[1]\n[" in (said := run.said()) and "ends 2 bytes from there" in said
        yield "peek out:f32[20, 64]; peek activations.normed:bf16[1000000]"
        assert "activations.normed:f32[20, 64]\n[[" in (said := run.said()) and "does not fit" in said
        yield "peek out[0, 128]"
        assert "index 128 is out of bounds for axis 1 with size 128" in run.said()
        yield "peek layers.1.mlp.gateup"
        assert "nothing is called layers.1.mlp.gateup; nearest: layers.1.mlp.gate_up; this call has out" in run.said()

    Run(toy, device, script)


def test_the_recorder_hears_nothing_of_what_is_looked_at(toy: Path, device: Device) -> None:
    class Keeper:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def before(self, event: Event) -> None:
            self.calls.append(event["call"])

        def after(self, event: Event) -> None:
            """Only what is made matters."""

        def note(self, note: Event) -> None:
            """Only calls matter."""

    def curious(run: Run) -> Iterator[str]:
        yield "tbreak op silu_mul; c; peek out[0]; stat gate_up; out; diff out; c"

    def incurious(run: Run) -> Iterator[str]:
        yield "c"

    heard = []
    for script in (curious, incurious):
        keeper = Keeper()
        with recorder.listening(keeper):
            Run(toy, device, script)
        heard.append(keeper.calls)
    assert heard[0] == heard[1]


def trace(repository: Path, *options: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """The real command, over the toy model."""
    return subprocess.run(
        [sys.executable, "-m", "tools.trace", *options],
        cwd=repository, input=text, capture_output=True, text=True, timeout=240,
        env={**os.environ, "CUTAWAY_CPU_LEAKS": "report"},
    )  # fmt: skip


def test_commands_from_a_pipe_and_the_end_of_them(repository: Path, toy: Path, device: Device) -> None:
    generate = [
        "generate",
        "--device",
        device.kind,
        "--model",
        str(toy),
        "--raw",
        "--ignore-eos",
        "--max-tokens",
        "2",
        "ab",
    ]
    piped = trace(repository, "--pause", "--break", "layer 1", *generate, text="args\n\nnosuch\nstat residual\n")
    assert piped.returncode == 0, piped.stderr
    assert "breakpoint 1: layer 1" in piped.stdout and "no command is called 'nosuch'" in piped.stdout
    assert len(re.findall(r"^before \d+> ", piped.stdout, re.MULTILINE)) == 3 and "2 new tokens" in piped.stderr
    quitted = trace(repository, "--pause", "-x", "step; n 5; out; quit", *generate)
    assert quitted.returncode == 0 and "after " in quitted.stdout
    assert "leaked" not in quitted.stderr and "interrupted" not in quitted.stderr and "Traceback" not in quitted.stderr
    assert "new tokens" not in quitted.stderr
    wrong = trace(repository, "--break", "layer 1", *generate)
    assert wrong.returncode == 2 and wrong.stderr == "cutaway trace: error: --break is for --pause, which is missing\n"
