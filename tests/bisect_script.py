"""Operations made by hand, and an engine that runs them from a list: for the tests of tools.bisect."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from bindings.dtypes import float32_to_bf16
from tools.bisect.messages import Done, Explanation, Operation, Output, Proceed

LABEL = "step 1 / prefill / layer 0 / mlp"


def f32(*values: float, **changes: Any) -> Output:
    return Output(np.array(values, np.float32), "f32", "activations.gated", **changes)


def bf16(values: Any, **changes: Any) -> Output:
    return Output(float32_to_bf16(np.asarray(values, np.float32)), "bf16", "activations.gated", **changes)


def operation(op: str = "silu_mul", label: str = LABEL, **outputs: Output) -> Operation:
    kernel = "" if op == "gemm" else op
    return Operation(op, kernel, f"{kernel}.cu" if kernel else "", label, "engine/models/llama.py:1", outputs)


class Script:
    """An engine that runs these operations, and keeps what it is told."""

    loaded = None

    def __init__(self, *operations: Operation) -> None:
        self.ahead: deque[Operation | Done] = deque([*operations, Done()])
        self.told: list[Proceed] = []
        self.exact = 1.0

    def next(self) -> Operation | Done:
        return self.ahead.popleft()

    def put_back(self, message: Operation | Done) -> None:
        self.ahead.appendleft(message)

    def proceed(self, message: Proceed) -> None:
        self.told.append(message)

    def explain(self, output: str, index: tuple[int, ...]) -> Explanation:
        return Explanation(str(list(index)), self.exact)
