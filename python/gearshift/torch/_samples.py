"""How many samples a gradient stands for: its weight in the average."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidArgument


class _Override:
    """What gst.samples(n) said, until the next backward has used it."""

    def __init__(self) -> None:
        self.value: float | None = None


override = _Override()


def say(n: float) -> None:
    """Set the weight of the next backward."""
    if not 0 <= n < float("inf"):
        raise InvalidArgument(f"samples({n!r}): a number of samples is finite and not negative")
    override.value = float(n)


class SampleCounter:
    """Counts the samples that forward passes have seen since gradients were last exchanged."""

    def __init__(self) -> None:
        self._fresh = 0.0
        self._noted = False
        self._pending = 0.0
        self._last = 1.0
        self._seen: weakref.ref[Tensor] | None = None

    def note(self, inputs: Any) -> int:
        """A training forward on `inputs`; returns the samples that were not seen before."""
        tensor = next(leading_tensors(inputs), None)
        n = 1 if tensor is None else tensor.shape[0]
        self._fresh += n
        self._noted = True
        repeated = tensor is not None and self._seen is not None and self._seen() is tensor
        self._seen = None if tensor is None else weakref.ref(tensor)
        return 0 if repeated else n

    def begin_backward(self) -> None:
        """The samples seen so far belong to the backward that begins now."""
        if override.value is not None:
            self._last = override.value
        elif self._noted:
            self._last = self._fresh
        self._pending += self._last
        self._fresh, self._noted = 0.0, False

    @property
    def pending(self) -> float:
        """Samples of the gradients accumulated since the last exchange."""
        return self._pending

    @property
    def latest(self) -> float:
        """Samples of the latest backward."""
        return self._last

    def exchanged(self) -> None:
        """The gradients so far have been exchanged."""
        self._pending = 0.0


def outputs_requiring_grad(outputs: Any) -> list[Tensor]:
    """The tensors in a module's outputs through which a backward may begin."""
    return [t for t in _all_tensors(outputs) if t.requires_grad and t.grad_fn is not None]


def leading_tensors(value: Any) -> Iterator[Tensor]:
    """Tensors with a leading dimension, depth first."""
    return (t for t in _all_tensors(value) if t.dim() > 0)


def _all_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _all_tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _all_tensors(item)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from _all_tensors(getattr(value, name))


@torch._disable_dynamo
def _run(call: Any, arguments: Any) -> None:
    """Outside of compiled graphs: what hooks do depends on the call."""
    call(*arguments)


class ForwardHook:
    """A module hook that copies and pickles of the module do without.

    A model may be deep-copied or saved whole after distribute(); what comes out must not refer to
    this process's part in a job, nor need gearshift to be loaded.
    """

    def __init__(self, call: Any) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> None:
        _run(self._call, arguments)

    def __deepcopy__(self, memo: Any) -> Any:
        return contextlib.nullcontext().__exit__

    def __reduce__(self) -> Any:
        # A method of the standard library that takes anything and returns None.
        return getattr, (contextlib.nullcontext(), "__exit__")
