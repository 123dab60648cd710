"""How long a kernel takes on the device.

Launches are captured as one graph and timed by events around it: a launch from Python takes the host longer than most
kernels take the device. A launch of a step finds its inputs in device memory, not in the cache that the launch before
filled: so the graph goes over copies of the inputs that are together several times as large as the cache.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from types import SimpleNamespace

from numpy.typing import NDArray

from bindings.device import Device, Event, Graph
from bindings.errors import CudaError
from bindings.tensor import Tensor
from engine.spec import Op
from tools.microtest.inputs import SHARED, arrays_for, indices_for, scalars_for, shape_of
from tools.microtest.products import Product
from tools.microtest.shapes import Workload

COLD_FACTOR = 4  # all copies against the L2 cache: caches are not exactly least-recently-used
MOST_COPIES = 256  # tiny inputs would ask for thousands; they stay in the cache then, and the report says so
COPIES_SHARE = 4  # of the free memory, one part in so many may go to copies
SAMPLES = {"cuda": 20, "cpu": 7}
SAMPLE_SECONDS = {"cuda": 2e-3, "cpu": 2e-2}  # a sample of this length is long against the clock's steps


@dataclass(frozen=True)
class Timing:
    """What a kernel took.

    seconds: median of the samples, for one launch; samples: seconds a launch, one number each graph launch; copies of
    the inputs, each of so many `copy_bytes` (those that a launch moves); cache_bytes: the device's L2, 0 if unknown.
    """

    workload: Workload
    samples: tuple[float, ...]
    copies: int
    copy_bytes: int
    cache_bytes: int

    @property
    def seconds(self) -> float:
        """Median seconds of a launch."""
        return statistics.median(self.samples)

    @property
    def cold(self) -> bool | None:
        """Whether inputs come from device memory: the copies are larger than the cache. None: no cache is known."""
        return self.copies * self.copy_bytes >= 2 * self.cache_bytes if self.cache_bytes else None


class Copies:
    """A kernel's inputs and outputs on the device, as many times as it takes for launches not to meet in the cache.

    A kernel that changes an input would find it changed at its next launch, and might have less to do: such inputs are
    kept as they were, too, and restored.
    """

    def __init__(self, device: Device, op: Op, workload: Workload) -> None:
        self.device, self.op, self.workload = device, op, workload
        self.copy_bytes = op.bytes(SimpleNamespace(**workload.symbols))
        self.cache_bytes = device.attribute("L2_CACHE_SIZE")
        self.shared = SHARED.get(op.entry, ())
        self.tensors: list[dict[str, Tensor]] = []
        self.pristine: dict[str, Tensor] = {}
        self._allocate()

    def __len__(self) -> int:
        return len(self.tensors)

    def _allocate(self) -> None:
        first = arrays_for(self.op, self.workload.symbols)
        for arg in self.op.tensors:
            if arg.role == "inout" and arg.name not in self.shared:
                self.pristine[arg.name] = self.device.upload(first[arg.name], arg.dtype, f"pristine.{arg.name}")
        self._add(first)
        for copy in range(1, self._wanted()):
            self._add(indices_for(self.op, self.workload.symbols, copy))

    def _wanted(self) -> int:
        """How many copies make the inputs cold, as far as there is memory for them."""
        one = sum(tensor.nbytes for name, tensor in self.tensors[0].items() if name not in self.shared)
        room = self.device.memory_info()[0] // COPIES_SHARE // max(one, 1)
        cold = -(-COLD_FACTOR * self.cache_bytes // max(self.copy_bytes, 1))
        return max(1, min(cold, MOST_COPIES, room))

    def _add(self, arrays: dict[str, NDArray]) -> None:
        tensors = {}
        for arg in self.op.tensors:
            if self.tensors and arg.name in self.shared:
                tensors[arg.name] = self.tensors[0][arg.name]
            elif arg.role == "out":
                tensors[arg.name] = self.device.empty(shape_of(arg, self.workload.symbols), arg.dtype, arg.name)
            elif arg.name in arrays:
                tensors[arg.name] = self.device.upload(arrays[arg.name], arg.dtype, arg.name)
            else:
                tensors[arg.name] = self._copied(self.tensors[0][arg.name])
        self.tensors.append(tensors)

    def _copied(self, source: Tensor) -> Tensor:
        """The same numbers once more, without the way over the host."""
        target = self.device.empty(source.shape, source.dtype, source.name)
        self.device.copy_on_device(target.address, source.address, source.nbytes, self.device.stream)
        return target

    def launch(self, op: Op, number: int) -> None:
        """Launch `op`, one with these arguments, on the copy whose turn it is."""
        scalars = scalars_for(op, self.workload.symbols)
        op(self.device.stream, **self.tensors[number % len(self)], **scalars)

    def restore(self) -> None:
        """Give every input that a launch changes its first values back."""
        for tensors in self.tensors:
            for name, source in self.pristine.items():
                self.device.copy_on_device(tensors[name].address, source.address, source.nbytes, self.device.stream)

    def timing(self, samples: Sequence[float]) -> Timing:
        """These samples, and what they were taken on."""
        return Timing(self.workload, tuple(samples), len(self), self.copy_bytes, self.cache_bytes)

    def close(self) -> None:
        """Free all of it."""
        for tensor in [*self.pristine.values(), *(tensor for copy in self.tensors for tensor in copy.values())]:
            tensor.free()  # a shared one again and again, which does nothing
        self.tensors, self.pristine = [], {}

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(CudaError) if sys.exc_info()[0] else nullcontext():  # the first error is the one to tell
            self.close()


class Launches:
    """A kernel on copies of its inputs, captured as one graph: what a sample is taken of."""

    def __init__(self, copies: Copies, op: Op, count: int = 0) -> None:
        """`count`: launches in the graph; without it as many as make a sample long enough to be timed."""
        self.copies, self.op, self.stream = copies, op, copies.device.stream
        if isinstance(op, Product):
            op.prepare(copies.device, self.stream)
        copies.launch(op, 0)  # compiles and loads, which no capture may
        copies.device.synchronize()
        self.start, self.end = Event(), Event()
        self.count = count or len(copies)
        self.graph = self._captured()
        self.sample()
        if not count:
            self._lengthen()

    def _captured(self) -> Graph:
        with self.stream.capture() as graph:
            for number in range(self.count):
                self.copies.launch(self.op, number)
        return graph

    def _lengthen(self) -> None:
        """More launches a graph, until a sample is long against the clock's steps; each copy that changes has one."""
        taken = self.sample() * self.count
        times = math.ceil(SAMPLE_SECONDS[self.copies.device.kind] / max(taken, 1e-7))
        times = min(times, MOST_COPIES // len(self.copies))
        if times > 1 and not self.copies.pristine:
            self.graph.close()
            self.count *= times
            self.graph = self._captured()
            self.sample()

    def sample(self) -> float:
        """Seconds of one launch, as the mean over one launch of the graph."""
        self.copies.restore()
        self.stream.record(self.start)
        self.graph.launch(self.stream)
        self.stream.record(self.end)
        self.end.synchronize()
        return self.end.milliseconds_since(self.start) / 1e3 / self.count

    def close(self) -> None:
        """Free the graph and the events."""
        self.graph.close()
        self.start.close()
        self.end.close()

    def __enter__(self) -> Launches:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(CudaError) if sys.exc_info()[0] else nullcontext():
            self.close()


def launch_seconds(device: Device) -> float:
    """What a launch in a graph takes by itself: that of a kernel with one block and a single token to look at."""
    from engine.ops import FEED_TOKENS

    return time_kernel(device, FEED_TOKENS, Workload("one token", {"T": 1, "C": 1})).seconds


def time_kernel(device: Device, op: Op, workload: Workload) -> Timing:
    """Time `op` on a workload; a second or less on a GPU."""
    with Copies(device, op, workload) as copies, Launches(copies, op) as launches:
        return copies.timing([launches.sample() for _ in range(SAMPLES[device.kind])])
