"""Every operation in the CPU device's checked mode: no access out of bounds, misaligned, unwritten or racing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bindings.device import Device
from bindings.errors import CudaError
from bindings.tensor import Tensor
from engine import ops
from engine.spec import Op
from tests.device.test_kernels import OPERATIONS
from tools.microtest.harness import cases_of, check, run

pytestmark = pytest.mark.cpu_device_only

# A case of each operation, and where one case leaves a path out, another: key splits, long rows, odd rows.
CASES = {"decode_attention": 2, "prefill_attention": 2, "gumbel_sample": 2, "argmax": 2}


@pytest.fixture
def checked_device(device: Device) -> Iterator[Device]:
    """A device whose kernels are checked: one of its own, since the session's has compiled some without checks."""
    from bindings.cpu import driver

    driver.set_checks("memory")
    checked = Device.open("cpu")
    yield checked
    driver.reset_sticky()
    checked.close()
    driver.set_checks("off")


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
def test_no_access_is_wrong(checked_device: Device, op: Op) -> None:
    """Outputs begin as memory that nobody wrote. Cases of the same constants share one compilation."""
    for case in cases_of(op)[2 : 2 + CASES.get(op.name, 1)]:
        problem = case.problem()
        check(op, problem, run(op, problem, checked_device, fresh_outputs=True))


def test_a_report_reaches_the_caller_with_the_buffers_name(checked_device: Device) -> None:
    x = checked_device.empty((2, 64), ops.BF16, "x")
    weight = checked_device.empty((64,), ops.BF16, "weight")
    weight.buffer.fill(0)
    with pytest.raises(CudaError) as caught:
        ops.RMSNORM(checked_device.stream, out=_like(x, "out"), x=x, weight=weight, eps=1e-5)
    assert "read of unwritten memory in rmsnorm at " in str(caught.value)
    assert "rmsnorm.cu:" in str(caught.value) and str(caught.value).count(", at x") == 1


def _like(tensor: Tensor, name: str) -> Tensor:
    return tensor.buffer.device.empty(tensor.shape, tensor.dtype, name)
