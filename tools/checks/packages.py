"""Python, and the packages that pyproject.toml asks for."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.checks.check import Check, first_line

PROJECT = Path(__file__).resolve().parent.parent.parent / "pyproject.toml"
# What is imported to see that a package works, where the names differ; None: headers only.
MODULES: dict[str, str | None] = {
    "cuda-bindings": "cuda.bindings.driver",
    "cuda-pathfinder": "cuda.pathfinder",
    "nvidia-cuda-runtime": None,
    "nvidia-cuda-crt": None,
}


@dataclass(frozen=True)
class Requirement:
    """`package` in the versions `wanted` (">=1.26,<3"); `extra` is empty for what is always needed."""

    package: str
    wanted: str
    extra: str = ""


def parse(text: str, extra: str = "") -> Requirement:
    """A requirement as pyproject.toml or installed metadata writes it: `numpy<3,>=1.26; extra == "x"`."""
    spec, _, marker = text.partition(";")
    match = re.match(r"\s*([\w.-]+)\s*(?:\[[^\]]*\])?\s*\(?([^)]*)\)?", spec)
    named = re.search(r"extra\s*==\s*[\"']([\w-]+)", marker)
    package, wanted = match.groups() if match else (spec.strip(), "")
    return Requirement(package, wanted.replace(" ", ""), named[1] if named else extra)


def requirements() -> list[Requirement]:
    """From the installed metadata; where Cutaway itself is not installed, from pyproject.toml."""
    try:
        return [parse(line) for line in importlib.metadata.requires("cutaway") or []]
    except importlib.metadata.PackageNotFoundError:
        return from_pyproject()


def from_pyproject() -> list[Requirement]:
    """The same from the checkout. Raises ImportError on Python 3.10, which can't read TOML."""
    project = importlib.import_module("tomllib").loads(PROJECT.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    return [parse(line) for line in project["dependencies"]] + [
        parse(line, extra) for extra, lines in optional.items() for line in lines
    ]


def release(version: str) -> tuple[int, ...]:
    """The numbers at the start of a version: "13.0.1rc2" -> (13, 0, 1)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def satisfies(version: str, wanted: str) -> bool:
    """Whether `version` is in a range of >= and < (all that pyproject.toml uses for what runs; others pass)."""
    have = release(version)
    for part in filter(None, wanted.split(",")):
        bound = release(part.lstrip("<>=!~"))
        width = max(len(have), len(bound))
        left, right = (numbers + (0,) * (width - len(numbers)) for numbers in (have, bound))
        if (part.startswith(">=") and left < right) or (part.startswith("<") and part[1] != "=" and left >= right):
            return False
    return True


def probe() -> list[Check]:
    """Python, each package of the core, the extras, and `packages` for all that is needed together.

    Packages of headers are not among these: what they are needed for looks for the headers themselves.
    """
    wanted = requirements()
    core = [check_package(each) for each in wanted if not each.extra]
    named = {each.package for each in wanted if not each.extra}  # an extra may narrow what the core asks for
    extras = [check_package(each) for each in wanted if each.extra in optional_extras() and each.package not in named]
    bad = [check.name for check in core if check.state != "ok" and MODULES.get(check.name, "") is not None]
    summary = Check(
        "packages",
        "packages needed",
        "broken" if bad else "ok",
        f"{', '.join(bad)} missing or broken" if bad else "all there",
        fix="pip install -e ." if bad else "",
    )
    return [check_python(), summary, *core, *extras]


def optional_extras() -> tuple[str, ...]:
    """Those to look at: of the two for a GPU, the one of the CUDA version that cuda-bindings has."""
    try:
        major = release(importlib.metadata.version("cuda-bindings"))[0]
    except importlib.metadata.PackageNotFoundError:
        major = 13
    return ("cuda12" if major == 12 else "cuda", "compiler")


def check_python() -> Check:
    """The interpreter, against `requires-python`."""
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 10)
    found = f"{version} ({sys.executable})"
    fix = "" if ok else "install Python 3.10 or newer and make a new virtual environment with it"
    return Check("python", "Python", "ok" if ok else "broken", found, fix=fix, facts={"version": version})


def check_package(wanted: Requirement) -> Check:
    """One package: there, in its range, and importable."""
    identity = f"package.{wanted.package}"
    facts = {"wanted": wanted.wanted, "extra": wanted.extra, "version": None}
    install = f'pip install -e ".[{wanted.extra}]"' if wanted.extra else "pip install -e ."
    try:
        version = importlib.metadata.version(wanted.package)
    except importlib.metadata.PackageNotFoundError:
        found = f"not installed; optional, in the extra {wanted.extra!r}" if wanted.extra else "not installed"
        return Check(identity, wanted.package, "missing", found, "", install, facts)
    facts["version"] = version
    found = f"{version} (wanted {wanted.wanted})" if wanted.wanted else version
    if not satisfies(version, wanted.wanted):
        upgrade = f'pip install "{wanted.package}{wanted.wanted}"'
        return Check(identity, wanted.package, "broken", found, "out of the wanted range", upgrade, facts)
    failure = "" if wanted.extra else import_failure(wanted.package)
    if failure:
        reinstall = f"pip install --force-reinstall {wanted.package}"
        return Check(identity, wanted.package, "broken", found, f"cannot be imported: {failure}", reinstall, facts)
    return Check(identity, wanted.package, "ok", found, facts=facts)


def import_failure(package: str) -> str:
    """Why the package can't be imported, or an empty string."""
    module = MODULES.get(package, package.replace("-", "_"))
    try:
        if module is not None:
            importlib.import_module(module)
    except Exception as error:  # whatever a broken package raises
        return first_line(error)
    return ""
