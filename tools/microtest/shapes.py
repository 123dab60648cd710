"""At which shapes a kernel is timed: those of Llama-3.2-1B on a GPU, of a small model on the CPU device.

A workload is a step of the engine: it says how many tokens and sequences there are and how much they have behind them.
All other symbols of a spec come from the model, or follow from these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bindings.dtypes import FLOATS
from engine.ops import SPLIT_TOKENS
from engine.spec import Op, Symbols
from tools.cli import UsageError
from tools.microtest.inputs import require_consistent

Values = Mapping[str, int]

# H hidden size, NH query heads, NKV key/value heads, D head_dim, I MLP width, V vocabulary, B tokens a page, R
# positions of the rope table; LAYERS of the model.
MODELS: dict[str, Values] = {
    "cuda": {"H": 2048, "NH": 32, "NKV": 8, "D": 64, "I": 8192, "V": 128256, "B": 16, "R": 8192, "LAYERS": 16},
    "cpu": {"H": 576, "NH": 9, "NKV": 3, "D": 64, "I": 1536, "V": 4096, "B": 16, "R": 512, "LAYERS": 4},
}

# T tokens of the step, S sequences, CONTEXT tokens of each sequence, those of this step among them.
STEPS: dict[str, dict[str, Values]] = {
    "cuda": {
        "decode, batch 1": {"T": 1, "S": 1, "CONTEXT": 1024},
        "decode, batch 64": {"T": 64, "S": 64, "CONTEXT": 1024},
        "prefill 2048": {"T": 2048, "S": 1, "CONTEXT": 2048},
    },
    "cpu": {
        "decode, batch 1": {"T": 1, "S": 1, "CONTEXT": 96},
        "decode, batch 4": {"T": 4, "S": 4, "CONTEXT": 96},
        "prefill 64": {"T": 64, "S": 1, "CONTEXT": 64},
    },
}

# What no step tells, by entry: N or C, K and E mean something else to each.
OWN: dict[str, dict[str, Values]] = {
    "cuda": {
        "copy_pages": {"N": 64},
        "logprobs": {"N": 5},
        "random_normal": {"N": 1 << 24},
        "softmax": {"T": 2048, "N": 2048},
    },
    "cpu": {
        "copy_pages": {"N": 2},
        "logprobs": {"N": 5},
        "random_normal": {"N": 1 << 12},
        "softmax": {"T": 16, "N": 512},
    },
}

# The products of a layer, and the one with the vocabulary: (N, K) of each.
PRODUCTS: dict[str, Callable[[Values], tuple[int, int]]] = {
    "qkv": lambda m: ((m["NH"] + 2 * m["NKV"]) * m["D"], m["H"]),
    "output": lambda m: (m["H"], m["NH"] * m["D"]),
    "gate and up": lambda m: (2 * m["I"], m["H"]),
    "down": lambda m: (m["H"], m["I"]),
    "vocabulary": lambda m: (m["V"], m["H"]),
}


@dataclass(frozen=True)
class Workload:
    """A name, and the value of each symbol of one operation."""

    name: str
    symbols: Symbols

    def __str__(self) -> str:
        return " ".join(f"{symbol}={value}" for symbol, value in self.symbols.items())


def symbols_of(op: Op) -> list[str]:
    """The symbols of a spec, in the order in which it names them."""
    axes = [axis for arg in op.tensors for axis in arg.axes if axis.isidentifier()]
    return list(dict.fromkeys(axes + [extra.symbol for extra in op.extras]))


def workloads(op: Op, kind: str, given: Values | None = None) -> list[Workload]:
    """What `op` is timed on: each step that means something to it, or one with the symbols of `given` replaced.

    Raises UsageError for a symbol that the spec does not have, and for sizes that do not go together.
    """
    given = given or {}
    known = symbols_of(op)
    for symbol in given:
        if symbol not in known:
            raise UsageError(f"{op.name} has no symbol {symbol!r}; it has {', '.join(known)}")
    if op.entry == "gemm":
        found = _products(kind)
    else:
        model = {**MODELS[kind], **OWN[kind].get(op.entry, {})}
        found = [Workload(name, _complete(op, {**step, **model}, given)) for name, step in _steps(op, kind).items()]
    if given:
        asked = Workload("as asked", {**found[0].symbols, **given})
        require_consistent(op, asked.symbols)
        return [asked]
    first = {tuple(one.symbols.items()): one for one in reversed(found)}
    different = [one for one in found if first[tuple(one.symbols.items())] is one]
    return [Workload("every step", found[0].symbols)] if len(different) < len(found) == 3 else different


def _steps(op: Op, kind: str) -> dict[str, Values]:
    """The steps in which the engine runs `op`."""
    per_sequence = "S" in symbols_of(op) and "MAXQ" not in symbols_of(op)
    prefills = op.entry == "prefill_attention"
    return {
        name: step
        for name, step in STEPS[kind].items()
        if not (per_sequence and step["T"] > step["S"]) and not (prefills and step["T"] == step["S"])
    }


def _products(kind: str) -> list[Workload]:
    sizes = {name: of(MODELS[kind]) for name, of in PRODUCTS.items()}
    return [
        Workload(f"{name}, {step}", {"M": tokens["T"], "N": n, "K": k})
        for step, tokens in STEPS[kind].items()
        for name, (n, k) in sizes.items()
        if name != "vocabulary" or tokens["T"] == tokens["S"]  # of a prompt, the last token alone has logits
    ]


def _complete(op: Op, known: Values, given: Values) -> Symbols:
    """Every symbol of `op`: as given, as known, or as it follows from the others."""
    s = {**known, **given}
    longest = -(-s["T"] // s["S"])
    context = _context(s, given, longest if op.entry == "prefill_attention" else 1)
    pages = -(-context // s["B"])
    follows = {
        "M": pages,
        "P": s["S"] * s.get("M", pages) if op.entry != "copy_pages" else 2 * s["N"],
        "C": s["S"] if op.entry == "feed_tokens" else -(-context // SPLIT_TOKENS),
        "KV": s["S"] * context,
        "MAXQ": longest,
        "W": -(-s["V"] // 32),
        "K": 2 * s["LAYERS"] if op.entry == "copy_pages" else s["S"],
        "E": 32 * s["S"],
    }
    return {symbol: s.get(symbol, follows.get(symbol, 0)) for symbol in symbols_of(op)}


def _context(s: Values, given: Values, least: int) -> int:
    """Tokens of each sequence, as far as `given` says anything about it."""
    if "KV" in given:
        return given["KV"] // s["S"]
    return max(given["M"] * s["B"] if "M" in given else s["CONTEXT"], least)


def parse(text: str) -> dict[str, int]:
    """`T=512,H=2048` as a dictionary. Raises UsageError."""
    shape = {}
    for part in text.split(","):
        symbol, _, value = part.partition("=")
        if not symbol.isidentifier() or not value.isdecimal() or int(value) < 1:
            raise UsageError(f"--shape {part!r}: expected SYMBOL=SIZE,... as in T=512,H=2048")
        if symbol in shape:
            raise UsageError(f"--shape {text!r} says twice what {symbol} is")
        shape[symbol] = int(value)
    return shape


def require_dtype(op: Op, name: str) -> None:
    """Raise UsageError unless the kernel computes on elements of this type: what --dtype is for."""
    floats = {arg.dtype.name for arg in op.tensors if arg.dtype in FLOATS}
    taken = sorted(floats or {arg.dtype.name for arg in op.tensors})
    if name not in taken:
        raise UsageError(f"--dtype {name}: {op.name} takes {' and '.join(taken)} (engine/ops.py), and nothing else")
