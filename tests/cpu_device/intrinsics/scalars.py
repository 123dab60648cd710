"""Probes of what a thread does alone: mathematics, conversions, bits, bf16 and f16, loads and stores."""

from __future__ import annotations

import numpy as np

from tests.cpu_device.intrinsics.agreement import (
    exact,
    fast,
    near_one,
    number,
    power_error,
    rounded,
    rounded_bf16,
    rounded_f16,
    tangent_error,
    ulps,
)
from tests.cpu_device.intrinsics.probe import Agreement, Probe
from tests.cpu_device.intrinsics.recipes import (
    Recipe,
    every_half,
    every_scale,
    everyday_halves,
    float_pairs,
    float_triples,
    floats,
    half_float,
    half_pairs,
    pairs_within,
    signed,
    within,
    words,
)

U64, I64 = "unsigned long long", "long long"
PAIR = "__nv_bfloat162"
PI = float(np.float32(np.pi))


def of_float(name: str, agrees: Agreement, recipe: Recipe = floats, out: str = "float", body: str = "") -> Probe:
    """`name` of one float."""
    return Probe(name, out, ("float",), body or f"{name}(x)", recipe, agrees)


def of_two(name: str, agrees: Agreement, recipe: Recipe = float_pairs, kind: str = "float", out: str = "") -> Probe:
    """`name` of two of the same type, which the result has too unless `out` says another."""
    return Probe(name, out or kind, (kind, kind), f"{name}(x, y)", recipe, agrees)


def of_word(name: str, kind: str, out: str) -> Probe:
    """`name` of one integer."""
    bits = 64 if kind in (U64, I64) else 32
    recipe = words(1, bits)
    return Probe(name, out, (kind,), f"{name}(x)", recipe if "unsigned" in kind else signed(recipe), exact)


# The number is the most ulps that NVIDIA documents.
_LIBRARY = {
    "expf": 1, "exp2f": 2, "exp10f": 2, "expm1f": 1, "logf": 1, "log2f": 1, "log10f": 2, "log1pf": 1, "sinf": 2,
    "cosf": 2, "tanf": 4, "tanhf": 2, "erff": 2, "rsqrtf": 2,
}  # fmt: skip

_MATH = [
    *(of_float(name, ulps(error)) for name, error in _LIBRARY.items()),
    of_float("sincosf sine", ulps(2), body="float other; sincosf(x, &out[i], &other);"),
    of_float("sincosf cosine", ulps(2), body="float other; sincosf(x, &other, &out[i]);"),
    of_two("powf", ulps(4), pairs_within((0.1, 10), (-30, 30))),
    # NVIDIA: 2 + floor(|1.173 x|) ulp
    of_float("__expf", fast(lambda x: 2 + np.floor(np.abs(1.173 * x))), within(-86, 88, 0.0, 1.0, np.inf, -np.inf)),
    # NVIDIA: 2 + floor(|2.97 x|) ulp
    of_float("__exp10f", fast(lambda x: 2 + np.floor(np.abs(2.97 * x))), within(-37, 38, 0.0, 1.0, np.inf, -np.inf)),
    # NVIDIA: 2^-21.41 for x from 0.5 to 2, else 3 ulp; 2^-22 and 2 ulp; 2^-24 and 3 ulp
    of_float("__logf", near_one(3, 2.0**-21.41), every_scale),
    of_float("__log2f", near_one(2, 2.0**-22), every_scale),
    of_float("__log10f", near_one(3, 2.0**-24), every_scale),
    of_two("__powf", fast(power_error), pairs_within((0.1, 10), (-3, 3))),
    # NVIDIA: 2^-21.41 and 2^-21.19 for x from -pi to pi
    of_float("__sinf", fast(lambda x: 0 * x, lambda x: 2.0**-21.41), within(-PI, PI, 0.0)),
    of_float("__cosf", fast(lambda x: 0 * x, lambda x: 2.0**-21.19), within(-PI, PI, 0.0)),
    of_float("__tanf", fast(lambda x: 2 + 0 * x, tangent_error), within(-1, 1, 0.0)),
    of_float("__sincosf sine", fast(lambda x: 0 * x, lambda x: 2.0**-21.41), within(-PI, PI, 0.0), "float",
             "float other; __sincosf(x, &out[i], &other);"),
    of_float("__sincosf cosine", fast(lambda x: 0 * x, lambda x: 2.0**-21.19), within(-PI, PI, 0.0), "float",
             "float other; __sincosf(x, &other, &out[i]);"),
    # NVIDIA: 2 ulp for y from 2^-126 to 2^126
    of_two("__fdividef", fast(lambda x, y: 2 + 0 * x), pairs_within((-100, 100), (0.01, 100))),
]  # fmt: skip

_ROUNDED = [
    *(of_two(name, rounded) for name in ("__fadd_rn", "__fsub_rn", "__fmul_rn", "__fdiv_rn")),
    *(of_float(name, rounded) for name in ("sqrtf", "__fsqrt_rn", "__frcp_rn", "__frsqrt_rn", "__saturatef", "rintf")),
    *(
        Probe(name, "float", ("float",) * 3, f"{name}(x, y, z)", float_triples, rounded)
        for name in ("fmaf", "__fmaf_rn")
    ),
    *(of_two(name, number) for name in ("fminf", "fmaxf")),
    Probe("operator /", "float", ("float", "float"), "x / y", float_pairs, rounded),
    Probe("min float", "float", ("float", "float"), "min(x, y)", float_pairs, number),
    Probe("max float", "float", ("float", "float"), "max(x, y)", float_pairs, number),
]

_TO_INTEGER = [
    *(of_float(f"__float2int_{mode}", exact, out="int") for mode in ("rn", "rz", "rd", "ru")),
    *(of_float(f"__float2uint_{mode}", exact, out="unsigned") for mode in ("rn", "rz", "rd", "ru")),
    of_word("__int2float_rn", "int", "float"),
    of_word("__uint2float_rn", "unsigned", "float"),
]

_BITS = [
    of_float("__float_as_uint", exact, out="unsigned"),
    of_float("__float_as_int", exact, out="int"),
    of_word("__uint_as_float", "unsigned", "float"),
    of_word("__int_as_float", "int", "float"),
    of_word("__longlong_as_double", I64, "double"),
    Probe(
        "__double_as_longlong",
        I64,
        (I64,),
        "__double_as_longlong(__longlong_as_double(x))",
        signed(words(1, 64)),
        exact,
    ),
    of_word("__popc", "unsigned", "int"),
    of_word("__popcll", U64, "int"),
    of_word("__ffs", "int", "int"),
    of_word("__ffsll", I64, "int"),
    of_word("__clz", "int", "int"),
    of_word("__clzll", I64, "int"),
    of_word("__brev", "unsigned", "unsigned"),
    of_two("__umulhi", exact, words(2), "unsigned"),
    of_two("__mulhi", exact, signed(words(2)), "int"),
    of_two("__umul64hi", exact, words(2, 64), U64),
    Probe("min int", "int", ("int", "int"), "min(x, y)", signed(words(2)), exact),
    Probe("max unsigned", "unsigned", ("unsigned", "unsigned"), "max(x, y)", words(2), exact),
    *(
        Probe(name, "unsigned", ("unsigned",) * 3, f"{name}(x, y, z)", words(3), exact)
        for name in ("__byte_perm", "__funnelshift_l", "__funnelshift_r")
    ),
    Probe("__dp4a", "int", ("int",) * 3, "__dp4a(x, y, z)", signed(words(3)), exact),
]  # fmt: skip

# hexp and its kin are said to round to nearest; 1 ulp of bf16 and f16 leaves room for what they are computed with.
_HALVES = [
    of_float("__float2bfloat16", exact, out="bf16"),
    of_float("__float2bfloat16_rz", exact, out="bf16"),
    Probe("__bfloat162float", "float", ("bf16",), "__bfloat162float(x)", every_half(), exact),
    of_float("__float2half", exact, out="__half"),
    Probe("__half2float", "float", ("__half",), "__half2float(x)", half_float(every_half()), rounded),
    Probe("__floats2bfloat162_rn", PAIR, ("float",) * 2, "__floats2bfloat162_rn(x, y)", float_pairs, exact),
    Probe("__hfma bf16", "bf16", ("bf16",) * 3, "__hfma(x, y, z)", everyday_halves("bf16"), rounded_bf16),
    Probe("__hfma any bf16", "bf16", ("bf16",) * 3, "__hfma(x, y, z)", every_half(3), rounded_bf16),
    Probe("__hfma f16", "__half", ("__half",) * 3, "__hfma(x, y, z)", everyday_halves("f16"), rounded_f16),
    Probe("__hfma any f16", "__half", ("__half",) * 3, "__hfma(x, y, z)", half_float(every_half(3)), rounded_f16),
    Probe("__hfma2 bf16", PAIR, (PAIR,) * 3, "__hfma2(x, y, z)", half_pairs("bf16"), rounded_bf16),
    Probe("__hfma2 f16", "__half2", ("__half2",) * 3, "__hfma2(x, y, z)", half_pairs("f16"), rounded_f16),
    *(
        Probe(f"{name} {kind}", cpp, (cpp,), f"{name}(x)", recipe, ulps(1))
        for name in ("hexp", "hlog", "hsqrt", "hrsqrt")
        for kind, cpp, recipe in (("bf16", "bf16", every_half()), ("f16", "__half", half_float(every_half())))
    ),
]  # fmt: skip

_LOADS = ("__ldg", "__ldca", "__ldcg", "__ldcs", "__ldlu", "__ldcv")
_STORES = ("__stwb", "__stcg", "__stcs", "__stwt")
_MEMORY = [
    *(Probe(name, "int", ("int",), f"{name}(&a[i])", signed(words()), exact) for name in _LOADS),
    *(Probe(name, "int", ("int",), f"{name}(&out[i], x);", signed(words()), exact) for name in _STORES),
    Probe(
        "__cvta_generic_to_shared", "int", ("int",),
        "__shared__ int tile[64]; tile[threadIdx.x] = x; __syncthreads();"
        " out[i] = __cvta_generic_to_shared(&tile[threadIdx.x]) - __cvta_generic_to_shared(&tile[0]);",
        signed(words()), exact,
    ),
    Probe(
        "__cvta_generic_to_global", "int", ("int",),
        "__cvta_generic_to_global(&a[i]) - __cvta_generic_to_global(&a[0])",
        signed(words()), exact,
    ),
]  # fmt: skip

PROBES = [*_MATH, *_ROUNDED, *_TO_INTEGER, *_BITS, *_HALVES, *_MEMORY]
