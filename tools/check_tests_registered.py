#!/usr/bin/env python3
"""Refuses a test file that no test run would ever see.

Each tests/**/*_test.cc must be named, literally, by a CMakeLists.txt which the build reaches from
tests/CMakeLists.txt. Each Python file with tests in it must lie below tests/python, be called
test_*.py, and not be left out by pytest's configuration.

usage: check_tests_registered.py [root]    prints one line per offence; exit status 1 if any
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

LISTS = "CMakeLists.txt"


def cmake_text(path: Path) -> str:
    """The file without its comments; empty when there is none."""
    return re.sub(r"#.*", "", path.read_text(encoding="utf-8")) if path.exists() else ""


def is_reached(folder: Path, tests: Path) -> bool:
    """Whether the build gets from tests/ to `folder`."""
    if not (folder / LISTS).exists():
        return False
    if folder == tests:
        return True
    text = cmake_text(folder.parent / LISTS)
    named = re.search(rf'add_subdirectory\(\s*"?{re.escape(folder.name)}"?\s*\)', text)
    return (named is not None or "gearshift_add_test_folders()" in text) and is_reached(
        folder.parent, tests
    )


def registered_cpp(tests: Path) -> set[Path]:
    """The test files that reached CMakeLists.txt files name."""
    files: set[Path] = set()
    for lists in tests.rglob(LISTS):
        if is_reached(lists.parent, tests):
            names = re.findall(r"(?<![\w./}-])[\w./-]+_test\.cc", cmake_text(lists))
            files.update((lists.parent / name).resolve() for name in names)
    return files


def has_tests(path: Path) -> bool:
    """Whether pytest would find a test in the file, were it collected."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
            "test_"
        ):
            return True
    return False


def pytest_options(root: Path) -> dict[str, list[str]]:
    config = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    options = config.get("tool", {}).get("pytest", {}).get("ini_options", {})
    return {key: value for key, value in options.items() if isinstance(value, list)}


def python_offences(root: Path) -> Iterator[str]:
    tests = root / "tests"
    options = pytest_options(root)
    if "tests/python" not in options.get("testpaths", []):
        yield "pyproject.toml: testpaths of pytest leaves out tests/python"
    ignored = options.get("norecursedirs", []) + [
        option.removeprefix("--ignore=").removeprefix("--ignore-glob=")
        for option in options.get("addopts", [])
        if option.startswith("--ignore")
    ]
    for path in sorted(tests.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if path.name == "conftest.py":
            if "collect_ignore" in path.read_text(encoding="utf-8"):
                yield f"{name}: collect_ignore hides tests"
            continue
        called_a_test = fnmatch(path.name, "test_*.py")
        if called_a_test and not has_tests(path):
            yield f"{name}: has no test in it"
        if not has_tests(path):
            continue
        if not called_a_test or not path.is_relative_to(tests / "python"):
            yield f"{name}: pytest collects only tests/python/**/test_*.py"
        if any(pattern in name or fnmatch(name, pattern) for pattern in ignored):
            yield f"{name}: left out by pytest's options in pyproject.toml"


def offences(root: Path) -> Iterator[str]:
    tests = root / "tests"
    registered = registered_cpp(tests)
    for path in sorted(tests.rglob("*_test.cc")):
        if path not in registered:
            yield f"{path.relative_to(root)}: in no {LISTS} that the build reaches"
    yield from python_offences(root)


def main(arguments: list[str]) -> int:
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    found = list(offences(root.resolve()))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
