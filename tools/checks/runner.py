"""Runs the probes, each in a process of its own: one that crashes or hangs takes nothing with it."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from tools.checks.check import Check, first_line

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_SECONDS = 60.0
PATIENCE_SECONDS = 1.0  # until a wait is told

# Area -> the function that looks at it (`module:function` of tools.checks), in the order of the table.
PROBES: Mapping[str, str] = {
    "packages": "packages:probe",
    "driver": "nvidia:driver",
    "device": "nvidia:device",
    "nvrtc": "nvidia:nvrtc",
    "cublas": "nvidia:cublas",
    "headers": "nvidia:headers",
    "compiler": "host:compiler",
    "cpu": "host:cpu",
    "kernel_cache": "caches:kernel_cache",
    "model_cache": "caches:model_cache",
    "environment": "variables:probe",
}

Waiting = Callable[[list[str]], None]


def answer(area: str) -> list[Check]:
    """What the probe of `area` finds, in this process. An exception of the probe's is a broken check."""
    module, _, function = PROBES[area].partition(":")
    try:
        checks: list[Check] = getattr(importlib.import_module(f"tools.checks.{module}"), function)()
        return checks
    except ModuleNotFoundError as error:
        return [Check(area, area, "broken", f"cannot be looked at: {first_line(error)}", fix="pip install -e .")]
    except Exception as error:
        return [Check(area, area, "broken", f"cannot be looked at: {type(error).__name__}: {first_line(error)}")]


def ask(area: str, command: list[str] | None = None, timeout: float = TIMEOUT_SECONDS) -> list[Check]:
    """The same from a process of its own (`command` stands in for it in tests)."""
    command = command or [sys.executable, "-m", "tools.doctor", "--probe", area]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}  # from any folder: a relative CUTAWAY_CACHE is relative to it
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return [Check(area, area, "broken", f"no answer within {timeout:.0f} s")]
    except OSError as error:
        return [Check(area, area, "broken", f"cannot start {command[0]}: {error.strerror}")]
    try:
        return [Check(**each) for each in json.loads(done.stdout.splitlines()[-1])]
    except (IndexError, ValueError, TypeError):
        return [Check(area, area, "broken", how_it_ended(done))]


def how_it_ended(done: subprocess.CompletedProcess[str]) -> str:
    """Why a probe gave no answer, in one line."""
    last = done.stderr.strip().splitlines()[-1:] or ["without a word"]
    if done.returncode < 0:
        return f"the probe was killed by {signal.Signals(-done.returncode).name}"
    return f"the probe ended with status {done.returncode}: {last[0]}"


def ask_all(waiting: Waiting) -> list[Check]:
    """Every probe, some at a time; `waiting` is told now and then which have not answered yet."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        asked = {area: pool.submit(ask, area) for area in PROBES}
        pending = set(asked.values())
        try:
            while pending:
                _, pending = wait(pending, PATIENCE_SECONDS, FIRST_COMPLETED)
                waiting([area for area, job in asked.items() if job in pending])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [check for job in asked.values() for check in job.result()]
