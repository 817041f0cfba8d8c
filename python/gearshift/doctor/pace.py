"""How fast this process computes, while all the others do the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

_SECONDS = 0.25
_SIDE = 256
_COPIED = 16 << 20


@dataclass(frozen=True)
class Pace:
    """Floating-point operations, and bytes copied, per second."""

    flops: float
    copied: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def measure(seconds: float = _SECONDS) -> Pace:
    """Multiply matrices, then copy memory that no cache holds, for so long each."""
    a = np.ones((_SIDE, _SIDE), np.float32)
    out = np.empty_like(a)
    source = np.ones(_COPIED, np.uint8)
    target = np.empty_like(source)
    products = _rate(lambda: np.matmul(a, a, out=out), seconds)
    copies = _rate(lambda: np.copyto(target, source), seconds)
    return Pace(2.0 * _SIDE**3 * products, float(_COPIED) * copies)


def _rate(action: Callable[[], object], seconds: float) -> float:
    """Times per second."""
    action()
    count, begin = 0, time.perf_counter()
    while True:
        action()
        count += 1
        passed = time.perf_counter() - begin
        if passed >= seconds:
            return count / passed
