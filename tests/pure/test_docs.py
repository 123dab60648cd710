"""What README.md and docs/ name exists: files, functions, commands and their options."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source_tree import REPOSITORY, definitions, parse

PAGES = [Path("README.md"), *sorted(p.relative_to(REPOSITORY) for p in (REPOSITORY / "docs").rglob("*.md"))]
PATH = re.compile(r"(?<![\w./-])((?:bindings|engine|cuda_src|tools|tests|docs|\.ci)/[\w./*-]*(?:::[\w.]+)?)")
LINK = re.compile(r"\]\(([^)#\s]+)")

all_pages = pytest.mark.parametrize("page", PAGES, ids=str)


def text_of(page: Path) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in a code block or in backticks, cut at &&, | and comments."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in lines + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text):
        for command in re.split(r"\s&&\s|\s\|\s", re.sub(r"\s#\s.*", "", line)):
            if "python" in command and " -m " in command:
                yield shlex.split(command)


def module_call(words: list[str]) -> tuple[str, list[str]] | None:
    """(module, its arguments) of `python -m module ...`, whatever stands before it."""
    if "-m" not in words:
        return None
    at = words.index("-m")
    return words[at + 1], words[at + 2 :]


def exists(name: str) -> bool:
    """Whether `folder/`, `folder/file`, `folder/*.x` or `folder/file.py::Class.method` is there."""
    path, _, symbol = name.partition("::")
    found = any(REPOSITORY.glob(path.rstrip("/")))
    return found and (not symbol or symbol in definitions(parse(Path(path))))


@all_pages
def test_every_path_exists(page: Path) -> None:
    missing = [name for name in PATH.findall(text_of(page)) if not exists(name.rstrip("."))]
    assert not missing, f"{page} names what does not exist: {', '.join(missing)}"


@all_pages
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(text_of(page)) if "://" not in target]
    missing = [target for target in targets if not ((REPOSITORY / page).parent / target).exists()]
    assert not missing, f"{page} links to what does not exist: {', '.join(missing)}"


def parse_as(module: str, typed: list[str]) -> None:
    """Let the tool's own parser read a command; what tools.trace runs, the parser of that. Raises UsageError."""
    arguments = importlib.import_module(module).make_parser().parse_args(typed)
    if module == "tools.trace" and arguments.command:
        parse_as(f"tools.{arguments.command[0]}", arguments.command[1:])


@all_pages
def test_every_command_can_be_typed(page: Path) -> None:
    for words in commands(text_of(page)):
        call = module_call(words)
        assert call is not None, words
        module, arguments = call
        if module.startswith("tools."):
            parse_as(module, [word for word in arguments if word != "--help"])  # which would end the test
        else:
            assert module in ("pytest", "venv", "pip"), f"{page}: {' '.join(words)}"


def pytest_calls(page: Path) -> Iterator[tuple[list[str], list[str]]]:
    """(the files or folders, the words of -k) of each run of pytest that a page names."""
    for words in commands(text_of(page)):
        module, arguments = module_call(words) or ("", [])
        if module == "pytest":
            keywords = arguments[arguments.index("-k") + 1] if "-k" in arguments else ""
            yield (
                [word for word in arguments if word.startswith("tests")],
                re.findall(r"(?!or\b|and\b|not\b)\w+", keywords),
            )


@all_pages
def test_every_run_of_pytest_selects_tests(page: Path) -> None:
    for places, keywords in pytest_calls(page):
        files = [file for place in places for file in _test_files(REPOSITORY / place)]
        text = "".join(f"{file.name}\n{file.read_text(encoding='utf-8')}" for file in files)
        missing = [word for word in keywords if word not in text]
        assert not missing, f"{page}: no test in {' '.join(places)} is called {' or '.join(missing)}"


def _test_files(path: Path) -> list[Path]:
    return (
        [path] if path.is_file() else sorted(path.rglob("test_*.py")) + sorted((REPOSITORY / "cuda_src").rglob("*.cu"))
    )


def test_the_main_commands_are_in_the_readme() -> None:
    typed = [call for words in commands(text_of(Path("README.md"))) if (call := module_call(words))]
    assert ("tools.generate", ["Why is the sky blue?"]) in typed
    assert ("pytest", ["-n", "auto", "--dist", "loadfile"]) in typed


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see `engine/llm.py`, then", ["engine/llm.py"]),
        ("`tests/device/` and tools/cli.py::run.", ["tests/device/", "tools/cli.py::run."]),
        ("https://example.org/engine/x.py", []),
    ],
)
def test_paths_are_found_in_text(text: str, found: list[str]) -> None:
    assert PATH.findall(text) == found


def test_commands_are_found_in_text() -> None:
    block = 'cd x && python3 -m venv .venv  # once\nls | python -m tools.generate "a b"'
    text = f"Run `python -m pytest -x`:\n```bash\n{block}\n```"
    assert list(commands(text)) == [
        ["python3", "-m", "venv", ".venv"],
        ["python", "-m", "tools.generate", "a b"],
        ["python", "-m", "pytest", "-x"],
    ]


TOOLS = sorted({path.stem for path in (REPOSITORY / "tools").glob("[a-z]*")})


@pytest.mark.parametrize("name", TOOLS)
def test_every_example_of_a_tool_can_be_typed(name: str) -> None:
    tool = importlib.import_module(f"tools.{name}")
    if not hasattr(tool, "EXAMPLES"):
        return  # a part of the tools, not one of them
    examples = [module_call(words) for words in commands(f"```\n{tool.EXAMPLES}```")]
    assert examples
    for call in examples:
        assert call is not None and call[0] == f"tools.{name}"
        parse_as(*call)
