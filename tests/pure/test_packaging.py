"""pyproject.toml and the sources agree: imports are declared, dependencies are used, files are shipped."""

from __future__ import annotations

import fnmatch
import re
import sys
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from bindings import toolkit
from tests.source_tree import REPOSITORY, imports, parse, python_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it there

ROOMS = {"bindings", "engine", "tools", "tests"}
# Which package an import comes from, where the names differ.
PACKAGES = {"cuda.bindings": "cuda-bindings", "cuda.pathfinder": "cuda-pathfinder", "cupti": "cupti-python"}
# Extras of which something is imported, by the one function that needs it.
OPTIONAL = ("trace", "plot")
# Packages that are used as files: headers and libraries found by cuda.pathfinder.
FILES_ONLY = {"nvidia-cuda-runtime", "nvidia-cuda-crt"}


def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\s<>=!~\[;]", requirement)[0] for requirement in requirements}


def imported_packages() -> dict[str, str]:
    """Third-party packages that bindings/, engine/ and tools/ import, each with one place that does."""
    found = {}
    for path in python_files("bindings", "engine", "tools"):
        for name, _, line in imports(parse(path)):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in ROOMS:
                continue
            module = ".".join(name.split(".")[:2]) if top == "cuda" else top
            found[PACKAGES.get(module, module)] = f"{path}:{line}"
    return found


def test_every_import_is_a_declared_dependency() -> None:
    declared = names(project()["project"]["dependencies"]).union(
        *(names(project()["project"]["optional-dependencies"][extra]) for extra in OPTIONAL)
    )
    missing = [f"{where}: {package}" for package, where in imported_packages().items() if package not in declared]
    assert not missing, f"imported, but not in pyproject.toml's dependencies: {', '.join(missing)}"


def test_every_declared_dependency_is_used() -> None:
    unused = names(project()["project"]["dependencies"]) - FILES_ONLY - set(imported_packages())
    assert not unused, f"in pyproject.toml's dependencies, but never imported: {', '.join(sorted(unused))}"


def admitted(package: str, *extras: str) -> set[str]:
    """Which of these versions pip may take when it installs the project with these extras."""
    wanted = [*project()["project"]["dependencies"]]
    for extra in extras:
        wanted += project()["project"]["optional-dependencies"][extra]
    ranges = SpecifierSet(",".join(str(each.specifier) for each in map(Requirement, wanted) if each.name == package))
    return set(ranges.filter(["11.8.0", "12.8.2", "12.9.0", "12.9.10", "13.0.0", "13.5.0", "14.0.0"]))


def test_each_extra_for_a_gpu_takes_one_cuda_version() -> None:
    twelve, thirteen = {"12.9.0", "12.9.10"}, {"13.0.0", "13.5.0"}
    assert admitted("cuda-bindings", "cuda12") == twelve
    assert admitted("cuda-bindings", "cuda") == thirteen
    assert admitted("cuda-bindings", "cuda12", "test") == twelve
    assert admitted("cuda-bindings", "cuda", "test") == thirteen
    assert admitted("cuda-bindings") == twelve | thirteen, "pip takes the newest"
    for name in toolkit.PACKAGES.values():
        assert admitted(f"{name}-cu12", "cuda12") == twelve
        assert admitted(name, "cuda") == thirteen, "the core brings the headers, the extra the rest"


def test_every_source_file_is_shipped() -> None:
    patterns = project()["tool"]["setuptools"]["package-data"]["*"]
    left_out = [
        str(path.relative_to(REPOSITORY))
        for room in ("bindings", "engine", "tools", "cuda_src")
        for path in (REPOSITORY / room).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".md")
        if not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
    ]
    assert not left_out, f"package-data in pyproject.toml leaves out {', '.join(left_out)}"
