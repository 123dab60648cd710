"""What views read off an event: where it belongs, what ran on the device for it, how close that is to the limit.

bindings/trace.py says what is in an event; unrolled.py makes those of the kernels inside a graph launch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from bindings.trace import Event

COPIES = {
    "cuMemcpyHtoDAsync": ("dstDevice", "srcHost"),
    "cuMemcpyDtoHAsync": ("dstHost", "srcDevice"),
    "cuMemcpyDtoDAsync": ("dstDevice", "srcDevice"),
}

# Errors that are answers: the API has no other way to say that a kernel has no further parameter.
EXPECTED = {("cuFuncGetParamInfo", "CUDA_ERROR_INVALID_VALUE")}

# FLOPs for each byte from which on arithmetic is taken to be the limit, where the device's rates are not known: GPUs
# since Volta reach theirs at 100 to 300.
BALANCE = 100

# What a view takes for no overlap: by the time stamps of a GPU (CUPTI's, on an H100) a kernel may begin up to 0.6 us
# before the one ahead of it on its stream has ended.
RESOLUTION_US = 1.0

_LAYER = re.compile(r"layers\.\d+\.")


class Place(NamedTuple):
    """What a label says: the step and its kind, and the layer; None and "" where it names none."""

    step: int | None
    kind: str
    layer: int | None


@lru_cache(maxsize=4096)
def place(label: str) -> Place:
    """The place that a label names."""
    step, kind, layer = None, "", None
    parts = label.split(" / ")
    for i, part in enumerate(parts):
        word, _, number = part.partition(" ")
        if word == "step" and number.isdecimal():
            step, kind = int(number), parts[i + 1] if i + 1 < len(parts) else ""
        elif word == "layer" and number.isdecimal():
            layer = int(number)
    return Place(step, kind, layer)


def buffer_of(tensor: str) -> str:
    """The buffer's name in a spelled tensor: "activations.qkv+0x40:bf16[5, 960]" -> "activations.qkv"."""
    return tensor.rpartition(":")[0].partition("+")[0]


def shape_of(tensor: str) -> str:
    """The dtype and shape in a spelled tensor: "activations.qkv:bf16[5, 960]" -> "bf16[5, 960]"."""
    return tensor.rpartition(":")[2]


def is_product(event: Event) -> bool:
    """Whether the call is a matrix product."""
    return str(event.get("op", "")).startswith("gemm")


def product_role(event: Event) -> str:
    """Which product of the model this is, by the matrix that it multiplies with: "qkv", "gate_up", "embed" ..."""
    return buffer_of(event["tensors"]["b"]).removesuffix(".weight").rpartition(".")[2]


def failure(event: Event) -> str:
    """The error of a call that failed; "" for one that did not, or whose error is only an answer."""
    return "" if event["result"] == "ok" or (event["call"], event["result"]) in EXPECTED else str(event["result"])


def work_name(event: Event) -> str:
    """A name for the work of a launch, product or copy that is the same in all layers; "" for calls without work."""
    if is_product(event):
        return f"{event['op']} {_LAYER.sub('layers.*.', buffer_of(event['tensors']['b']))}"
    if "kernel" in event:
        return str(event["kernel"])
    if event["call"] in COPIES:
        return f"copy {event['call'][len('cuMemcpy') : -len('Async')]}"
    return "fill" if event["call"].startswith("cuMemset") else ""


Span = tuple[float, float]  # start and end, in microseconds


def spans(event: Event) -> list[Span]:
    """When the device worked for this call."""
    return [(activity["start_us"], activity["end_us"]) for activity in event.get("activities", ())]


def busy_us(work: Iterable[Span]) -> float:
    """How long at least one of them ran: their lengths, with what overlaps counted once."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(work):
        if end > until:
            total += end - max(start, until)
            until = end
    return total


def device_us(event: Event) -> float | None:
    """How long the device worked for this call; None where nothing ran or nobody timed it."""
    activities = event.get("activities")
    if not activities:
        return None
    if len(activities) == 1:
        return float(activities[0]["end_us"] - activities[0]["start_us"])
    return busy_us(spans(event))


class Limits(NamedTuple):
    """What the device can do at best: bytes read and FLOPs a second."""

    read_bytes: float
    flops: float

    @classmethod
    def of(cls, header: Mapping[str, Any]) -> Limits | None:
        """Those of a trace's header; None where nobody measured them."""
        rates = header.get("rates")
        return cls(rates["read_bytes"], rates["flops"]) if rates else None

    def floor_us(self, nbytes: float, flops: float) -> float:
        """The least time in which the device can move these bytes and do this arithmetic."""
        return max(nbytes / self.read_bytes, flops / self.flops) * 1e6

    def bound_by_arithmetic(self, nbytes: float, flops: float) -> bool:
        """Whether the arithmetic takes longer than the bytes."""
        return flops / self.flops > nbytes / self.read_bytes


class Speed(NamedTuple):
    """What was achieved: `per_second` of `unit` ("B" or "FLOP"), and the fraction of the limit where that is known."""

    per_second: float
    unit: str
    fraction: float | None


def speed(nbytes: float, flops: float | None, us: float, limits: Limits | None) -> Speed:
    """Work done in `us` of device time (above 0), in the terms that limit it. `flops` None: a copy or a fill."""
    if flops is None:  # its limit may be the bus to the host, which nobody measured
        return Speed(nbytes / us * 1e6, "B", None)
    arithmetic = limits.bound_by_arithmetic(nbytes, flops) if limits else flops > BALANCE * nbytes
    fraction = limits.floor_us(nbytes, flops) / us if limits else None
    return Speed(flops / us * 1e6, "FLOP", fraction) if arithmetic else Speed(nbytes / us * 1e6, "B", fraction)


def speed_of(event: Event, limits: Limits | None) -> Speed | None:
    """The speed of one call; None for a call that ran nothing, moved nothing, or was not timed."""
    us, nbytes = device_us(event), event.get("bytes")
    return speed(nbytes, event.get("flops"), us, limits) if us and nbytes else None
