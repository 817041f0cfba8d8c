#!/usr/bin/env python3
"""Checks that python/gearshift/_bindings.py has the digest of the bindings in python/src.

usage: tools/check_bindings.py [--fix]

With --fix, as the build calls it, the digest is written where it differs.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "python" / "gearshift" / "_bindings.py"
LINE = re.compile(r'^DIGEST = "(.*)"$', re.MULTILINE)


def digest(folder: Path) -> str:
    """Of the names and contents of all C++ files in a folder."""
    found = hashlib.sha256()
    for path in sorted([*folder.glob("*.cc"), *folder.glob("*.h")]):
        found.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


def main() -> int:
    text = FILE.read_text(encoding="utf-8")
    fresh = LINE.sub(f'DIGEST = "{digest(ROOT / "python" / "src")}"', text)
    if fresh == text:
        return 0
    if sys.argv[1:] == ["--fix"]:
        FILE.write_text(fresh, encoding="utf-8")
        return 0
    print(f"{FILE.relative_to(ROOT)}: python/src has changed: run tools/check_bindings.py --fix")
    return 1


if __name__ == "__main__":
    sys.exit(main())
