"""What a kernel takes of a multiprocessor, and how many of its blocks fit on one.

Worked out from the device's attributes as NVIDIA's occupancy calculator does. The driver can be asked for the number
(cuOccupancyMaxActiveBlocksPerMultiprocessor), but not for what limits it.
"""

from __future__ import annotations

from dataclasses import dataclass

from bindings.device import Device
from engine.spec import Op
from tools.microtest.products import Product
from tools.microtest.shapes import Workload

# Units in which a multiprocessor hands out its registers (for a warp) and warps (over its four quarters), and shared
# memory. Source: CUDA occupancy calculator, compute capability 7.5 to 12.
REGISTER_UNIT = 256
WARP_UNIT = 4
SMEM_UNIT = {75: 256}
USUAL_SMEM_UNIT = 128


@dataclass(frozen=True)
class Multiprocessor:
    """What one multiprocessor has."""

    warps: int
    blocks: int
    registers: int
    smem: int
    smem_reserved: int
    smem_unit: int
    warp_size: int

    @classmethod
    def of(cls, device: Device) -> Multiprocessor:
        """As the driver tells."""
        warp = device.attribute("WARP_SIZE")
        return cls(
            warps=device.attribute("MAX_THREADS_PER_MULTIPROCESSOR") // warp,
            blocks=device.attribute("MAX_BLOCKS_PER_MULTIPROCESSOR"),
            registers=device.attribute("MAX_REGISTERS_PER_MULTIPROCESSOR"),
            smem=device.attribute("MAX_SHARED_MEMORY_PER_MULTIPROCESSOR"),
            smem_reserved=device.attribute("RESERVED_SHARED_MEMORY_PER_BLOCK"),
            smem_unit=SMEM_UNIT.get(device.capability, USUAL_SMEM_UNIT),
            warp_size=warp,
        )


@dataclass(frozen=True)
class Occupancy:
    """Blocks of a kernel that one multiprocessor runs at once, the share of its warps in use, and why no more."""

    blocks: int
    fraction: float
    limited_by: tuple[str, ...]


def occupancy(sm: Multiprocessor, threads: int, registers: int, smem: int) -> Occupancy:
    """For blocks of `threads`, each with `registers`, that take `smem` bytes of shared memory, static and dynamic."""
    warps = _round_up(threads, sm.warp_size) // sm.warp_size
    per_warp = _round_up(max(registers, 1) * sm.warp_size, REGISTER_UNIT)
    limits = {
        "warps": sm.warps // warps,
        "blocks": sm.blocks,
        "registers": sm.registers // per_warp // WARP_UNIT * WARP_UNIT // warps,
        "shared memory": sm.smem // max(_round_up(smem + sm.smem_reserved, sm.smem_unit), 1),
    }
    blocks = min(limits.values())
    by = tuple(name for name, limit in limits.items() if limit == blocks)
    return Occupancy(blocks, blocks * warps / sm.warps, by)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@dataclass(frozen=True)
class Resources:
    """Of one specialisation of a kernel. local_bytes: spilled registers and indexed arrays, for each thread.

    occupancy: None on the CPU device, where a worker thread runs one block at a time.
    """

    threads: int
    registers: int
    static_smem: int
    dynamic_smem: int
    local_bytes: int
    occupancy: Occupancy | None


def resources(device: Device, op: Op, workload: Workload) -> Resources | None:
    """What `op` takes at these sizes; None for a product, whose kernels are cuBLAS's."""
    if isinstance(op, Product):
        return None
    kernel = op.kernel(device, workload.symbols)
    launch = op.geometry(workload.symbols, device.max_dynamic_smem)
    fit = None
    if device.kind == "cuda":
        smem = kernel.static_smem + launch.smem
        fit = occupancy(Multiprocessor.of(device), launch.block, kernel.registers, smem)
    taken = (kernel.registers, kernel.static_smem, launch.smem, kernel.local_bytes)
    return Resources(launch.block, *taken, fit)
