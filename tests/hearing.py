"""A listener that keeps what it hears, and a launch for it to hear of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bindings.device import Device
from bindings.dtypes import BF16
from bindings.trace import Event
from engine import ops


class Keeper:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.begun: list[Event] = []
        self.calls: list[Event] = []
        self.notes: list[Event] = []

    def before(self, event: Event) -> None:
        self.begun.append(event)

    def after(self, event: Event) -> None:
        self.calls.append(event)

    def note(self, note: Event) -> None:
        self.notes.append(note)


def launch(device: Device, tensors: Any) -> None:
    x, weight, _, out = tensors
    ops.RMSNORM(device.stream, out=out, x=x, weight=weight, eps=1e-5)


@contextmanager
def norm_tensors(device: Device) -> Iterator[Any]:
    """x, weight, another matrix and out of a norm whose kernel is compiled and loaded."""
    made = [device.upload(np.ones(shape), BF16, name) for name, shape in (("x", (4, 64)), ("w", (64,)), ("b", (8, 64)))]
    out = device.empty((4, 64), BF16, "out")
    launch(device, (*made, out))
    yield (*made, out)
    for tensor in (*made, out):
        tensor.free()
