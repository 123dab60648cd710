"""The one door: every driver, NVRTC and cuBLAS call of the project goes through here.

`driver.cuMemAlloc(nbytes)` has the real API's name and argument order, so that NVIDIA's manual documents what is read
here. A call checks its status, raises CudaError with the arguments spelled out, and returns the remaining values: none,
one, or a tuple. With tracing on, each call is also recorded, before and after.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from bindings import backend
from bindings.errors import STICKY, CudaError
from bindings.handles import handle_name
from bindings.memory import memory_map
from bindings.spelled import Spelled, spelled
from bindings.trace import recorder

# The launch that came last, told in a sticky error: asynchronous faults surface at a later call.
last_launch = "none"

# How many sticky errors the program was told of: the context is dead, and who closes the device need not say so again.
sticky_errors = 0

LONGEST_NAME = 100

_STATUS_TEXT = {
    "driver": "cuGetErrorString",
    "nvrtc": "nvrtcGetErrorString",
    "cublas": "cublasGetStatusString",
}


@cache
def _parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


def spell(value: Any) -> str:
    """One argument as a person reads it: addresses by buffer name, enums and handles by name, bytes by length."""
    if type(value) is int:  # first, since most are: a trace spells thousands a step
        return str(value) if value <= 0xFFFFFFFF else memory_map.describe(value)
    if isinstance(value, bytes):
        return repr(value.decode()) if _is_name(value) else f"<{len(value)} bytes>"
    if isinstance(value, (list, tuple)):
        return f"<{len(value)} items>"
    if isinstance(getattr(value, "name", None), str):
        return str(value.name)
    if value is None or isinstance(value, (str, float, bool)):
        return repr(value)
    return _spell_number(value)


def _is_name(value: bytes) -> bool:
    """Whether bytes are a kernel's name and not an image or a source."""
    return len(value) <= LONGEST_NAME and value.isascii() and value.decode().isidentifier()


def _spell_number(value: Any) -> str:
    """A handle, or another object that converts to a number. Device addresses lie above 4 GiB, sizes below."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        return f"<{type(value).__name__}>"
    name = handle_name(value)
    if name is not None:
        return name
    if number > 0xFFFFFFFF:
        return memory_map.describe(number)
    return str(number) if isinstance(value, int) else hex(number)


def spell_arguments(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Spelled:
    """The arguments of one call by the API's parameter names, spelled out. Only read it: it may be shared."""
    return spelled((function, arguments), lambda: _spell_arguments(function, arguments))


def _spell_arguments(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Spelled:
    names = _parameter_names(function)
    unnamed = (f"argument {i}" for i in range(len(names), len(arguments)))
    return Spelled(zip((*names, *unnamed), map(spell, arguments), strict=False))


def _status_name(api: str, status: Any) -> str:
    if hasattr(status, "name"):
        return str(status.name)
    return str(backend.entry_point(api, "cublasGetStatusName")(status))


def _status_text(api: str, status: Any) -> str:
    answer = backend.entry_point(api, _STATUS_TEXT[api])(status)
    text = answer[-1] if isinstance(answer, tuple) else answer
    return text.decode() if isinstance(text, bytes) else str(text or "")


def _detail(api: str, name: str) -> str:
    """What is known beyond the status: the CPU device's words, else the launch before a sticky error."""
    device = backend.select().driver
    if name not in STICKY and name != "CUBLAS_STATUS_EXECUTION_FAILED":  # cuBLAS's name for a fault in its kernel
        return str(getattr(device, "last_refusal", str)()) if api == "driver" else ""
    report = getattr(device, "last_report", lambda: None)()
    if report is None:
        return f"the last launch was {last_launch}"
    where = "" if report.address is None else f", at {memory_map.describe(report.address)}"
    return f"{report}{where}"


def _error(api: str, call: str, function: Callable[..., Any], status: Any, arguments: tuple[Any, ...]) -> CudaError:
    global sticky_errors
    spelled = ", ".join(f"{key}={value}" for key, value in spell_arguments(function, arguments).items())
    name = _status_name(api, status)
    sticky_errors += name in STICKY and not recorder.is_deaf()  # nobody is told what a listener finds out
    return CudaError(call, name, _status_text(api, status), spelled, _detail(api, name))


def _checked(api: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its status checked and taken off its answer."""

    def call(*arguments: Any) -> Any:
        answer = function(*arguments)
        if answer[0]:
            raise _error(api, name, function, answer[0], arguments)
        count = len(answer)
        return answer[1] if count == 2 else (None if count == 1 else answer[1:])

    return call


def _traced(name: str, function: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, recorded before and after."""

    def traced(*arguments: Any) -> Any:
        if recorder.is_deaf():
            return call(*arguments)
        event, result = recorder.before(name, spell_arguments(function, arguments)), "ok"
        try:
            return call(*arguments)
        except BaseException as error:  # a binding refuses what the API has no type for: no call, and no status
            result = error.name if isinstance(error, CudaError) else type(error).__name__
            raise
        finally:
            recorder.after(event, result)

    return traced


class Door:
    """One API behind the door. Its functions are made on first use and kept until tracing is switched."""

    def __init__(self, api: str) -> None:
        self._api = api

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = backend.entry_point(self._api, name)
        call = _checked(self._api, name, function)
        made = _traced(name, function, call) if recorder.active else call
        self.__dict__[name] = made
        return made

    def forget(self) -> None:
        """Drop the functions made so far, so that the next use sees whether tracing is on."""
        self.__dict__ = {"_api": self._api}


driver = Door("driver")
nvrtc = Door("nvrtc")
cublas = Door("cublas")


def _forget_all() -> None:
    for door in (driver, nvrtc, cublas):
        door.forget()


recorder.on_change = _forget_all
