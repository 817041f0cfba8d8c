#!/usr/bin/env python3
"""Refuses files of more than 500 lines and Python functions of more than 60.

What counts is the body, as for clang-tidy, which looks after the C++ functions (tools/tidy.sh).

usage: check_sizes.py [root]    prints one line per offence; exit status 1 if there is any
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 500
FUNCTION_LINES = 60
FOLDERS = ("include", "src", "apps", "python", "tests", "bench", "examples", "tools")
SUFFIXES = (".h", ".cc", ".py", ".sh")


def function_offences(text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.body[0].lineno + 1
            if lines > FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {lines} lines, more than {FUNCTION_LINES}"


def offences(root: Path) -> Iterator[str]:
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in SUFFIXES:
                continue
            name = path.relative_to(root)
            text = path.read_text(encoding="utf-8")
            lines = len(text.splitlines())
            if lines > FILE_LINES:
                yield f"{name}:{lines}: {lines} lines, more than {FILE_LINES}"
            if path.suffix == ".py":
                for line, offence in function_offences(text):
                    yield f"{name}:{line}: {offence}"


def main(arguments: list[str]) -> int:
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    found = list(offences(root.resolve()))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
