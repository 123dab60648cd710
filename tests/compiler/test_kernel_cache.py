"""The kernel cache cannot lie: what the image depends on is in its key, and a damaged entry is never used."""

import json
import multiprocessing
import shutil

import pytest

from bindings import nvrtc
from bindings.errors import CompileError, CutawayError

SOURCE = """#include "answer.cuh"
extern "C" __global__ void answer(int* out) { out[0] = ANSWER + OFFSET; }
"""


@pytest.fixture
def sources(tmp_path, monkeypatch, device):
    """A folder of kernel sources with one header, and a cache of its own."""
    folder = tmp_path / "cuda_src"
    (folder / "include").mkdir(parents=True)
    (folder / "answer.cu").write_text(SOURCE)
    (folder / "include" / "answer.cuh").write_text("#define ANSWER 42\n")
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cache"))
    return folder


def build(sources, device, **defines):
    nvrtc.forget_texts()
    return nvrtc.compile_kernel(sources / "answer.cu", {"OFFSET": 0} | defines, device.arch, sources)


def test_a_second_build_comes_from_the_cache(sources, device):
    first, second = build(sources, device), build(sources, device)
    assert not first.from_cache and second.from_cache
    assert first.image == second.image and first.folder == second.folder
    files = {file.name for file in first.folder.iterdir()}
    assert files == {"kernel.cu", "image", "compile.log", "key.json", "whole.json"}


def test_a_touched_header_a_define_or_a_source_make_a_new_entry(sources, device):
    folders = {build(sources, device).folder}
    (sources / "include" / "answer.cuh").write_text("#define ANSWER 43\n")
    folders.add(build(sources, device).folder)
    folders.add(build(sources, device, OFFSET=1).folder)
    (sources / "answer.cu").write_text(SOURCE + "// changed\n")
    folders.add(build(sources, device).folder)
    assert len(folders) == 4


def test_the_toolchain_is_part_of_the_key(sources, device, monkeypatch):
    first = build(sources, device).folder
    monkeypatch.setattr(nvrtc, "toolchain", lambda: "another compiler")
    assert build(sources, device).folder != first


@pytest.mark.parametrize("file", ["image", "key.json"])
def test_a_truncated_entry_is_built_again_with_a_warning(sources, device, file):
    entry = build(sources, device)
    path = entry.folder / file
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(UserWarning, match=f"{entry.folder} is damaged"):
        again = build(sources, device)
    assert not again.from_cache and again.image != b""
    assert json.loads((again.folder / "key.json").read_text())["arch"] == device.arch


def test_an_entry_that_lost_a_file_is_built_again(sources, device):
    entry = build(sources, device)
    (entry.folder / "image").unlink()
    with pytest.warns(UserWarning, match="damaged"):
        assert not build(sources, device).from_cache


def test_an_error_in_a_kernel_names_file_and_line_and_leaves_nothing(sources, device, tmp_path):
    (sources / "answer.cu").write_text(SOURCE + "extern undeclared_type x;\n")
    with pytest.raises(CompileError, match=r"answer\.cu does not compile: .*answer\.cu[:(]3") as caught:
        build(sources, device)
    assert "undeclared_type" in caught.value.log and "\n" not in str(caught.value)
    kernels = tmp_path / "cache" / "kernels" / device.arch
    assert not kernels.exists() or list(kernels.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_named(sources, device, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(CutawayError, match="set CUTAWAY_CACHE to a folder"):
        build(sources, device)


def _write(folder, key, source, image):
    nvrtc._write_entry(folder, key, source, image, "log")


def test_two_processes_that_write_one_entry_leave_one_whole_entry(sources, device, tmp_path):
    entry = build(sources, device)
    key = nvrtc.cache_key(sources / "answer.cu", ["-DX=1"], device.arch, sources)
    folder = tmp_path / "cache" / "kernels" / device.arch / "raced"
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    arguments = (folder, key, sources / "answer.cu", entry.image)
    writers = [context.Process(target=_write, args=arguments) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    assert nvrtc._read_entry(folder, key).image == entry.image
    assert not list(folder.parent.glob(".part-*"))
    shutil.rmtree(folder)
