"""What a comparison comes to, in three lines: where the sides part, by how much and who is off, what to run next."""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf
from pathlib import Path

from tools.bisect.lockstep import Outcome, Pair, Tie
from tools.bisect.messages import Operation
from tools.bisect.place import Place
from tools.bisect.recording import RECORDED
from tools.bisect.tally import Tally, shown_name

Kernels = dict[str, Path | None]  # the folder of each side's kernels, "a" and "b", where it has its own


@dataclass(frozen=True)
class Parting:
    """The worst element of the first operation whose results part.

    exact, exact_of_a: what float64 gives from side b's inputs, and from side a's; None where nobody knows.
    """

    operation: Operation
    output: str
    tensor: str
    index: str
    a: float
    b: float
    tolerance: float
    exact: float | None
    exact_of_a: float | None
    wrong: int
    elements: int
    suspects: list[Operation]
    recorded: str  # the name of the recorded values; "" of an engine's

    @property
    def inputs_differ(self) -> bool:
        """Whether the sides did not start from the same: what nobody compares, a weight or a table, is another one."""
        if self.exact is None or self.exact_of_a is None:
            return False
        return abs(self.exact - self.exact_of_a) > self.tolerance / 2

    @property
    def culprit(self) -> str:
        """ "a", "b" or "inputs": what is off. Where float64 does not say it, side b, which is the one looked at."""
        if self.inputs_differ:
            return "inputs"
        is_a = self.exact is not None and abs(self.b - self.exact) < abs(self.a - self.exact)  # NaN is close to nothing
        return "a" if is_a else "b"


def parting(outcome: Outcome) -> Parting | None:
    """Where the sides parted; None where they agree."""
    pair, explanation = outcome.parted, outcome.explanation
    if pair is None or explanation is None:
        return None
    name, operation = pair.worst, pair.b
    comparison = pair.comparisons[name]
    assert comparison.worst is not None, "what parts differs somewhere"
    worst, tensor = comparison.worst, shown_name(name, operation.outputs[name])
    recorded = pair.a.outputs[name].tensor if pair.a.op == RECORDED else ""
    numbers = worst.a, worst.b, worst.tolerance, explanation.exact, outcome.exact_of_a
    counts = comparison.parted, comparison.elements
    return Parting(operation, name, tensor, explanation.place, *numbers, *counts, _suspects(pair, outcome), recorded)


def _suspects(pair: Pair, outcome: Outcome) -> list[Operation]:
    """What may have made the difference: of a recording all since the last recorded values."""
    return outcome.suspects if pair.a.op == RECORDED else [pair.b]


def verdict(outcome: Outcome, tally: Tally, kernels: Kernels) -> list[str]:
    """Where the sides part, or that they do not."""
    found = parting(outcome)
    if found is not None:
        return _told(found, kernels)
    closest = max(tally, key=lambda row: row.share)
    until = " up to where it was to stop" if outcome.stopped else ""
    line = f"the sides agree{until}: {tally.operations:,} operations, {tally.elements:,} values"
    if not tally.differing or closest.where is None:
        return [f"{line}, the same bit for bit"]
    name = f"{closest.op} ({closest.part}, {closest.output})"
    where = spell_place(closest.where)
    return [f"{line}, within tolerance; closest to it: {name} with {percent(closest.share)} in {where}"]


def _told(found: Parting, kernels: Kernels) -> list[str]:
    """A line to grep for, and what belongs to it, a fact a line."""
    operation = found.operation
    kind = f"kernel {operation.kernel} of {operation.source}" if operation.kernel else "a matrix product"
    allowed = f"they may differ by {found.tolerance:.3g}" if found.tolerance else "they must be equal"
    facts = {
        "called": f"{operation.site}, {kind}",
        "recorded": f"as {found.recorded}" if found.recorded else "",
        "off": f"{found.wrong:,} of {found.elements:,} values; the worst is {found.output}{found.index}",
        "there": f"{found.a:.6g} in a, {found.b:.6g} in b; {allowed}",
        "float64": _exact(found),
        "next": _advice(found, kernels),
    }
    where = f"the sides part in {operation.label or 'loading'}, at {operation.op}, output {found.tensor}"
    return [where, *(f"  {name:10}{text}" for name, text in facts.items() if text)]


def _exact(found: Parting) -> str:
    if found.exact is None:
        return ""
    if found.inputs_differ:
        return f"{found.exact_of_a:.6g} from what a reads, {found.exact:.6g} from what b reads: the inputs differ"
    return f"{found.exact:.6g}: {found.culprit} is the one that is off"


def _advice(found: Parting, kernels: Kernels) -> str:
    """What to run or read now."""
    if len(found.suspects) > 1:
        names = ", ".join(_short(operation) for operation in found.suspects)
        return f"any of {names} made it: test each, or hold this side against another engine"
    if found.inputs_differ:
        return "look at what this operation reads beside activations, which were equal: a weight, or a table"
    operation, folder = found.operation, kernels[found.culprit]
    command = f"python -m tools.microtest {operation.op}"
    return f"{command} --file {folder / operation.source}" if folder is not None and operation.source else command


def _short(operation: Operation) -> str:
    names = [shown_name(name, output) for name, output in operation.outputs.items()]
    return operation.op if operation.kernel else f"{operation.op} ({', '.join(names)})"


def ties(found: list[Tie], free: bool) -> list[str]:
    """A line for each row in which the sides would choose different tokens."""
    why = (
        ""
        if free
        else ", and their logits lie within tolerance: either is right, and the texts of two free runs may part"
    )
    return [f"{tie.label}, row {tie.row}: a's likeliest token is {tie.a}, b's {tie.b}{why}" for tie in found]


def percent(share: float) -> str:
    """A share of a tolerance: `37 %`, `12,300 times`."""
    if isinf(share):
        return "beyond any tolerance"
    return f"{share * 100:.0f} %" if share < 10 else f"{share:,.0f} times"


def spell_place(place: Place) -> str:
    """`step 2, layer 3`."""
    words = [f"step {place.step}"] if place.step else ["loading"]
    return ", ".join(words + ([] if place.layer is None else [f"layer {place.layer}"]))
