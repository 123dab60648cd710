"""What only the CPU device can do: come back to life after a fault, and look at every access of a kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bindings.device import Device
from bindings.errors import CudaError
from engine.spec import Op
from tools.microtest.harness import Problem, run


def revive() -> None:
    """Forget a fault, and mend what a kernel wrote around allocations, which would be reported again and again."""
    from bindings.cpu import driver
    from bindings.cpu.memory import heap

    driver.reset_sticky()
    for allocation in heap.live():
        for slack in allocation.slacks:
            slack.restore()


@contextmanager
def checked_device() -> Iterator[Device]:
    """A device whose kernels are checked: one of its own, since another has compiled some without checks."""
    from bindings.cpu import checks, driver

    were_on = checks.checking()
    driver.set_checks("memory")
    try:
        checked = Device.open("cpu")
        try:
            yield checked
        finally:
            with suppress(CudaError):  # what is wrong was told before
                checked.close()
            revive()
    finally:
        driver.set_checks("memory" if were_on else "off")


def wrong_access(op: Op, problem: Problem, checked: Device) -> str:
    """The first wrong access of a run on a checked device, with block, thread and line; "" if there is none.

    Outputs begin as memory that nobody wrote, so that reading them is a wrong access.
    """
    try:
        run(op, problem, checked, fresh_outputs=True)
    except CudaError as error:
        revive()
        return error.detail or str(error)
    except AssertionError:
        pass  # a wrong value is no wrong access
    return ""
