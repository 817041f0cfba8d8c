"""Limits of the control group that this process is in."""

from __future__ import annotations

from collections.abc import Iterator
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
    texts = [_text(folder / name) for folder in _groups(root, own)]
    found = [text for text in texts if text is not None and not text.startswith("max")]
    return min(found, key=_rate) if found else None


def memory_left(root: Path = _ROOT, own: str | None = None) -> int | None:
    """Bytes that the group, and those that it is in, still have below their limits.

    What files have left in memory counts as free where the kernel would give it up first. None and
    arguments as of :func:`read_limit`.
    """
    found = []
    for folder in _groups(root, own):
        most, now = (_text(folder / f"memory.{name}") for name in ("max", "current"))
        if most is not None and most.isdecimal() and now is not None and now.isdecimal():
            lines = (_text(folder / "memory.stat") or "").splitlines()
            stat = dict(line.split(" ", 1) for line in lines if " " in line)
            found.append(int(most) - int(now) + int(stat.get("inactive_file", 0)))
    return max(0, min(found)) if found else None


def _groups(root: Path, own: str | None) -> Iterator[Path]:
    """The folders of the own group and of those that it is in, upwards."""
    own = _own_group() if own is None else own
    folder = root / own.lstrip("/")
    folder = folder if folder.is_dir() else root  # within a container, the own group is the root
    while folder == root or root in folder.parents:
        yield folder
        folder = folder.parent


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
