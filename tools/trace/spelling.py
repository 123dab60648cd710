"""One call in words: its title, and its arguments as a person reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bindings.trace import Event
from tools.trace.events import COPIES, is_product, product_role
from tools.trace.units import amount, counted

# Of cuBLAS's arguments, where space is short: the types stand in the tensors, and the rest never changes.
ASKED = ("transa", "transb", "m", "n", "k", "A", "lda", "B", "ldb", "C", "ldc")


def title(event: Event) -> tuple[str, str]:
    """The API's name, or that the work is a graph's; and the kernel, product or number of the graph."""
    call = f"in graph {event['graph']}" if event["kind"] == "replayed" else event["call"]
    if is_product(event):
        return call, product_role(event)
    return call, event.get("kernel", "")


def arguments(event: Event, whole: bool = True) -> list[str]:
    """The arguments in pieces that a line may be broken between; not `whole`: those of a product that say something."""
    return [piece for piece in _arguments(event, whole) if piece]


def _arguments(event: Event, whole: bool) -> list[str]:
    if is_product(event):
        return [*product_words(event), *_product_call(event, whole)]
    if "kernel" in event:
        return _launch(event)
    if event["call"] in COPIES:
        return _copy(event)
    return _SPECIAL.get(event["call"], _plain)(event)


def _launch(event: Event) -> list[str]:
    tensors = event.get("tensors", {})
    named = [f"{name}={tensors.get(name) or number(value)}" for name, value in event["params"].items()]
    geometry = [f"grid {extent(event['grid'])},", f"block {extent(event['block'])},"]
    shared = [f"{amount(event['smem'])} shared,"] if event.get("smem") else []
    return [*named, *geometry, *shared, event.get("stream", "")]


def extent(sizes: Sequence[int]) -> str:
    """A grid or a block without the ones at its end: [9, 3, 1] -> "9x3"."""
    kept = list(sizes)
    while len(kept) > 1 and kept[-1] == 1:
        kept.pop()
    return "x".join(map(str, kept))


def number(spelled: str) -> str:
    """A float32 argument in the digits that float32 has: "9.999999747378752e-06" -> "1e-05"; all else as it is."""
    try:
        return f"{float(spelled):.7g}" if len(spelled) > 8 and ("." in spelled or "e" in spelled) else spelled
    except ValueError:
        return spelled


def product_words(event: Event) -> list[str]:
    """What a product computes, row-major: out[M, N] = a[M, K] @ b[N, K]^T, with the tensors' own names."""
    tensors = event["tensors"]
    transposed = "^T" if event["sizes"]["transpose_b"] else ""
    return [tensors["out"], f"= {tensors['a']}", f"@ {tensors['b']}{transposed};"]


def _product_call(event: Event, whole: bool) -> list[str]:
    """As cuBLAS was asked: the API's own argument names."""
    args = event["args"]
    return ["asked:", *(f"{name}={args[name]}" for name in (args if whole else ASKED) if name in args)]


def _copy(event: Event) -> list[str]:
    target, source = (event["args"].get(name, "?") for name in COPIES[event["call"]])
    return [f"{target} <-", f"{source},", f"{amount(_nbytes(event))},", event.get("stream", "")]


def _nbytes(event: Event) -> int:
    return int(event.get("bytes") or event["args"].get("ByteCount") or event["args"].get("N") or 0)


def _fill(event: Event) -> list[str]:
    where, byte = event["args"].get("dstDevice", "?"), event["args"].get("uc", "?")
    return [f"{where}:", f"{amount(_nbytes(event))} of", f"{byte},", event.get("stream", "")]


def _memory(event: Event) -> list[str]:
    return [f"{event['buffer']},", amount(event["nbytes"])] if "buffer" in event else _plain(event)


def _graph_launch(event: Event) -> list[str]:
    work = [a for a in event.get("activities", ()) if a["what"] in ("kernel", "product")]
    inside = [f"= {counted(len(work), 'kernel')},"] if work else []
    how = ["timed in an eager replay,"] if any(a.get("replayed") for a in work) else []
    return [f"graph {event['graph']}", *inside, *how, event.get("stream", "")] if "graph" in event else _plain(event)


def _plain(event: Event) -> list[str]:
    return [f"{name}={value}" for name, value in event.get("args", {}).items()]


_SPECIAL: dict[str, Callable[[Event], list[str]]] = {
    "cuMemAlloc": _memory,
    "cuMemFree": _memory,
    "cuMemHostAlloc": _memory,
    "cuMemFreeHost": _memory,
    "cuMemsetD8Async": _fill,
    "cuGraphLaunch": _graph_launch,
}
