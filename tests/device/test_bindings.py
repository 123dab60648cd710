"""Device, buffers, streams, events, graphs and kernels: the same cases on the CPU device and on a GPU."""

import gc
import json
import re

import numpy as np
import pytest

from bindings import calls
from bindings.calls import driver
from bindings.cublas import Blas
from bindings.device import Device, Event
from bindings.dtypes import BF16, F32, I32, decode
from bindings.errors import CudaError, CutawayError, DeviceError
from bindings.kernel import Kernel, Module
from bindings.memory import memory_map
from bindings.trace import label, record_to
from engine import ops


def test_a_tensor_keeps_its_values(device):
    values = np.arange(24, dtype=np.int32).reshape(4, 6)
    tensor = device.upload(values, I32, "kept")
    assert (tensor.numpy() == values).all()
    assert (tensor[1:3].numpy() == values[1:3]).all()
    assert (tensor.view(8, 3).numpy() == values.reshape(8, 3)).all()
    tensor[2:3].upload(np.full((1, 6), 7, np.int32))
    assert (tensor.numpy()[2] == 7).all() and (tensor.numpy()[3] == values[3]).all()
    tensor.free()


def test_a_buffer_has_a_name_while_it_lives(device):
    buffer = device.alloc(1024, "layers.3.mlp.down")
    address = buffer.address
    assert memory_map.describe(address + 0x40) == "layers.3.mlp.down+0x40"
    buffer.free()
    buffer.free()
    assert memory_map.describe(address) == "freed layers.3.mlp.down"


@pytest.mark.cpu_device_only
@pytest.mark.usefixtures("any_schedule")
def test_an_asynchronous_fault_is_told_where_the_host_waits(device, embedding):
    from bindings.cpu import driver as cpu_driver

    # Far below the table: far above it may lie an address that cannot exist, and x86 does not tell which that was.
    embedding["token_ids"].upload(np.array([3, -(1 << 30), 9]))
    cpu_driver.set_streams("lazy")
    ops.EMBEDDING(device.stream, **embedding)
    with pytest.raises(CudaError) as caught:
        device.stream.synchronize()
    cpu_driver.reset_sticky()
    assert caught.value.call == "cuStreamSynchronize" and caught.value.name == "CUDA_ERROR_ILLEGAL_ADDRESS"
    where = r"illegal address in embedding at \S+\.cuh?:\d+, block \(1, 0, 0\), thread \(\d+, 0, 0\): .*"
    assert re.search(where + r"; given to stream 0x[0-9a-f]+ at tests/device/test_bindings\.py:\d+", str(caught.value))
    embedding["token_ids"].upload(np.array([3, 1, 9]))


@pytest.mark.cpu_device_only
def test_a_double_free_names_the_buffer_and_where_it_was_freed(device):
    buffer = device.alloc(1024, "layers.3.mlp.down")
    buffer.free()
    with pytest.raises(CudaError, match=r"mlp\.down was freed before, at tests/device/test_bindings\.py:\d+"):
        driver.cuMemFree(buffer.address)
    with pytest.raises(CudaError, match=r"is offset 8 of memory that is gone: layers\.3\.mlp\.down was freed before"):
        driver.cuMemFree(buffer.address + 8)


@pytest.mark.cpu_device_only
def test_a_free_of_what_was_not_allocated_says_what_lies_there(device):
    buffer, host = device.alloc(1024, "kv_pages"), device.alloc_host(16, "staging")
    for address, call, message in (
        (buffer.address + 256, "cuMemFree", r"only a whole allocation .* not kv_pages\+0x100: kv_pages begins at 0x"),
        (host.address, "cuMemFree", "staging is host memory: free it with cuMemFreeHost"),
        (buffer.address, "cuMemFreeHost", "kv_pages is device memory: free it with cuMemFree"),
        (0x1234, "cuMemFree", "no allocation was ever at 0x1234"),
    ):
        with pytest.raises(CudaError, match=message):
            getattr(driver, call)(address)
    buffer.free()
    host.free()


def test_a_failed_call_names_call_status_arguments_and_hint(device):
    with pytest.raises(CudaError) as caught:
        driver.cuMemAlloc(1 << 60)
    assert caught.value.call == "cuMemAlloc" and caught.value.name == "CUDA_ERROR_OUT_OF_MEMORY"
    assert "bytesize=" in str(caught.value) and "--max-model-len" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_copies_through_pinned_memory(device):
    host = device.alloc_host(4 * 100, "pinned")
    tensor = device.empty((100,), I32, "target")
    host.numpy(I32)[:] = np.arange(100)
    device.copy_in_async(tensor.address, host.address, host.nbytes, device.stream)
    device.stream.synchronize()
    assert (tensor.numpy() == np.arange(100)).all()
    host.numpy(I32)[:] = 0
    device.copy_out_async(host.address, tensor.address, host.nbytes, device.stream)
    device.stream.synchronize()
    assert (host.numpy(I32) == np.arange(100)).all()
    host.free()
    tensor.free()


def test_events_measure_time(device):
    first, last = Event(), Event()
    device.stream.record(first)
    device.stream.record(last)
    last.synchronize()
    assert 0 <= last.milliseconds_since(first) < 1000
    first.close()
    last.close()


@pytest.fixture
def embedding(device):
    """A small launch: rows of a table picked by ids. Its kernel is loaded: a capture allows no loading."""
    ops.EMBEDDING.kernel(device, {})
    random = np.random.default_rng(0)
    table = device.upload(random.standard_normal((10, 16)), BF16, "table")
    ids = device.upload(np.array([3, 1, 9]), I32, "ids")
    out = device.upload(np.zeros((3, 16)), BF16, "out")
    yield {"out": out, "token_ids": ids, "table": table}
    for tensor in (table, ids, out):
        tensor.free()


def test_a_graph_records_and_replays_with_new_contents(device, embedding):
    with device.stream.capture() as graph:
        ops.EMBEDDING(device.stream, **embedding)
    assert (embedding["out"].numpy() == 0).all(), "capturing must not run anything"
    for ids in ([3, 1, 9], [0, 0, 5]):
        embedding["token_ids"].upload(np.array(ids, np.int32))
        graph.launch(device.stream)
        device.stream.synchronize()
        assert (embedding["out"].numpy() == embedding["table"].numpy()[ids]).all()
    graph.close()
    graph.close()


def test_python_collects_nothing_during_a_capture(device, embedding):
    """A collected engine would free its memory, and the driver ends a capture in which that is done."""
    with device.stream.capture() as graph:
        assert not gc.isenabled()
        ops.EMBEDDING(device.stream, **embedding)
    graph.close()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), device.stream.capture():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_a_capture_whose_block_fails_leaves_the_stream_usable(device, embedding):
    with pytest.raises(ZeroDivisionError), device.stream.capture():
        ops.EMBEDDING(device.stream, **embedding)
        raise ZeroDivisionError
    ops.EMBEDDING(device.stream, **embedding)
    device.stream.synchronize()
    assert (embedding["out"].numpy() == embedding["table"].numpy()[[3, 1, 9]]).all()


def test_a_dependent_launch_gives_the_same_result(device, embedding):
    for _ in range(3):
        ops.EMBEDDING(device.stream, dependent=True, **embedding)
    device.stream.synchronize()
    assert (embedding["out"].numpy() == embedding["table"].numpy()[[3, 1, 9]]).all()


def test_a_kernel_whose_parameters_differ_from_its_spec_is_refused(device):
    right = ops.EMBEDDING.kernel(device, {})
    with pytest.raises(CutawayError, match=r"embedding: the spec has 2 parameters of \[8, 8\] bytes, .* 4 of"):
        Kernel(right.module, "embedding", [("out", None), ("token_ids", None)])


def launch(kernel, stream, grid=(1, 1, 1), block=(32, 1, 1), arguments=(0, 0, 0, 0), **options):
    kernel.launch(stream, grid, block, arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 0), r"embedding takes 4 arguments \(out, token_ids, table, hidden\), not 3"),
        ((0, 0, 0, 1, 1), "embedding takes 4 arguments .*, not 5"),
        ((0, 0, 0, 1.5), "embedding takes an int32 as hidden, not 1.5"),
        ((0, 0, 0, 2**31), "embedding takes an int32 as hidden, not 2147483648"),
        ((0, "ids", 0, 1), "embedding takes an address as token_ids, not 'ids'"),
        ((0, 0, None, 1), "embedding takes an address as table, not None"),
    ],
)
def test_wrong_arguments_are_one_line(device, arguments, message):
    with pytest.raises(CutawayError, match=message):
        launch(ops.EMBEDDING.kernel(device, {}), device.stream, arguments=arguments)


@pytest.mark.parametrize("dependent", [False, True])
@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        (
            (0, 1, 1),
            (32, 1, 1),
            r"embedding: the grid is \(0, 1, 1\); its sizes must be from \(1, 1, 1\) to \(",
        ),
        ((1, 65536, 1), (32, 1, 1), r"embedding: the grid is \(1, 65536, 1\); its .* to \(2147483647, 65535, 65535\)"),
        ((1, 1, 1), (0, 1, 1), r"embedding: the block is \(0, 1, 1\); its sizes must be"),
        ((1, 1, 1), (1, 1, 65), r"embedding: the block is \(1, 1, 65\); its .* to \(1024, 1024, 64\)"),
        ((1, 1, 1), (64, 64, 1), r"embedding: a block of \(64, 64, 1\) has 4096 threads; this kernel may have \d+$"),
    ],
)
def test_a_geometry_beyond_the_limits_is_one_line(device, grid, block, message, dependent):
    with pytest.raises(CutawayError, match=message):
        launch(ops.EMBEDDING.kernel(device, {}), device.stream, grid, block, dependent=dependent)


def test_too_much_shared_memory_is_one_line(device):
    with pytest.raises(CutawayError, match=r"embedding needs \d+ bytes of shared memory; a block here may have \d+$"):
        launch(ops.EMBEDDING.kernel(device, {}), device.stream, smem=1 << 20)
    with pytest.raises(CutawayError, match=r"embedding: -1 bytes of dynamic shared memory; it must be 0 or more$"):
        launch(ops.EMBEDDING.kernel(device, {}), device.stream, smem=-1)


def test_a_missing_entry_says_what_was_probably_forgotten(device):
    module = ops.EMBEDDING.kernel(device, {}).module
    with pytest.raises(CudaError, match=r'extern "C" __global__'):
        module.function("no_such_kernel")


def test_a_broken_image_is_refused(device):
    with pytest.raises(CudaError, match="cuModuleLoadData"):
        Module(device, b"this is no image, and long enough to be looked at by the driver" * 8, "broken", {})


def test_a_block_may_have_more_than_48_kib_of_shared_memory(device):
    kernel = ops.PREFILL_ATTENTION.kernel(device, {"D": 128, "B": 16})
    kernel._allow_dynamic_smem(4 * 64 * 136 * 2)
    with pytest.raises(CutawayError, match="bytes of shared memory; a block here may have"):
        kernel._allow_dynamic_smem(1 << 20)


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("out_dtype", [F32, BF16])
@pytest.mark.parametrize("sizes", [(1, 64, 32), (3, 17, 40), (65, 96, 128)])
def test_gemm_is_row_major(device, sizes, out_dtype, transpose_b):
    m, n, k = sizes
    random = np.random.default_rng(m)
    a = device.upload(random.standard_normal((m, k)), BF16, "a")
    b = device.upload(random.standard_normal((n, k) if transpose_b else (k, n)), BF16, "b")
    out = device.upload(np.full((m, n), np.nan), out_dtype, "out")
    blas = Blas(device, device.stream)
    blas.gemm(out, a, b, transpose_b=transpose_b)
    left, right = (decode(t.numpy(), BF16).astype(np.float64) for t in (a, b))
    right = right.T if transpose_b else right
    # k products summed in float32 in any order, then one rounding to the output's type.
    bound = k * 2.0**-24 * (np.abs(left) @ np.abs(right))
    bound += (2.0**-8 if out_dtype is BF16 else 2.0**-24) * np.abs(left @ right) + 1e-30
    assert (np.abs(decode(out.numpy(), out_dtype) - left @ right) <= 2 * bound).all()
    blas.close()
    for tensor in (a, b, out):
        tensor.free()


def test_gemm_batched_is_one_product_a_matrix(device):
    random = np.random.default_rng(5)
    a = device.upload(random.standard_normal((4, 3, 8)), F32, "a")
    b = device.upload(random.standard_normal((4, 5, 8)), F32, "b")
    out = device.upload(np.full((4, 3, 5), np.nan), F32, "out")
    blas = Blas(device, device.stream)
    assert blas.version > 0
    blas.gemm_batched(out, a, b, transpose_b=True)
    expected = a.numpy().astype(np.float64) @ b.numpy().astype(np.float64).transpose(0, 2, 1)
    # On a GPU float32 products may run as bf16x3 or FFMA; both keep float32's accuracy over 8 terms.
    assert (np.abs(out.numpy() - expected) <= 8 * 2.0**-22 * 10).all()
    blas.close()
    for tensor in (a, b, out):
        tensor.free()


def test_gemm_shapes_that_do_not_fit_show_all_three_operands(device):
    a = device.empty((2, 8), BF16, "a")
    b = device.empty((4, 9), BF16, "b")
    out = device.empty((2, 4), BF16, "out")
    blas = Blas(device, device.stream)
    with pytest.raises(CutawayError, match=r"out:bf16\[2, 4\] = a:bf16\[2, 8\] @ b:bf16\[4, 9\]\^T does not fit"):
        blas.gemm(out, a, b, transpose_b=True)
    blas.close()
    for tensor in (a, b, out):
        tensor.free()


def test_a_trace_has_every_call_with_label_site_and_kernel_arguments(device, embedding, tmp_path):
    path = tmp_path / "trace.jsonl"
    with record_to(path), label("step 1"), label("embedding"):
        ops.EMBEDDING(device.stream, **embedding)
    device.stream.synchronize()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    launch = next(event for event in events if event["call"] == "cuLaunchKernel")
    assert launch["label"] == "step 1 / embedding" and launch["result"] == "ok" and launch["host_us"] > 0
    assert launch["kernel"] == "embedding" and launch["params"]["table"] == "table"
    assert launch["tensors"]["out"] == "out:bf16[3, 16]" and launch["bytes"] > 0
    assert launch["site"].startswith("tests/device/test_bindings.py:")
    assert not list(tmp_path.glob(".*")), "the file written aside must be gone"


def test_with_tracing_off_the_door_hands_out_the_plain_function(device, tmp_path):
    with record_to(tmp_path / "trace.jsonl"):
        traced = calls.driver.cuCtxGetCurrent
    plain = calls.driver.cuCtxGetCurrent
    assert traced is not plain and plain.__name__ == "call"


def test_a_trace_that_cannot_be_written_is_one_line(device, tmp_path):
    with pytest.raises(CutawayError, match="cannot write the trace"), record_to(tmp_path / "no" / "folder"):
        pass


def test_a_process_drives_one_kind_of_device(device):
    other = "cpu" if device.kind == "cuda" else "cuda"
    with pytest.raises(DeviceError, match=f"already drives '{device.kind}'"):
        Device.open(other)
    with pytest.raises(DeviceError, match="must be one of auto, cuda, cpu"):
        Device.open("tpu")
    with pytest.raises(DeviceError, match="there is no device 99"):
        Device.open(device.kind, ordinal=99)
