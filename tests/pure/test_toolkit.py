"""Libraries and headers are of the CUDA version that cuda-bindings has, or an error says what to install."""

from __future__ import annotations

from pathlib import Path

import pytest

from bindings import cuda_headers, toolkit
from bindings.errors import CompileError, DeviceError

VERSIONS = {12: "12.9.10", 13: "13.5.0"}
EXTRAS = {12: r'pip install -e "\.\[cuda12\]"$', 13: r'pip install -e "\.\[cuda\]"$'}


@pytest.fixture(params=VERSIONS)
def major(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """cuda-bindings of each CUDA version in turn, and nothing of CUDA installed as a package."""
    monkeypatch.setattr(toolkit, "bindings_version", lambda: VERSIONS[request.param])
    monkeypatch.setattr(toolkit, "packaged_file", lambda library, name: None)
    monkeypatch.setattr(cuda_headers, "packaged_file", lambda library, name: None)
    return request.param


def find(monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    """Let cuda.pathfinder find the library at `path`, or nowhere."""
    import cuda.pathfinder

    class Loaded:
        abs_path = path

    def load(library: str) -> Loaded:
        if path is None:
            raise cuda.pathfinder.DynamicLibNotFoundError(library)
        return Loaded()

    monkeypatch.setattr(cuda.pathfinder, "load_nvidia_dynamic_lib", load)


@pytest.mark.parametrize("library", ["nvrtc", "cublas"])
def test_a_library_of_the_same_version_is_taken(major: int, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (f"lib{library}.so.{major}", f"lib{library}.so.{major}.1.2"):
        find(monkeypatch, f"/usr/lib/{name}")
        assert toolkit.load_library.__wrapped__(library) == Path(f"/usr/lib/{name}")


@pytest.mark.parametrize("library", ["nvrtc", "cublas"])
def test_a_library_of_another_version_is_refused(major: int, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = 25 - major
    find(monkeypatch, f"/usr/lib/lib{library}.so.{other}")
    with pytest.raises(DeviceError, match=rf"lib{library}\.so\.{other} is of CUDA {other}, .*{EXTRAS[major]}"):
        toolkit.load_library.__wrapped__(library)


@pytest.mark.parametrize("library", ["nvrtc", "cublas"])
def test_a_missing_library_names_the_extra(major: int, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find(monkeypatch, None)
    with pytest.raises(DeviceError, match=f"^{toolkit.TITLES[library]} is missing; run: {EXTRAS[major]}"):
        toolkit.load_library.__wrapped__(library)


def test_headers_are_of_the_same_version(major: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_headers, "find_nvidia_header_directory", lambda name: str(tmp_path))
    (tmp_path / "cuda_bf16.h").touch()
    (tmp_path / "cuda_runtime_api.h").write_text(f"#define CUDART_VERSION  {major}090\n")
    assert cuda_headers.cuda_headers.__wrapped__() == tmp_path
    (tmp_path / "cuda_runtime_api.h").write_text(f"#define CUDART_VERSION  {25 - major}000\n")
    package = {12: "nvidia-cuda-runtime-cu12", 13: "nvidia-cuda-runtime"}[major]
    with pytest.raises(CompileError, match=f"CUDA {major}'s headers are missing; run: pip install {package}$"):
        cuda_headers.cuda_headers.__wrapped__()


def test_a_packaged_file_is_found_or_not() -> None:
    assert toolkit.packaged_file("cudart", "no_such_header.h") is None
    found = toolkit.packaged_file("cudart", "cuda_bf16.h")
    assert found is None or found.is_file()


@pytest.mark.parametrize(
    ("version", "too_old_for"),
    [(0, {12, 13}), (11080, {12, 13}), (12000, {13}), (12040, {13}), (12090, {13}), (13000, set()), (14010, set())],
)
def test_a_driver_must_be_as_new_as_cuda_bindings(major: int, version: int, too_old_for: set[int]) -> None:
    shortfall = toolkit.driver_shortfall(version)
    assert (shortfall is not None) == (major in too_old_for)
    if shortfall:
        assert (
            VERSIONS[major] in shortfall[0]
            and f"update the driver to {toolkit.DRIVERS[major]} or newer" in shortfall[1]
        )
        assert ("[cuda12]" in shortfall[1]) == (major == 13 and version >= 12000)
