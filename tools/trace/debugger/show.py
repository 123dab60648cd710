"""What is shown of a call: where it is, its arguments by name, the Python that made it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bindings.trace import Event
from tools.trace.debugger.source import python_lines
from tools.trace.memory import PINNED, owner
from tools.trace.spelling import number
from tools.trace.units import counted

Paint = Callable[[str, str], str]

AROUND = 2  # lines of Python on both sides
LARGEST = 5  # buffers of an owner that `memory` names


def heading(event: Event, paint: Paint) -> str:
    """`call 412  cuLaunchKernel rmsnorm  step 1 / prefill / layer 3`."""
    what = event.get("kernel") or event.get("op") or event.get("buffer") or ""
    name = f"{event['call']} {what}".strip()
    place = event["label"] or "outside of any step"
    return f"call {event['n']}  {paint(name, 'bold')}  {paint(place, 'call')}"


def call(event: Event, paint: Paint, width: int | None) -> list[str]:
    """All that a stop shows below its heading."""
    return [*geometry(event), *short_arguments(event), *remarks(event), *python(event["site"], AROUND, paint, width)]


def geometry(event: Event) -> list[str]:
    """The launch's, or a product's sizes."""
    if "grid" in event:
        grid, block = (" x ".join(map(str, event[key])) for key in ("grid", "block"))
        needs = f"{event['smem']} bytes shared" + (f", {event['registers']} registers" if event["registers"] else "")
        return [f"  {event['source']}: grid {grid}, block {block}, {needs}, {event['stream']}"]
    if "sizes" in event:
        m, n, k, transposed = (event["sizes"][key] for key in ("m", "n", "k", "transpose_b"))
        b = f"b[{n}, {k}]^T" if transposed else f"b[{k}, {n}]"
        return [f"  out[{m}, {n}] = a[{m}, {k}] @ {b}, row-major, {event['stream']}"]
    return []


def short_arguments(event: Event) -> list[str]:
    """Operands and scalars by name; of a call that has none, the API's own arguments."""
    return _columns(_operands(event) or list(event["args"].items()))


def _operands(event: Event) -> list[tuple[str, str]]:
    tensors, roles = event.get("tensors", {}), event.get("roles", {})
    operands = [(name, f"{roles[name]:<6} {tensor}") for name, tensor in tensors.items()]
    scalars = [(name, number(value)) for name, value in event.get("params", {}).items() if name not in tensors]
    return operands + scalars


def all_arguments(event: Event) -> list[str]:
    """What the API is given, then what a person calls it, and what it costs."""
    lines = [event["call"], *_columns(event["args"].items())]
    if _operands(event):
        lines += [event.get("kernel") or f"{event['op']}, row-major", *_columns(_operands(event))]
    if event.get("defines"):
        lines += ["compiled with", *_columns(event["defines"].items())]
    costs = [(key, f"{event[key]:,}") for key in ("bytes", "flops", "nbytes") if key in event]
    return lines + (["must move and compute at least", *_columns(costs)] if costs else [])


def _columns(pairs: Iterable[tuple[str, Any]]) -> list[str]:
    listed = list(pairs)
    width = max((len(name) for name, _ in listed), default=0)
    return [f"    {name:<{width}}  {value}" for name, value in listed]


def remarks(event: Event) -> list[str]:
    """What is not what it looks like: work that is only recorded, and work that is done without a call."""
    if "captured" in event:
        return [f"  captured into graph {event['captured']}: this records the work, and nothing runs before its launch"]
    if event.get("replayed"):
        return ["  usually replayed from a graph, without this call: it is made for you to stop at (see --graphs)"]
    if event["call"] == "cuGraphLaunch":
        return [
            "  the device runs the graph's kernels on its own: there is no call at which to stop among them",
            "  (without --graphs the engine launches every kernel by a call of its own)",
        ]
    return []


def python(site: str, around: int, paint: Paint, width: int | None) -> list[str]:
    """The line that made the call and `around` lines on both sides, cut to `width` columns."""
    lines = [f"  {paint(site, 'call')}"]
    for line_number, text, is_here in python_lines(site, around):
        line = f"  {'>' if is_here else ' '} {line_number:>4}  {text}"[:width]
        lines.append(paint(line, "time" if is_here else "dim"))
    return lines


def memory(live: Sequence[tuple[int, int, str]]) -> list[str]:
    """Live buffers (address, bytes, name) by owner: how many, how large, and the largest of each."""
    owners: dict[str, list[tuple[int, str]]] = {}
    for _, nbytes, name in live:
        whose = PINNED if ".host" in name else owner(name)
        owners.setdefault(whose, []).append((nbytes, name))
    lines = [f"{len(live)} buffers, {sum(nbytes for _, nbytes, _ in live):,} bytes"]
    for whose, buffers in sorted(owners.items(), key=lambda item: -sum(nbytes for nbytes, _ in item[1])):
        total = sum(nbytes for nbytes, _ in buffers)
        lines.append(f"  {whose}: {counted(len(buffers), 'buffer')}, {total:,} bytes")
        lines += _largest(buffers)
    return lines


def _largest(buffers: list[tuple[int, str]]) -> list[str]:
    ordered = sorted(buffers, reverse=True)
    lines = [f"    {nbytes:>15,}  {name}" for nbytes, name in ordered[:LARGEST]]
    left = ordered[LARGEST:]
    return lines + ([f"    {sum(n for n, _ in left):>15,}  in {len(left)} smaller"] if left else [])
