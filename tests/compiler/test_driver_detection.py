"""What is said of a driver that cannot be used: cuda.bindings loads a fake libcuda.so.1, as it does the real one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bindings.cpu.host_compiler import find_compiler
from bindings.toolkit import bindings_version, cuda_major

SOURCE = Path(__file__).with_name("fake_driver.cpp")
ENOUGH = 1000 * cuda_major()
VERSION = bindings_version()
TOO_OLD = f"too old for cuda-bindings {VERSION}"
UPDATE = {12: "update the driver to 525 or newer", 13: "update the driver to 580 or newer"}[cuda_major()]

# (FAKE_VERSION, FAKE_INIT, FAKE_COUNT), and the reason and the remedy.
ANSWERS = {
    "no GPU": ((ENOUGH, 100, 0), "the NVIDIA driver answers CUDA_ERROR_NO_DEVICE", "see what nvidia-smi lists"),
    "none counted": ((ENOUGH, 0, 0), "the NVIDIA driver answers CUDA_ERROR_NO_DEVICE", "see what nvidia-smi lists"),
    "mismatch": (
        (ENOUGH, 803, 0),
        "the NVIDIA driver answers CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        "the driver library does not match the kernel module: reboot after an update",
    ),
    "compat": (
        (ENOUGH + 40, 804, 0),
        "the NVIDIA driver answers CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        "take CUDA's compat folder off LD_LIBRARY_PATH",
    ),
    "unknown": ((ENOUGH, 999, 0), "the NVIDIA driver answers CUDA_ERROR_UNKNOWN", "see what nvidia-smi says"),
}


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a libcuda.so.1: a current one, and one from before CUDA 12."""
    folders = {}
    for name, flags in (("current", []), ("before 12", ["-DBEFORE_CUDA_12"])):
        folders[name] = tmp_path_factory.mktemp("driver")
        target = folders[name] / "libcuda.so.1"
        command = [*find_compiler().command, "-shared", "-fPIC", *flags, str(SOURCE), "-o", str(target)]
        subprocess.run(command, check=True)
    return folders


def environment(folder: Path, version: int, init: int, count: int) -> dict[str, str]:
    settings = {"FAKE_VERSION": version, "FAKE_INIT": init, "FAKE_COUNT": count}
    kept = {name: value for name, value in os.environ.items() if name != "CUTAWAY_DEVICE"}
    return kept | {name: str(value) for name, value in settings.items()} | {"LD_LIBRARY_PATH": str(folder)}


def selected(repository: Path, folder: Path, *answers: int, kind: str = "auto") -> str:
    """What selecting a backend comes to under that driver: its kind and why, or the error."""
    code = (
        "from bindings.backend import select; from bindings.errors import DeviceError\n"
        f"try: chosen = select({kind!r}); print(chosen.kind, '|', chosen.why)\n"
        "except DeviceError as error: print('error |', error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, env=environment(folder, *answers)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


@pytest.mark.parametrize("name", ANSWERS)
def test_a_driver_without_a_usable_gpu(name: str, drivers: dict[str, Path], repository: Path) -> None:
    answers, reason, remedy = ANSWERS[name]
    assert selected(repository, drivers["current"], *answers).startswith(f"cpu | {reason}; {remedy}")
    line = selected(repository, drivers["current"], *answers, kind="cuda")
    assert line.startswith(f"error | --device cuda: {reason}; {remedy}") and line.endswith("run with --device cpu")
    assert "\n" not in line


def test_a_gpu_is_taken(drivers: dict[str, Path], repository: Path) -> None:
    assert selected(repository, drivers["current"], ENOUGH, 0, 1) == "cuda | "
    assert selected(repository, drivers["current"], 14010, 0, 1) == "cuda | "


def test_a_driver_of_an_older_cuda_version_names_both_and_the_remedy(
    drivers: dict[str, Path], repository: Path
) -> None:
    line = selected(repository, drivers["current"], 12040, 0, 1, kind="cuda")
    if cuda_major() == 12:
        assert line == "cuda | "
    else:
        assert line == (
            f"error | --device cuda: the NVIDIA driver is for CUDA 12.4, {TOO_OLD}; "
            f'run: pip install -e ".[cuda12]" (or {UPDATE}), or run with --device cpu'
        )


def test_a_driver_from_before_cuda_12(drivers: dict[str, Path], repository: Path) -> None:
    line = selected(repository, drivers["before 12"], 11080, 0, 1)
    assert line == f"cpu | the NVIDIA driver is older than CUDA 12.0 (or the toolkit's stub), {TOO_OLD}; {UPDATE}"
    line = selected(repository, drivers["current"], 11080, 0, 1)
    assert line == f"cpu | the NVIDIA driver is for CUDA 11.8, {TOO_OLD}; {UPDATE}"


def test_a_tool_ends_with_that_line(drivers: dict[str, Path], repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.generate", "--device", "cuda", "Hello"],
        capture_output=True,
        text=True,
        cwd=repository,
        env=environment(drivers["current"], ENOUGH, 803, 0),
    )
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("cutaway generate: error: --device cuda: the NVIDIA driver answers CUDA_ERROR_SYSTEM")
