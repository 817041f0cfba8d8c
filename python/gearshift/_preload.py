"""Imports that a process keeps to its end."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterable

TORCH = ("torch", "torch._dynamo")
"""The first optimizer of a process imports the second."""


def preload(modules: Iterable[str]) -> None:
    """Import them while the garbage collector rests, and have it spare what is there then.

    PyTorch makes half a million objects, which stay. The collector would look at them again and
    again: a sixth of the time that their import takes, and copies of all of them in forks.
    """
    gc.disable()
    try:
        for module in modules:
            importlib.import_module(module)
        gc.collect()
        gc.freeze()
    finally:
        gc.enable()
