"""Faults in the CPU device: its Python, its headers, its runtime and its matrix product.

One in the runtime costs the compilation of the whole runtime, so there are few; more test it from its headers.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_SIMT = "tests/cpu_device/test_simt_"
_DRIVER = "tests/cpu_device/driver/test_"

_HEADERS = [
    Mutant(
        "cpu-clz-of-zero",
        "bindings/cpu/simt/simt_bits.h",
        "value == 0 ? 32 : __builtin_clz(value)",
        "value == 0 ? 31 : __builtin_clz(value)",
        "leading zeros of 0",
        f"{_SIMT}math.py::test_integer_functions",
    ),
    Mutant(
        "cpu-shuffle-leaves-its-segment",
        "bindings/cpu/simt/simt_warp.h",
        "source < simt::segment_start(width) ? lane : source",
        "source < 0 ? lane : source",
        "__shfl_up_sync reads an earlier segment of the warp",
        f"{_SIMT}warps.py::test_shuffles[3-8-shuffle_int]",
    ),
    Mutant(
        "cpu-minimum-keeps-a-nan",
        "bindings/cpu/simt/simt_math.h",
        "return b == b ? (a < b ? a : b) : a;",
        "return a < b ? a : b;",
        "fminf of a number and NaN",
        f"{_SIMT}math.py::test_minimum_and_maximum_drop_a_nan",
    ),
    Mutant(
        "cpu-nan-to-integer",
        "bindings/cpu/simt/simt_math.h",
        "if (value != value) return 0;",
        "if (value != value) return kLowest;",
        "a NaN converts to the lowest integer",
        f"{_SIMT}math.py::test_conversions_to_integers_round_and_saturate",
    ),
    Mutant(
        "cpu-barrier-does-not-wait",
        "bindings/cpu/simt/simt_sync.h",
        "{ simt_block_barrier(false, place); }",
        "{ (void)place; }",
        "__syncthreads lets every thread through",
        f"{_SIMT}blocks.py::test_static_shared_memory_and_barrier[128]",
    ),
    Mutant(
        "cpu-counter-wraps-late",
        "bindings/cpu/simt/simt_atomics.h",
        "return old >= limit ? 0 : old + 1;",
        "return old > limit ? 0 : old + 1;",
        ">= became >: atomicInc counts one too far",
        f"{_SIMT}math.py::test_atomics_that_wrap",
    ),
    Mutant(
        "cpu-copy-ignores-its-size",
        "bindings/cpu/simt/simt_ptx.h",
        "simt_copy_async(smem, gmem, valid, place);",
        "simt_copy_async(smem, gmem, true, place);",
        "cp.async copies where it should fill with zeros",
        f"{_SIMT}instructions.py::test_cp_async_fills_with_zeros",
    ),
]

_RUNTIME = [
    Mutant(
        "cpu-ended-threads-hold-up-a-barrier",
        "bindings/cpu/runtime/worker.cpp",
        "  if (live_ == 0) return nullptr;\n  if (at_barrier_ == live_) release_block();\n",
        "  if (live_ == 0) return nullptr;\n",
        "a barrier waits for threads that have returned",
        f"{_SIMT}blocks.py::test_threads_that_returned_do_not_hold_up_a_barrier[40]",
    ),
    Mutant(
        "cpu-wait-takes-one-group-more",
        "bindings/cpu/runtime/async_copy.cpp",
        "copy->group < first_left",
        "copy->group <= first_left",
        "cp.async.wait_group hides a missing wait",
        f"{_SIMT}instructions.py::test_cp_async_shows_a_missing_wait_as_nan",
    ),
    Mutant(
        "cpu-fragments-in-the-wrong-lane",
        "bindings/cpu/runtime/tensor_core.cpp",
        "tiles.b[pair + 4][row] = request.b[1];",
        "tiles.b[pair + 4][row] = request.b[0];",
        "half of B is not used",
        f"{_SIMT}instructions.py::test_mma[ascending-0]",
    ),
]

_GEMM = [
    Mutant(
        "gemm-ignores-beta",
        "bindings/cpu/gemm.cpp",
        "alpha * sums[i] + beta * to_float(out[i])",
        "alpha * sums[i]",
        "the old output is not added",
        f"{_DRIVER}gemm.py::test_any_product",
    ),
    Mutant(
        "gemm-reads-what-beta-0-clears",
        "bindings/cpu/gemm.cpp",
        "if (beta == 0) {",
        "if (beta != beta) {",
        "with beta 0 the old output is read, NaN and all",
        f"{_DRIVER}gemm.py::test_beta_0_does_not_read_the_output_and_alpha_0_not_the_inputs",
    ),
    Mutant(
        "gemm-truncates",
        "bindings/cpu/gemm_elements.h",
        "uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)",
        "uint16_t(bits >> 16)",
        "bf16 is truncated in place of rounded to nearest",
        f"{_DRIVER}gemm.py::test_outputs_are_rounded_once_to_nearest_even[bf16]",
    ),
    Mutant(
        "gemm-never-transposes-b",
        "bindings/cpu/cublas.py",
        "Atype, Ctype, transa != OP_N, transb != OP_N,",
        "Atype, Ctype, transa != OP_N, transb == OP_C,",
        "op T is taken for op N",
        f"{_DRIVER}gemm.py::test_a_strided_batch_is_one_product_a_matrix[(False, True)]",
    ),
]

_PYTHON = [
    Mutant(
        "cpu-fence-skips-the-last-byte",
        "bindings/cpu/memory.py",
        "(address + nbytes, last))",
        "(address + nbytes, last - 1))",
        "the last byte of the slack is not looked at",
        f"{_DRIVER}driver_memory.py::test_a_write_beside_an_allocation_is_found_when_it_is_freed[1023]",
    ),
    Mutant(
        "cpu-range-may-end-outside",
        "bindings/cpu/memory.py",
        "0 <= found.offset <= found.allocation.nbytes - nbytes",
        "0 <= found.offset <= found.allocation.nbytes",
        "a copy may run over an allocation's end",
        f"{_DRIVER}driver_memory.py::test_a_copy_must_lie_in_living_allocations",
    ),
    Mutant(
        "cpu-capture-forgets-a-dependency",
        "bindings/cpu/events.py",
        "        stream.last_nodes |= event.nodes\n",
        "",
        "a wait for an event leaves no edge in the graph",
        f"{_DRIVER}driver_graphs.py::test_a_capture_forks_and_joins_through_events",
    ),
    Mutant(
        "cpu-graph-skips-the-fences",
        "bindings/cpu/graphs.py",
        "                fences.after_operation(operation.name)\n",
        "",
        "inside a graph nobody looks at the slack after each operation",
        f"{_DRIVER}driver_graphs.py::test_a_write_into_the_slack_is_found_inside_a_graph",
    ),
    Mutant(
        "cpu-launch-bounds-ignored",
        "bindings/cpu/modules.py",
        "max_threads = min(function.kernel.max_threads, attributes.MAX_THREADS)",
        "max_threads = attributes.MAX_THREADS",
        "a block may have more threads than its launch bounds",
        f"{_DRIVER}driver_modules.py::test_launch_bounds_are_a_limit",
    ),
    Mutant(
        "cpu-captured-arguments-not-kept",
        "bindings/cpu/modules.py",
        "        self.parameters = ctypes.addressof(addresses)\n",
        "",
        "a graph reads its arguments from the caller's memory",
        f"{_DRIVER}driver_graphs.py::test_arguments_are_copied_at_the_capture",
    ),
]

_LOOKING = [
    Mutant(
        "cpu-watch-misses-what-begins-before",
        "bindings/cpu/access_checks/watch.h",
        "return address < end_ && start_ < address + bytes;",
        "return address - start_ < end_ - start_;",
        "a wide store that begins before the watched element does not count",
        "tests/device/test_ownership.py::test_a_row_belongs_to_its_block_and_eight_columns_to_a_thread",
    ),
    Mutant(
        "cpu-inspection-evaluates-twice",
        "bindings/cpu/instrument.py",
        'if text in _ASSIGNMENTS or text in ("++", "--", "{"):',
        "if text in _ASSIGNMENTS:",
        "to show what an assignment went to, its side effects happen once more",
        "tests/cpu_device/test_instrument.py::test_every_form_of_statement_computes_the_same[expressions]",
    ),
    Mutant(
        "cpu-inspection-listens-to-a-whole-column-of-threads",
        "bindings/cpu/simt/simt_inspect.h",
        "return a.x == b.x && a.y == b.y && a.z == b.z;",
        "return a.x % 32 == b.x % 32 && a.y == b.y && a.z == b.z;",
        "threads of the same lane in other warps are taken for the one that is inspected",
        "tests/device/test_inspection.py::TestRmsnorm::test_it_meets_its_warp_seven_times_and_the_block_once",
    ),
]

MUTANTS = [*_LOOKING, *_HEADERS, *_RUNTIME, *_GEMM, *_PYTHON]
