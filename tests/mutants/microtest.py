"""Faults in tools.microtest: what would let a wrong kernel, or an impossible figure, pass."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_PURE = "tests/pure/test_microtest.py::test_"

MUTANTS = [
    Mutant(
        "microtest-believes-any-figure",
        "tools/microtest/ceiling.py",
        "    if found.fraction <= highest:\n",
        "    if found.fraction > 0:\n",
        "a time that no device can reach is reported as a result",
        f"{_PURE}more_than_the_ceiling_is_said_to_be_wrong_and_why",
    ),
    Mutant(
        "microtest-narrow-interval",
        "tools/microtest/paired.py",
        "    return Difference(*middle, changes[rank], changes[-1 - rank])\n",
        "    return Difference(*middle, changes[rank + 3], changes[-4 - rank])\n",
        "noise is taken for a difference",
        f"{_PURE}the_interval_has_the_coverage_that_it_claims",
    ),
    Mutant(
        "microtest-overlooks-what-may-not-be-written",
        "tools/microtest/correctness.py",
        "(written | kept) & (~masked",
        "(written | True) & (~masked",
        "a stray write is not the worst element",
        f"{_PURE}the_worst_element_counts_what_may_not_be_written",
    ),
    Mutant(
        "microtest-registers-by-the-warp",
        "tools/microtest/resources.py",
        "// per_warp // WARP_UNIT * WARP_UNIT // warps",
        "// per_warp // warps",
        "occupancy counts warps that the four quarters of a multiprocessor cannot share out",
        f"{_PURE}occupancy[64-33-0-24-by4]",
    ),
    Mutant(
        "microtest-launches-on-what-a-launch-left",
        "tools/microtest/timing.py",
        "        self.copies.restore()\n",
        "        pass\n",
        "a second launch finds its input changed, and has less to do",
        "tests/device/test_microtest_timing.py::test_a_sample_begins_with_the_first_values",
    ),
]
