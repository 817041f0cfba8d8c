"""Limits of the control group that this process is in."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def read_limit(name: str, root: Path = _ROOT, own: str | None = None) -> str | None:
    """The strictest `name` ("cpu.max", "memory.max") from the own group upwards.

    None where none of the groups has a limit, or groups are of version 1.

    Args:
        name: of the file.
        root: where groups are mounted.
        own: the group of this process, as "/user.slice/…".
    """
    own = _own_group() if own is None else own
    folder = root / own.lstrip("/")
    folder = folder if folder.is_dir() else root  # within a container, the own group is the root
    found = []
    while folder == root or root in folder.parents:
        text = _text(folder / name)
        if text is not None and not text.startswith("max"):
            found.append(text)
        folder = folder.parent
    return min(found, key=_rate) if found else None


def _rate(text: str) -> float:
    numbers = [float(word) for word in text.split()]
    return numbers[0] / numbers[1] if len(numbers) > 1 else numbers[0]


def _own_group() -> str:
    lines = (_text(Path("/proc/self/cgroup")) or "").splitlines()
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
