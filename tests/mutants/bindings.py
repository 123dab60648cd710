"""Faults in how Python reaches a device."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = [
    Mutant(
        "cublas-wrong-leading-dimension",
        "bindings/cublas.py",
        "1.0, b.address, operand, k if transpose_b else n, a.address,",
        "1.0, b.address, operand, n if transpose_b else k, a.address,",
        "the transpose trick: the leading dimension is of the other side",
        "tests/device/test_bindings.py::test_gemm_is_row_major[sizes1-out_dtype0-True]",
    ),
    Mutant(
        "cache-key-forgets-includes",
        "bindings/nvrtc.py",
        "for file in include_closure(source, folders):",
        "for file in [source]:",
        "an edited header meets a stale kernel",
        "tests/compiler/test_kernel_cache.py::test_a_touched_header_a_define_or_a_source_make_a_new_entry",
    ),
    Mutant(
        "cache-takes-a-damaged-image",
        "bindings/nvrtc.py",
        "if is_whole(folder) and json.loads(",
        "if json.loads(",
        "a truncated image is loaded",
        "tests/compiler/test_kernel_cache.py::test_a_truncated_entry_is_built_again_with_a_warning[image]",
    ),
    Mutant(
        "bf16-nan-becomes-infinity",
        "bindings/dtypes.py",
        "        halves[np.isnan(floats)] = np.uint16(0x7FC0)\n",
        "        pass\n",
        "the carry of rounding turns a NaN into another number",
        "tests/pure/test_dtypes.py::test_nan_stays_nan",
    ),
    Mutant(
        "bf16-ties-go-up",
        "bindings/dtypes.py",
        "    rounded &= np.uint32(1)\n",
        "    rounded[...] = 1\n",
        "halfway cases are rounded away from zero in place of to even",
        "tests/pure/test_dtypes.py::test_every_tie_goes_to_even_and_its_neighbours_to_the_nearest",
    ),
    Mutant(
        "door-passes-a-failure",
        "bindings/calls.py",
        "if answer[0]:",
        "if answer[0] is None:",
        "a call's status is not looked at",
        "tests/device/test_bindings.py::test_a_failed_call_names_call_status_arguments_and_hint",
    ),
    Mutant(
        "blas-last-block-of-the-rows-there-are",
        "bindings/cublas.py",
        "tensor.rows_from(start, self.block_rows)",
        "tensor[start : start + self.block_rows]",
        "the last block of a product is not filled up, so cuBLAS may sum it in another order",
        "tests/device/test_deterministic.py::test_every_product_has_the_same_number_of_rows",
    ),
]
