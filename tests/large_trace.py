"""A made-up trace of any size, in the form of a real one: what a page of a long run has to carry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tools.trace.recording import Recording

Record = dict[str, Any]

HEADER: Record = {
    "kind": "header",
    "version": 1,
    "command": "bench throughput --random-weights llama-3.2-1b",
    "device": {"kind": "cuda", "name": "Made-up GPU", "arch": "sm_90", "sm_count": 132, "total_memory": 85_000_000_000},
    "clock": "cupti",
    "rates": {"read_bytes": 3.0e12, "flops": 7.9e14},
    "started": "2026-01-02T03:04:05+00:00",
}
OPERATIONS = {  # of a layer: microseconds, in which part
    "add_rmsnorm": (3.0, "attention"),
    "gemm": (9.0, "attention"),
    "rope_kv_write": (2.5, "attention"),
    "decode_attention": (14.0, "attention"),
    "silu_mul": (3.5, "mlp"),
}
SOURCES = {"add_rmsnorm": "rmsnorm.cu"}


def header(**changes: Any) -> Record:
    """HEADER with `changes`."""
    return HEADER | changes


def call(n: int, t_us: float, name: str, label: str = "", host_us: float = 2.0, **fields: Any) -> Record:
    """A call that went well."""
    return {
        "kind": "call", "n": n, "t_us": t_us, "call": name, "args": {}, "label": label,
        "site": "engine/models/llama.py:160", "host_us": host_us, "result": "ok", **fields,
    }  # fmt: skip


def launch(n: int, t_us: float, op: str, label: str, start_us: float, took_us: float, **fields: Any) -> Record:
    """A kernel's launch, and its run on the device."""
    ran = {"what": "kernel", "name": op, "start_us": start_us, "end_us": start_us + took_us, "stream": "stream 1"}
    return call(
        n, t_us, "cuLaunchKernel", label, op=op, kernel=op, source=SOURCES.get(op, f"{op}.cu"),
        params={"out": "activations.normed", "hidden": "2048"}, tensors={"out": "activations.normed:bf16[4, 2048]"},
        roles={"out": "out"}, defines={"BLOCK_THREADS": 256}, bytes=65536, flops=131072, grid=[4, 1, 1],
        block=[256, 1, 1], smem=0, registers=40, stream="stream 1", activities=[ran], **fields,
    )  # fmt: skip


def product(n: int, t_us: float, label: str, start_us: float, took_us: float) -> Record:
    """A linear layer's matrix product, out[4, 3072] = a[4, 2048] @ b[3072, 2048]^T, and its run."""
    ran = {"what": "product", "name": "sgemm", "start_us": start_us, "end_us": start_us + took_us, "stream": "stream 1"}
    args = {"transa": "CUBLAS_OP_T", "m": "3072", "n": "4", "k": "2048", "lda": "2048", "ldb": "2048", "ldc": "3072"}
    tensors = {"out": "activations.qkv:bf16[4, 3072]", "a": "activations.normed:bf16[4, 2048]"}
    return call(
        n, t_us, "cublasGemmEx", label, op="gemm", tensors=tensors | {"b": "layers.0.attention.qkv:bf16[3072, 2048]"},
        roles={"out": "out", "a": "in", "b": "in"}, sizes={"m": 4, "n": 3072, "k": 2048, "transpose_b": True},
        bytes=12_623_872, flops=50_331_648, stream="stream 1", activities=[ran],
    ) | {"args": args}  # fmt: skip


def step_note(step: int, t_us: float, **changes: Any) -> Record:
    """A step of one decoding sequence that holds page `step // 16` and those before it."""
    fields = {"decodes": [[0, step]], "prefills": [], "copies": [], "tables": {}, "released": [], "preempted": []}
    pool = {"num_pages": 64, "page_size": 16, "free": 60, "cached": [], "waiting": 0, "running": 1}
    return {"kind": "step", "t_us": t_us, "step": step} | fields | pool | changes


def large_trace(num_layers: int = 16, num_steps: int = 640) -> Recording:
    """Steps of eager decoding: about 10 calls and activities a layer and step."""
    return Recording(header(), list(_steps(num_layers, num_steps)))


def _steps(num_layers: int, num_steps: int) -> Iterator[Record]:
    n, host, device = 0, 100.0, 110.0
    for step in range(num_steps):
        yield step_note(step, host, tables={"0": list(range(step // 16 + 1))})
        for layer in range(num_layers):
            for op, (took, part) in OPERATIONS.items():
                n += 1
                label = f"step {step} / decode / layer {layer} / {part}"
                device = max(device, host + 4.0)
                times = (label, device, took)
                yield product(n, host, *times) if op == "gemm" else launch(n, host, op, *times)
                host, device = host + 5.0, device + took + 0.8
        host = max(host, device)
