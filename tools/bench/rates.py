"""What this device can do at best: bytes read a second, and multiplications and additions of a large matrix product."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bindings.cublas import Blas
    from bindings.device import Device

COPY_BYTES = 1 << 28
ROW = 1 << 17  # float32 elements of a row that one block reads
ROWS_PER_SM = 4
LARGEST_PRODUCT = 8192
VERSION = 2  # of how the rates are measured: a new one makes what was remembered worthless
LONG_ENOUGH = 20e-3  # seconds: a product that takes this long shows the device's rate, not the cost of a launch
SAMPLE = 2e-3  # seconds: shorter products are timed as many in a row as take this long


@dataclass(frozen=True)
class Rates:
    """Bytes read a second, FLOPs a second in bf16."""

    read_bytes: float
    flops: float


def measure(device: Device) -> Rates:
    """Measure both; a second or two. Takes some 600 MB of the device for that long."""
    return Rates(max(copy_rate(device), kernel_read_rate(device)), product_rate(device))


def known(device: Device, again: bool = False, tell: Callable[[], None] = lambda: None) -> Rates:
    """The rates of this device: measured once, then remembered in the cache directory; `again` measures anew.

    Remembered by the device's name, the driver's version and VERSION. `tell` is called before measuring, which takes a
    while. Raises CacheError when the cache can't be written.
    """
    file = _file(device.kind, device.name, device.driver_version)
    found = None if again else _read(file)
    if found is None:
        tell()
        found = measure(device)
        _write(file, found)
    return found


def remembered(kind: str, name: str, driver_version: int) -> Rates | None:
    """The rates of a device that is known by these, as `known` remembers them; None before they were measured."""
    return _read(_file(kind, name, driver_version))


def _file(kind: str, name: str, driver_version: int) -> Path:
    from bindings.cache_directory import cache_directory

    key = json.dumps([name, driver_version, VERSION])
    return cache_directory("rates") / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _read(file: Path) -> Rates | None:
    """None where there is no such file, or one that holds no rates."""
    try:
        rates = Rates(**json.loads(file.read_text()))
        usable = all(0 < rate < math.inf for rate in (rates.read_bytes, rates.flops))
    except (OSError, ValueError, TypeError):
        return None
    return rates if usable else None


def _write(file: Path, rates: Rates) -> None:
    from bindings.aside import aside

    with aside(file.parent) as scratch:
        (scratch / file.name).write_text(json.dumps(asdict(rates)))
        os.replace(scratch / file.name, file)


def seconds_of(device: Device, work: Callable[[], None], times: int = 1) -> float:
    """Device time of `work`, which gives something to the stream: the best of three, each `times` in a row."""
    from bindings.device import Event

    work()
    start, end, best = Event(), Event(), float("inf")
    for _ in range(3):
        device.stream.record(start)
        for _ in range(times):
            work()
        device.stream.record(end)
        end.synchronize()
        best = min(best, end.milliseconds_since(start) / 1e3 / times)
    start.close()
    end.close()
    return best


def copy_rate(device: Device) -> float:
    """Bytes a second of a device-to-device copy, counting what is read and what is written."""
    from bindings.calls import driver

    source, target = device.alloc(COPY_BYTES, "bench.source"), device.alloc(COPY_BYTES, "bench.target")

    def copy() -> None:
        driver.cuMemcpyDtoDAsync(target.address, source.address, COPY_BYTES, device.stream.handle)

    source.fill(1)
    seconds = seconds_of(device, copy, times=4)
    source.free()
    target.free()
    return 2 * COPY_BYTES / seconds


def kernel_read_rate(device: Device) -> float:
    """Bytes a second of a kernel that reads much and writes next to nothing: argmax of long rows."""
    from bindings.dtypes import F32, I32
    from engine import ops

    rows = ROWS_PER_SM * device.sm_count
    logits, token_ids = device.empty((rows, ROW), F32, "bench.rows"), device.empty((rows,), I32, "bench.argmax")
    logits.buffer.fill(0)
    seconds = seconds_of(device, lambda: ops.ARGMAX(device.stream, token_ids=token_ids, logits=logits), times=8)
    logits.free()
    token_ids.free()
    return logits.nbytes / seconds


def product_rate(device: Device) -> float:
    """FLOPs a second of the fastest of several large bf16 products, as large as it takes to last a while.

    The largest is not always the fastest: it draws so much power that the clock falls. Nor is the square one: a longer
    inner dimension has less to write for each multiplication.
    """
    from bindings.cublas import Blas

    blas, size, rate, lasts = Blas(device, device.stream), 256, 0.0, 0.0
    while size <= LARGEST_PRODUCT and lasts < LONG_ENOUGH:
        for side, inner in ((size // 2, 2 * size), (size, size)):
            lasts = _product_seconds(device, blas, side, inner)
            rate = max(rate, 2 * side**2 * inner / lasts)
        size *= 2
    blas.close()
    return rate


def _product_seconds(device: Device, blas: Blas, side: int, inner: int) -> float:
    """Seconds of one product of [side, inner] by [inner, side]: so many in a row that the events' own time is lost."""
    from bindings.dtypes import BF16
    from engine import ops

    out, a, b = (
        device.empty(shape, BF16, f"bench.{name}")
        for name, shape in (("out", (side, side)), ("a", (side, inner)), ("b", (side, inner)))
    )
    for number, matrix in enumerate((a, b)):  # random numbers: zeros would run faster
        flat = matrix.view(side * inner)
        ops.RANDOM_NORMAL(device.stream, out=flat, std=inner**-0.5, seed=0, subsequence=number)

    def product() -> None:
        blas.gemm(out, a, b, transpose_b=True)

    once = seconds_of(device, product)
    seconds = min(once, seconds_of(device, product, times=math.ceil(SAMPLE / once))) if once < SAMPLE else once
    for matrix in (out, a, b):
        matrix.free()
    return seconds
