"""Every intrinsic and every PTX wrapper of the CPU device against what a GPU made of the same kernel and inputs.

On a GPU (`--device cuda`) the same test compares that GPU with the one of the table.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bindings.cpu.kernel_source import SIMT_HEADERS
from bindings.device import Device
from tests.compiler.test_nvrtc_matrix import compile_log, parse_log
from tests.cpu_device.intrinsics.probe import Probe, run, source_of
from tests.cpu_device.intrinsics.table import PROBES, TABLE
from tests.source_tree import without_comments

CAPTURE = "on a machine with an NVIDIA GPU run: python -m tests.fixtures.capture_intrinsics"
LARGEST_TABLE = 300_000  # bytes: it lies in the repository

# Offered by the headers, and not probed: what they do is no value.
NO_VALUE = {
    "__threadfence_block": "orders memory",
    "__threadfence": "orders memory",
    "__threadfence_system": "orders memory",
    "__nanosleep": "takes time",
    "clock64": "tells time",
    "__trap": "ends the launch; tests/cpu_device/test_simt_reports.py",
    "assert": "ends the launch; tests/cpu_device/test_simt_reports.py",
    "smem_address": "an address",
    "__activemask": "tells which lanes happen to run together, of which CUDA promises nothing",
}
HEADERS = ("atomics", "bits", "half", "math", "memory", "ptx", "sync", "warp")


@pytest.fixture(scope="module")
def outputs(device: Device) -> dict[str, NDArray]:
    """What this device makes of every probe."""
    return run(device, PROBES)


def captured() -> dict[str, NDArray]:
    """The table."""
    if not TABLE.is_file():
        pytest.fail(f"{TABLE.name} is missing; {CAPTURE}", pytrace=False)
    with np.load(TABLE) as table:
        return dict(table)


@pytest.fixture(scope="module")
def table() -> dict[str, NDArray]:
    return captured()


def describe(probe: Probe, got: NDArray, expected: NDArray, wrong: NDArray) -> str:
    """How many outputs differ, and the first of them with its inputs."""
    first = int(wrong[0])
    inputs = [array.reshape(-1, probe.elements)[first // probe.outputs].tolist() for array in probe.inputs()[:1]]
    if probe.elements == 1:
        inputs = [array[first // probe.outputs].item() for array in probe.inputs()]
    return (
        f"{probe.name}: {len(wrong)} of {got.size} outputs differ, the first at {first}: got {got[first]!r}, "
        f"the GPU gave {expected[first]!r} for {inputs}"
    )


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_agrees_with_a_gpu(probe: Probe, outputs: dict[str, NDArray], table: dict[str, NDArray]) -> None:
    fingerprints = json.loads(str(table["about"]))["fingerprints"]
    assert fingerprints.get(probe.name) == probe.fingerprint(), f"the table is older than this probe; {CAPTURE}"
    got, expected = outputs[probe.name], table[probe.name]
    assert got.dtype == expected.dtype and got.shape == expected.shape
    agrees = probe.agrees(got, expected, probe.inputs())
    assert agrees.shape == got.shape
    assert agrees.all(), describe(probe, got, expected, np.flatnonzero(~agrees))


def test_the_table_says_where_it_comes_from(table: dict[str, NDArray]) -> None:
    about = json.loads(str(table["about"]))
    assert "NVIDIA" in about["device"] and about["arch"].startswith("sm_") and about["toolchain"].startswith("NVRTC")
    assert set(table) == {"about", *(probe.name for probe in PROBES)}
    assert TABLE.stat().st_size < LARGEST_TABLE


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_a_probe_can_fail(probe: Probe, outputs: dict[str, NDArray]) -> None:
    """Its own outputs agree with themselves, but not with one bit of theirs turned over; and they are not all zeros."""
    got = outputs[probe.name]
    assert probe.agrees(got, got.copy(), probe.inputs()).all()
    bits = np.dtype(f"u{got.itemsize}")
    wrong = (got.view(bits) ^ bits.type(1 << (8 * got.itemsize - 2))).view(got.dtype)  # the second highest
    assert not probe.agrees(got, wrong, probe.inputs()).all()
    assert got.view(bits).any()


def offered(header: str) -> set[str]:
    """The functions and macros that a header gives to kernels."""
    text = (SIMT_HEADERS / f"simt_{header}.h").read_text()
    own = r"^namespace simt \{.*?^\}  // namespace simt$"  # what the headers share among themselves
    text = without_comments(re.sub(own, "", text, flags=re.MULTILINE | re.DOTALL))
    functions = re.findall(r"^(?:\[\[\w+\]\] )?inline [\w :<>]*?\b(\w+)\(", text, flags=re.MULTILINE)
    return {*functions, *re.findall(r"^#define (\w+)", text, flags=re.MULTILINE)}


def test_every_function_of_the_headers_has_a_probe() -> None:
    words = set(re.findall(r"\w+", " ".join(probe.body for probe in PROBES)))
    found = {header: offered(header) for header in HEADERS}
    assert all(found.values()), found
    everything = set().union(*found.values())
    missing = everything - words - set(NO_VALUE)
    assert not missing, f"no probe in tests/cpu_device/intrinsics for: {', '.join(sorted(missing))}"
    assert set(NO_VALUE) <= everything, "a function that is not there any more"
    others = {path.stem.removeprefix("simt_") for path in SIMT_HEADERS.glob("simt_*.h")} - set(HEADERS)
    known = {"runtime", "language", "export", "checked", "inspect"}
    assert others == known, "a header of functions that HEADERS does not name"


def test_probes_have_names_of_their_own() -> None:
    for names in ([probe.name for probe in PROBES], [probe.entry for probe in PROBES]):
        assert max(Counter(names).values()) == 1, Counter(names).most_common(3)


@pytest.mark.needs_nvrtc
def test_the_probes_compile_for_a_gpu(tmp_path: Path) -> None:
    source = tmp_path / "intrinsics.cu"
    source.write_text(source_of(PROBES))
    usage = parse_log(compile_log(str(source), "sm_90a", ()))
    assert set(usage) == {probe.entry for probe in PROBES}
