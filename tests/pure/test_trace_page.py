"""The page of a trace, up to the browser: packed without loss, escaped, written whole or not at all."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bindings.errors import CutawayError
from tests.large_trace import call, header, large_trace, launch, step_note
from tools.trace.page import write_page
from tools.trace.page.columns import Interned, pack
from tools.trace.page.document import SCRIPTS, document
from tools.trace.page.memory import changes
from tools.trace.page.sources import sources_of
from tools.trace.recording import Recording

PAGE = Path(write_page.__code__.co_filename).parent
HOSTILE = "</script><script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">"

Record = dict[str, Any]


def unpacked_calls(packed: Record) -> list[Record]:
    """The calls that `pack` was given, read as data.js reads them."""
    columns, bodies, values, strings = (packed[name] for name in ("calls", "bodies", "values", "strings"))
    numbers, starts = accumulate(columns["n"]), accumulate(columns["start"])
    rows = zip(numbers, starts, columns["duration"], columns["label"], columns["body"], strict=True)
    return [
        {"kind": "call", "n": n, "t_us": start / 1e3, "host_us": duration / 1e3, "label": strings[label]}
        | {name: values[value] for name, value in bodies[body].items()}
        for n, start, duration, label, body in rows
    ]


def unpacked_activities(packed: Record) -> list[tuple[int, Record]]:
    """(row of the call, activity) as `pack` was given them."""
    columns, strings = packed["activities"], packed["strings"]
    rows, starts = accumulate(columns["call"]), accumulate(columns["start"])
    names = ("what", "name", "stream")
    return [
        (
            row,
            {name: strings[columns[name][i]] for name in names}
            | {"start_us": start / 1e3, "end_us": (start + columns["duration"][i]) / 1e3}
            | ({"of": columns["of"][i]} if columns["of"][i] else {})
            | ({"replayed": True} if columns["replayed"][i] else {}),
        )
        for i, (row, start) in enumerate(zip(rows, starts, strict=True))
    ]


def unpacked_tables(notes: list[Record]) -> list[dict[str, list[int]]]:
    """All block tables of each step, from the changes."""
    tables: dict[str, list[int]] = {}
    result = []
    for note in notes:
        for request in note["released"] + note["preempted"]:
            tables.pop(str(request), None)
        for request, (kept, pages) in note["tables"].items():
            tables[request] = tables.get(request, [])[:kept] + pages
        result.append(dict(tables))
    return result


def rounded(value: Any) -> Any:
    """Numbers as the page has them, in whole nanoseconds."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def data_of(page: str) -> Record:
    """The data inside a page."""
    found = re.search(r'<script id="data" type="application/gzip">([A-Za-z0-9+/=]*)</script>', page)
    assert found, "the data is one element, and base64 all through"
    packed: Record = json.loads(gzip.decompress(base64.b64decode(found.group(1))))
    return packed


def test_calls_and_activities_come_back_as_they_were() -> None:
    records = large_trace(num_layers=2, num_steps=3).records
    ran = {"what": "kernel", "name": "rmsnorm", "start_us": 5.25, "end_us": 7.5, "stream": "stream 2"}
    records.append(call(900, 1e6, "cuGraphLaunch", activities=[ran | {"of": 3, "replayed": True}]))
    packed = pack(header(), records)
    calls = [record for record in records if record["kind"] == "call"]
    ran = [(row, activity) for row, each in enumerate(calls) for activity in each.pop("activities", [])]
    assert rounded(unpacked_calls(packed)) == rounded(calls)
    assert rounded(unpacked_activities(packed)) == rounded(ran)


def test_what_repeats_is_stored_once() -> None:
    packed = pack(header(), large_trace(num_layers=16, num_steps=40).records)
    assert len(packed["calls"]["n"]) == 16 * 40 * 5
    assert len(packed["bodies"]) == 5, "the same launches in every layer and step have one body each"


def test_equal_to_python_is_not_equal() -> None:
    interned = Interned()
    values = [1, True, 1.0, "1", [1], {"a": 1}, {"a": True}, None, ["1"], "[1]"]
    assert [interned.number(value) for value in values] == list(range(len(values)))
    assert [interned.number(value) for value in values] == list(range(len(values)))
    assert [type(value) for value in interned.values] == [type(value) for value in values]


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.integers(0, 3), st.lists(st.integers(0, 9), max_size=4), max_size=3),
            st.sets(st.integers(0, 3), max_size=2),
            st.sets(st.integers(0, 9)),
        ),
        max_size=12,
    )
)
def test_tables_and_cached_pages_come_back_from_their_changes(history: list[Any]) -> None:
    """Any tables may change into any others, and a request may let go of its pages and take some in one step."""
    tables: dict[str, list[int]] = {}
    expected, cached, notes = [], [], []
    for step, (changed, released, kept) in enumerate(history):
        tables = {request: pages for request, pages in tables.items() if int(request) not in released}
        tables |= {str(request): pages for request, pages in changed.items()}
        expected.append(dict(tables))
        cached.append(kept)
        told = {str(request): pages for request, pages in changed.items()}
        notes.append(step_note(step, float(step), tables=told, released=sorted(released), cached=sorted(kept)))
    packed = pack(header(), notes)["notes"]
    assert unpacked_tables(packed) == expected
    now: set[int] = set()
    for note, pages in zip(packed, cached, strict=True):
        joined, left = note["cached"]
        assert not now & set(joined) and set(left) <= now
        now = now - set(left) | set(joined)
        assert now == pages


def test_memory_counts_what_the_device_holds() -> None:
    records = [
        call(1, 0.0, "cuMemAlloc", buffer="layers.0.mlp.down.weight", nbytes=100),
        call(2, 1.0, "cuMemHostAlloc", buffer="step.host", nbytes=7),
        call(3, 2.0, "cuMemAlloc", buffer="kv_pages", nbytes=50) | {"result": "CUDA_ERROR_OUT_OF_MEMORY"},
        call(4, 3.0, "cuMemFree", buffer="layers.0.mlp.down.weight", nbytes=100),
    ]
    assert changes(records) == {
        "owners": ["weights", "KV pages", "activations", "workspace", "step buffers", "other"],
        "call": [0, 3], "owner": [0, 0], "bytes": [100, -100],
    }  # fmt: skip


def test_each_engine_has_steps_and_pages_of_its_own() -> None:
    records = [
        step_note(1, 0.0, tables={"0": [0, 1]}, cached=[5]),
        launch(1, 1.0, "rmsnorm", "step 1 / prefill", 2.0, 1.0),
        step_note(2, 3.0, tables={"0": [0, 1, 2]}, cached=[5]),
        step_note(1, 9.0, tables={"0": [0]}, cached=[5]),
        launch(2, 10.0, "rmsnorm", "step 1 / prefill", 12.0, 1.0),
        call(3, 20.0, "cuMemFree"),
    ]
    packed = pack(header(), records)
    assert [(note["name"], note["begins"]) for note in packed["notes"]] == [
        ("step 1", True), ("step 2", False), ("engine 2 step 1", True),
    ]  # fmt: skip
    assert [note["tables"]["0"] for note in packed["notes"]] == [[0, [0, 1]], [2, [2]], [0, [0]]]
    assert [note["cached"] for note in packed["notes"]] == [[[5], []], [[], []], [[5], []]]
    labels = [each["label"] for each in unpacked_calls(packed)]
    assert labels == ["step 1 / prefill", "engine 2 step 1 / prefill", ""]


def test_a_call_is_explained_once_for_all_that_are_like_it() -> None:
    packed = pack(header(), large_trace(num_layers=2, num_steps=2).records)
    texts = [" ".join(packed["strings"][number] for number in words) for words in packed["words"]]
    products = [text for text in texts if "Why the operands are swapped: we want out[4, 3072]" in text]
    assert len(texts) == len(packed["bodies"]) == 5 and len(products) == 1
    assert any("add_rmsnorm: add a sublayer's output" in text for text in texts)


def test_sources_are_those_that_were_launched_with_what_they_include() -> None:
    found = sources_of([launch(1, 0.0, "add_rmsnorm", "", 1.0, 1.0), call(2, 1.0, "cuMemAlloc")])
    assert set(found["includes"]) == {"rmsnorm.cu"}
    assert {"include/common.cuh", "include/reduce.cuh"} <= set(found["includes"]["rmsnorm.cu"])
    assert set(found["files"]) == {"rmsnorm.cu", *found["includes"]["rmsnorm.cu"]}
    assert "add_rmsnorm(bf16*" in found["files"]["rmsnorm.cu"]


def test_a_trace_of_somebody_else_brings_no_other_files_into_the_page(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "mine.cu").write_text("// a learner's own kernel")
    names = [str(tmp_path / "secret.txt"), "../pyproject.toml", "no_such.cu", str(tmp_path / "mine.cu")]
    found = sources_of([call(i, 0.0, "cuLaunchKernel", source=name) for i, name in enumerate(names)])
    assert found["files"] == {names[3]: "// a learner's own kernel"}


def test_hostile_texts_stay_inside_the_data(tmp_path: Path) -> None:
    records = [launch(1, 0.0, HOSTILE, HOSTILE, 1.0, 1.0)]
    path = tmp_path / "page.html"
    write_page(Recording(header(command=HOSTILE), records), path)
    page = path.read_text()
    plain = document(pack(header(), []) | {"sources": sources_of([])}, "")
    assert page.count("<script") == plain.count("<script") and "<img" not in page
    assert f"<title>{html.escape(HOSTILE)} · Cutaway trace</title>" in page
    assert data_of(page)["header"]["command"] == HOSTILE


def test_a_command_that_is_no_text_is_still_a_page(tmp_path: Path) -> None:
    """Python tells bytes of argv that are no UTF-8 as lone surrogates, which no file can hold."""
    path = tmp_path / "page.html"
    write_page(Recording(header(command="generate \udcff"), []), path)
    assert "<title>generate ? · Cutaway trace</title>" in path.read_text()


def test_the_policy_names_every_script_and_nothing_else(tmp_path: Path) -> None:
    page = document(pack(header(), []) | {"sources": sources_of([])}, "")
    policy = html.unescape(re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[0])
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == len(SCRIPTS)
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts}
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert set(rules["script-src"].split()) == hashes
    assert rules["default-src"] == "'none'" and "unsafe" not in policy


def test_every_script_is_part_of_the_page_and_names_no_address() -> None:
    assert sorted(SCRIPTS) == sorted(path.name for path in PAGE.glob("*.js"))
    for path in [*PAGE.glob("*.js"), PAGE / "page.css", PAGE / "template.html"]:
        text = path.read_text()
        addresses = set(re.findall(r"https?://[^\"'\s)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, f"{path.name}: {addresses}"
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text and "document.write" not in text


@pytest.mark.parametrize("where", ["missing/page.html", "file/page.html", "folder"])
def test_a_path_that_cannot_be_written_is_one_line(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CutawayError) as caught:
        write_page(Recording(header(), []), tmp_path / where)
    assert str(caught.value).startswith(f"cannot write the page to {tmp_path / where}: ")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_page_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    write_page(Recording(header(command="first"), []), path)
    first = path.read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tools.trace.page.os.replace", full)
        with pytest.raises(CutawayError, match="No space left on device"):
            write_page(Recording(header(command="second"), []), path)
    assert path.read_text() == first and list(tmp_path.iterdir()) == [path]
    write_page(Recording(header(command="third"), []), path)
    assert data_of(path.read_text())["header"]["command"] == "third"
