"""Runs the engine once and counts its driver calls twice: by the trace, and by CUPTI's callbacks. Prints both as JSON.

CUPTI sits inside NVIDIA's driver and sees every call, whoever makes it, also those that cuBLAS makes for its own
kernels, and NVRTC. These are told apart by when they come: inside a call of a function of theirs.

    python -m tests.device.count_driver_calls > counts.json
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from cuda.bindings import nvrtc

from bindings import backend, cublas_api, nvrtc_api
from bindings.trace import record_to
from engine import LLM, SamplingParams
from engine.random_model import write_random_model


class CuptiCounter:
    """Counts driver calls by name; those that cuBLAS and NVRTC make apart."""

    def __init__(self) -> None:
        self.ours: Counter[str] = Counter()
        self.of_libraries: Counter[str] = Counter()
        self.depth = 0

    def start(self) -> None:
        from cupti import cupti

        self._entered = cupti.ApiCallbackSite.API_ENTER
        self._subscriber = cupti.subscribe(self._on_call, None)
        cupti.enable_domain(1, self._subscriber, cupti.CallbackDomain.DRIVER_API)

    def stop(self) -> None:
        from cupti import cupti

        cupti.unsubscribe(self._subscriber)

    def _on_call(self, userdata: object, domain: int, callback_id: int, data: Any) -> None:
        if data.callback_site == self._entered:
            (self.of_libraries if self.depth else self.ours)[plain_name(data.function_name)] += 1

    def watch(self, module: ModuleType, names: Iterable[str]) -> None:
        """Note when one of these functions is running."""
        for name in names:
            setattr(module, name, self._watched(getattr(module, name)))

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            self.depth += 1
            try:
                return function(*arguments)
            finally:
                self.depth -= 1

        return watched


def plain_name(function: str) -> str:
    """The name in the manual: the driver's own has a version, and marks of the default stream, behind it."""
    name = re.sub(r"(_v\d+)?(_ptds|_ptsz)?$", "", function)
    return "cuGraphInstantiate" if name == "cuGraphInstantiateWithFlags" else name  # a macro for it, since CUDA 12


def run_engine(folder: Path) -> Path:
    """A batch and a lone prompt on a toy model, from opening the device to closing it; the trace's file."""
    write_random_model("toy", folder / "toy")
    trace = folder / "calls.jsonl"
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    with record_to(trace), LLM(model=str(folder / "toy"), device="cuda") as llm:
        llm.generate([[5, 6, 7], list(range(40))], params)
        llm.generate([[9, 8, 7, 6]], params)
    return trace


def main() -> None:
    backend.select("cuda")  # looks for a GPU before there is a door to go through
    counter = CuptiCounter()
    counter.watch(cublas_api, [name for name in vars(cublas_api) if name.startswith("cublas")])
    counter.watch(nvrtc_api, [name for name in dir(nvrtc) if re.match("nvrtc[A-Z].*", name) and name != "nvrtcResult"])
    counter.start()
    with tempfile.TemporaryDirectory() as folder:
        lines = run_engine(Path(folder)).read_text().splitlines()
    counter.stop()
    events = [json.loads(line) for line in lines]
    calls = Counter(event["call"] for event in events if event["kind"] == "call")
    traced = {name: count for name, count in calls.items() if name.startswith("cu") and not name.startswith("cublas")}
    print(json.dumps({"trace": traced, "cupti": counter.ours, "cupti in libraries": counter.of_libraries}))


if __name__ == "__main__":
    main()
