"""Events as bindings/trace.py describes them, made without a device: a trace of a small model in a few lines."""

from __future__ import annotations

from typing import Any

from bindings.trace import Event

HEADER: Event = {
    "kind": "header",
    "version": 1,
    "command": "generate Hello",
    "device": {"kind": "cuda", "name": "Test GPU", "arch": "sm_90a", "sm_count": 132, "total_memory": 80_000_000_000},
    "clock": "cupti",
    "rates": {"read_bytes": 1e12, "flops": 100e12},  # a byte in a picosecond, a hundred FLOPs in one
    "started": "2026-01-01T00:00:00+00:00",
}


class Maker:
    """Numbers events, and lets 10 us of host time pass for each call and as much as is asked for on the device.

    Work of the device runs one after the other, from 5 us after its call on.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.now_us = self.device_us = 0.0

    def call(self, name: str, label: str = "", **more: Any) -> Event:
        """A call that gives the device nothing to do."""
        event = {
            "kind": "call", "n": len(self.events) + 1, "t_us": self.now_us, "call": name, "args": {}, "label": label,
            "site": "engine/llm.py:1", "host_us": 10.0, "result": "ok", **more,
        }  # fmt: skip
        self.now_us += 10
        self.events.append(event)
        return event

    def activity(self, event: Event, what: str, name: str, us: float, **more: Any) -> None:
        """`us` of device time for a call."""
        start = max(event["t_us"] + 5, self.device_us)
        self.device_us = start + us
        times = {"start_us": start, "end_us": start + us, "stream": "stream 1"}
        event.setdefault("activities", []).append({"what": what, "name": name, **times, **more})

    def launch(self, kernel: str, label: str = "", us: float | None = 20.0, layer: int = 0, **more: Any) -> Event:
        """A kernel of one input and one output; None: nobody timed it."""
        tensors = {"out": "activations.normed:bf16[5, 64]", "x": f"layers.{layer}.weight:bf16[5, 64]"}
        event = self.call(
            "cuLaunchKernel", label,
            **{
                "kernel": kernel, "op": kernel, "source": f"{kernel}.cu", "defines": {}, "tensors": tensors,
                "params": {"out": "activations.normed", "x": f"layers.{layer}.weight", "eps": "9.999999747378752e-06"},
                "roles": {"out": "out", "x": "in"}, "bytes": 2_000_000, "flops": 1_000_000, "grid": [5, 1, 1],
                "block": [96, 1, 1], "smem": 0, "registers": 32, "stream": "stream 1", **more,
            },
        )  # fmt: skip
        if us is not None and "captured" not in event:
            self.activity(event, "kernel", kernel, us)
        return event

    def product(
        self, weight: str, label: str = "", us: float | None = 40.0, transpose_b: bool = True, **more: Any
    ) -> Event:
        """out[5, 960] = a[5, 576] @ weight[960, 576]^T, or with weight[576, 960] as it is."""
        n, k = 960, 576
        stored, op, lda = ((n, k), "CUBLAS_OP_T", k) if transpose_b else ((k, n), "CUBLAS_OP_N", n)
        args = {
            "handle": "1", "transa": op, "transb": "CUBLAS_OP_N", "m": str(n), "n": "5", "k": str(k), "alpha": "1.0",
            "A": weight, "Atype": "CUDA_R_16BF", "lda": str(lda), "B": "activations.normed", "Btype": "CUDA_R_16BF",
            "ldb": str(k), "beta": "0.0", "C": "activations.qkv", "Ctype": "CUDA_R_16BF", "ldc": str(n),
        }  # fmt: skip
        tensors = {
            "out": f"activations.qkv:bf16[5, {n}]",
            "a": f"activations.normed:bf16[5, {k}]",
            "b": f"{weight}:bf16[{stored[0]}, {stored[1]}]",
        }
        event = self.call(
            "cublasGemmEx", label,
            **{
                "args": args, "op": "gemm", "tensors": tensors, "roles": {"out": "out", "a": "in", "b": "in"},
                "sizes": {"m": 5, "n": n, "k": k, "transpose_b": transpose_b}, "bytes": 2 * (5 * n + 5 * k + n * k),
                "flops": 2 * 5 * n * k, "stream": "stream 1", **more,
            },
        )  # fmt: skip
        if us is not None and "captured" not in event:
            self.activity(event, "product", "sm90_gemm", us)
        return event

    def copy(self, nbytes: int, label: str = "", us: float = 10.0) -> Event:
        """A copy from the host."""
        args = {"dstDevice": "step", "srcHost": "step.host.0", "ByteCount": str(nbytes), "hStream": "stream 1"}
        event = self.call("cuMemcpyHtoDAsync", label, args=args, bytes=nbytes, stream="stream 1")
        self.activity(event, "copy", "HtoD", us)
        return event

    def alloc(self, buffer: str, nbytes: int, free: bool = False, host: bool = False) -> Event:
        """An allocation, or its end."""
        name = ("cuMemFree" if free else "cuMemAlloc") if not host else ("cuMemFreeHost" if free else "cuMemHostAlloc")
        return self.call(name, buffer=buffer, nbytes=nbytes, site="engine/weights.py:1")

    def layer(self, index: int, step: str, us: float | None = 20.0, **more: Any) -> None:
        """A norm and a product."""
        label = f"{step} / layer {index} / attention"
        self.launch("rmsnorm", label, us, index, **more)
        self.product(f"layers.{index}.attention.qkv", label, None if us is None else 2 * us, **more)

    def step(self, number: int, kind: str = "decode", layers: int = 4, us: float | None = 20.0) -> None:
        """A copy, some layers, the choice of a token; and behind it the host waits."""
        label = f"step {number} / {kind}"
        self.copy(1024, label)
        for index in range(layers):
            self.layer(index, label, us)
        self.launch("argmax", f"{label} / sample", us)
        self.call("cuEventSynchronize", site="engine/runner.py:9")

    def captured_step(self, number: int, graph: int = 1, layers: int = 4) -> None:
        """A step that is captured, and launched as a graph."""
        label = f"step {number} / decode"
        self.call("cuStreamBeginCapture", label, stream="stream 1")
        for index in range(layers):
            self.layer(index, label, captured=graph)
        self.call("cuStreamEndCapture", label, stream="stream 1")
        self.graph_launch(number, graph)

    def graph_launch(self, number: int, graph: int = 1, us: float | None = 20.0) -> Event:
        """One launch of what was captured; each product takes two kernels, as cuBLAS may."""
        event = self.call("cuGraphLaunch", f"step {number} / decode", graph=graph, stream="stream 1")
        for call in [e for e in self.events if e.get("captured") == graph] if us is not None else ():
            self.activity(event, "product" if call["op"] == "gemm" else "kernel", call["call"], us, of=call["n"])
            if call["op"] == "gemm":
                self.activity(event, "product", "splitk_reduce", us, of=call["n"])
        return event


def note(number: int, **changes: Any) -> Event:
    """The note of a step in which nothing happens, with `changes`."""
    quiet = {"decodes": [], "prefills": [], "copies": [], "tables": {}, "preempted": [], "released": [], "cached": []}
    pool = {"num_pages": 40, "page_size": 16, "free": 40, "waiting": 0, "running": 0}
    return {"kind": "step", "t_us": 100.0 * number, "step": number, **quiet, **pool, **changes}


def feed(view: Any, events: list[Event], header: Event = HEADER) -> Any:
    """Let a view see a whole trace."""
    view.header(header)
    for event in events:
        view.call(event) if event["kind"] == "call" else view.note(event)
    view.close()
    return view
