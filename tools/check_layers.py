#!/usr/bin/env python3
"""Refuses includes against the direction of dependencies, and shortcuts around it.

A folder below src/ or include/gearshift/ includes only what its arrow names, and what that in turn
exposes (the transitive closure). Two more rules keep the design's promises: what waits, spawns or
asks the time goes through base::Scheduler, so that the same code runs on a virtual clock; and only
gearshift/torch, gearshift/demo and gearshift/study/tasks import torch, and only
include/gearshift/torch includes libtorch, so that the core needs no framework.

usage: check_layers.py [root]    prints one line per offence; exit status 1 if there is any
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ARROWS: dict[str, tuple[str, ...]] = {
    "base": (),
    "kernels": ("base",),
    "transport": ("base",),
    "rendezvous": ("base", "transport"),  # shares the handshake
    "group": ("transport", "rendezvous"),
    "membership": ("group", "rendezvous"),
    "collectives": ("group", "kernels"),
    "codec": ("base", "kernels"),
    "ps": ("group", "codec", "kernels", "collectives"),
    "strategy": ("collectives", "ps", "membership"),
    "runtime": ("strategy", "codec", "kernels"),
    "sim": ("strategy",),
    "torch": ("runtime",),  # headers alone, for users who have libtorch
}

# Where real threads, clocks and sockets belong. (The log stamps its lines with the wall clock.)
OS_PATHS = re.compile(
    r"(src/base/(os_[^/]*|log\.cc)|(src|include/gearshift)/(transport|runtime|rendezvous/(tcp|file))/.*)"
)
OS_ONLY = re.compile(
    r"\bstd::(jthread|thread|this_thread|async|(recursive_|shared_)?(timed_)?mutex"
    r"|condition_variable(_any)?|counting_semaphore|binary_semaphore|latch|barrier)\b"
    r"|\b\w+_clock::now\b"
    r"|\b(u|nano)?sleep\s*\("
    r"|#\s*include\s*<(thread|condition_variable|shared_mutex|semaphore|latch|barrier|future"
    r"|sys/socket\.h|poll\.h|sys/epoll\.h|netinet/.*|arpa/inet\.h)>"
)

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')
COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
TORCH_FOLDERS = ("torch", "demo", "study/tasks")
LIBTORCH = re.compile(r"(torch|ATen|c10)/")


@cache
def reachable(module: str) -> frozenset[str]:
    """The modules that `module` may include, itself among them."""
    below = (reachable(dependency) for dependency in ARROWS[module])
    return frozenset({module}).union(*below)


def module_of(path: Path, root: Path) -> str | None:
    """The module that a C++ file belongs to; None for the umbrella headers."""
    parts = path.relative_to(root).parts
    below = parts[1:] if parts[0] == "src" else parts[2:]
    return below[0] if len(below) > 1 else None


def included_module(target: str) -> str | None:
    """The module that an #include names, if it names one of ours."""
    parts = target.split("/")
    if parts[0] == "gearshift":
        parts = parts[1:]
    return parts[0] if len(parts) > 1 and parts[0] in ARROWS else None


def without_comments_and_strings(text: str) -> str:
    """`text` with the same lines, for looking for code in it; #include lines keep their file."""

    def blank(match: re.Match[str]) -> str:
        return '""' if match[0].startswith('"') else "\n" * match[0].count("\n")

    return COMMENT_OR_STRING.sub(blank, text)


def check_include(module: str | None, public: bool, line: str) -> str | None:
    match = INCLUDE.match(line)
    if not match:
        return None
    target = match[1] or match[2]
    if LIBTORCH.match(target):
        return None if module == "torch" else f"libtorch ({target}) outside gearshift/torch"
    if target.startswith("gearshift/") and target.count("/") == 1 and module is not None:
        return f"{module} includes the umbrella {target}, which is for users"
    other = included_module(target)
    if other is None or module is None:
        return None
    if other not in reachable(module):
        return f"{module} may not include {other} ({target})"
    private = not target.startswith("gearshift/")
    if private and public:
        return f"a public header includes a private one ({target})"
    if private and other != module:
        return f"{module} includes a private header of {other} ({target})"
    return None


def check_cpp(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    module = module_of(path, root)
    if module is not None and module not in ARROWS:
        yield 1, f"'{module}' is no module; they are {', '.join(ARROWS)}"
        return
    text = path.read_text(encoding="utf-8")
    public = path.is_relative_to(root / "include")
    for number, line in enumerate(text.splitlines(), 1):
        offence = check_include(module, public, line)
        if offence:
            yield number, offence
    if OS_PATHS.fullmatch(path.relative_to(root).as_posix()):
        return
    for number, line in enumerate(without_comments_and_strings(text).splitlines(), 1):
        found = OS_ONLY.search(line)
        if found:
            yield number, f"'{found[0].strip()}' instead of base::Scheduler or a transport"


def check_python(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "torch":
                yield node.lineno, f"imports {name} outside gearshift/{{{','.join(TORCH_FOLDERS)}}}"


def offences(root: Path) -> Iterator[str]:
    for folder in ("include/gearshift", "src"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".h", ".cc", ".hpp", ".cpp"):
                for line, text in check_cpp(path, root):
                    yield f"{path.relative_to(root)}:{line}: {text}"
    package = root / "python" / "gearshift"
    for path in sorted(package.rglob("*.py")):
        if not any(path.is_relative_to(package / folder) for folder in TORCH_FOLDERS):
            for line, text in check_python(path):
                yield f"{path.relative_to(root)}:{line}: {text}"


def main(arguments: list[str]) -> int:
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    found = list(offences(root.resolve()))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
