"""tools/trace/explanations.py: nothing that the engine calls or runs lacks a sentence."""

from __future__ import annotations

import ast
import re

from engine import lab_ops, ops
from tests.source_tree import parse, python_files
from tests.trace_events import Maker
from tools.trace.explanations import CALLS, OPS, ROLES, Explainer

# What listeners ask of the device themselves is not recorded, and so never explained.
LISTENERS = ("bindings/event_clock.py", "bindings/cupti_clock.py", "bindings/stream_gate.py", "tools/trace/")
UNRECORDED = ("bindings/cpu/", *LISTENERS)


def entry_points() -> set[str]:
    """Each function of the driver, NVRTC and cuBLAS that the project calls through the door (bindings/calls.py)."""
    files = [path for path in python_files("bindings", "engine", "tools") if not path.as_posix().startswith(UNRECORDED)]
    return {
        node.attr
        for path in files
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute)
        and getattr(node.value, "id", getattr(node.value, "attr", "")) in ("driver", "nvrtc", "cublas")
        and re.fullmatch(r"(cu|nvrtc|cublas)[A-Z]\w*(?<!Result)", node.attr)
    }


def test_every_entry_point_has_an_explanation_and_none_is_left_over() -> None:
    names = entry_points()
    assert len(names) > 40 and {"cuLaunchKernel", "nvrtcCompileProgram", "cublasGemmEx"} <= names
    assert names - CALLS.keys() == set(), "without an explanation"
    assert CALLS.keys() - names == set(), "explained, but nobody calls them"


def test_every_operation_has_a_reason_and_none_is_left_over() -> None:
    assert OPS.keys() == ops.ALL.keys()


def test_explanations_are_sentences() -> None:
    for text in (*CALLS.values(), *ROLES.values()):
        assert text[0].isupper() and text.endswith("."), text
    assert not any(text.endswith(".") for text in OPS.values())  # they stand behind "Why here: "


def test_each_kind_is_explained_once() -> None:
    maker, explain = Maker(), Explainer()
    first = explain(maker.launch("rmsnorm"))
    assert first[0].startswith("cuLaunchKernel: Queues a kernel")
    assert first[1] == f"rmsnorm: {ops.RMSNORM.summary}. Why here: {OPS['rmsnorm']}."
    assert explain(maker.launch("rmsnorm")) == []
    assert [text.partition(":")[0] for text in explain(maker.launch("argmax"))] == ["argmax"]
    assert explain(maker.call("cuInit")) == [f"cuInit: {CALLS['cuInit']}"]


def test_ladders_and_unknown_kernels_have_words_too() -> None:
    rung = next(iter(lab_ops.ALL))
    maker, explain = Maker(), Explainer()
    words = f"{rung}: {lab_ops.ALL[rung].summary}. Why here: a rung of the ladder to the production kernel."
    assert explain(maker.launch(rung))[1] == words
    assert "no operation of the engine describes" in explain(maker.launch("mine"))[0]


def test_swapped_operands_are_explained_with_this_calls_numbers() -> None:
    maker, explain = Maker(), Explainer()
    api, role, trick = explain(maker.product("layers.0.attention.qkv"))
    assert api.startswith("cublasGemmEx: ") and role == f"qkv: {ROLES['qkv']}"
    for words in (
        "out[5, 960] = a[5, 576] @ b[960, 576]^T", "asked for out^T[960, 5]", "m=960, n=5, k=576", "lda=576",
        "it sees b as [576, 960], and transa=CUBLAS_OP_T turns it back to the [960, 576]",
    ):  # fmt: skip
        assert words in trick
    assert explain(maker.product("layers.1.attention.qkv")) == []
    (untransposed,) = explain(maker.product("layers.0.attention.qkv", transpose_b=False))
    assert (
        "@ b[576, 960]," in untransposed
        and "sees b as [960, 576]" in untransposed
        and "CUBLAS_OP_N leaves it" in untransposed
    )
    assert [text.partition(":")[0] for text in explain(maker.product("layers.0.mlp.down"))] == ["down"]


def test_kernels_of_a_graph_are_explained_as_kernels_not_as_calls() -> None:
    event = Maker().launch("rmsnorm") | {"kind": "replayed", "graph": 1}
    assert [text.partition(":")[0] for text in Explainer()(event)] == ["rmsnorm"]
