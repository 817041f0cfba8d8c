"""Any element-wise torch optimizer as the update rule of a parameter-server shard.

Runs on the shard's own thread, which the core calls with the GIL held.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ._rules import construct, load_class

Slice = tuple[str, Sequence[tuple[int, int, int]]]
"""dtype, and per segment: parameter, param group, number of elements."""


def make(kind: str, names: Sequence[str], groups: int, slices: Sequence[Slice]) -> ShardOptimizer:
    """The rule `kind` ("module:class") for a shard's slices; called by the core."""
    return ShardOptimizer(load_class(kind), names, groups, slices)


class ShardOptimizer:
    """A torch optimizer whose parameters are the segments of a shard's slices.

    Segments are named by the index of their slice and their index in it; memory is given by
    address. The core serialises the calls.
    """

    def __init__(
        self, cls: type[Optimizer], names: Sequence[str], groups: int, slices: Sequence[Slice]
    ) -> None:
        self._cls = cls
        self._sums_squares = issubclass(cls, torch.optim.Adagrad)
        self._names = list(names)
        self._groups = groups
        self._segments = [
            [(getattr(torch, dtype), group, size) for _, group, size in segments]
            for dtype, segments in slices
        ]
        self._types: dict[str, type] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all state."""
        self._parameters = [
            [
                nn.Parameter(torch.empty(size, dtype=dtype, device="cpu"))
                for dtype, _, size in segments
            ]
            for segments in self._segments
        ]
        # An Adagrad-like class makes state at once; what the shard has not been given must be made
        # with the numbers of the first update, so the optimizer is built then.
        self._optimizer: Optimizer | None = None
        self._written: dict[tuple[int, int], dict[str, Tensor]] = {}

    def apply(
        self, updates: Sequence[tuple[int, int, int, int]], hypers: Sequence[float], factor: float
    ) -> None:
        """One step on some segments.

        Args:
            updates: slice, segment, address of the parameter, address of its gradient.
            hypers: the numbers of all param groups.
            factor: multiplies every learning rate; of Adagrad the gradient, as in the core.
        """
        optimizer = self._built(hypers)
        width = len(self._names)
        for index, group in enumerate(optimizer.param_groups):
            group.update(self._options(hypers[index * width : (index + 1) * width]))
            scaled = "weight_decay" if self._sums_squares else "lr"
            if scaled in group:
                group[scaled] = group[scaled] * factor
        touched = []
        for slice_, segment, address, gradient in updates:
            dtype, _, size = self._segments[slice_][segment]
            if size == 0:
                continue
            parameter = self._parameters[slice_][segment]
            if parameter.data_ptr() != address:
                parameter.data = _tensor_at(address, dtype, size)
            parameter.grad = _tensor_at(gradient, dtype, size)
            if self._sums_squares and factor != 1:
                parameter.grad = parameter.grad * factor
            touched.append(parameter)
        optimizer.step()
        for parameter in touched:
            parameter.grad = None

    def tensor_names(self, slice_: int, segment: int) -> list[str]:
        """Names of the element-wise state that a segment has."""
        state = self._state(slice_, segment)
        return [name for name in state if state[name] is not None and not _is_number(state[name])]

    def scalars(self, slice_: int, segment: int) -> dict[str, float]:
        """The numbers that a segment's state has."""
        state = self._state(slice_, segment)
        return {name: float(value) for name, value in state.items() if _is_number(value)}

    def read_tensor(self, slice_: int, segment: int, name: str, address: int, nbytes: int) -> None:
        """Copy element-wise state to memory of `nbytes` bytes."""
        dtype, _, size = self._segments[slice_][segment]
        if size:
            _check_size(dtype, size, nbytes)
            _tensor_at(address, dtype, size).copy_(self._state(slice_, segment)[name])

    def write_tensor(self, slice_: int, segment: int, name: str, address: int, nbytes: int) -> None:
        """Set element-wise state from memory of `nbytes` bytes."""
        dtype, _, size = self._segments[slice_][segment]
        value = torch.empty(size, dtype=dtype)
        if size:
            _check_size(dtype, size, nbytes)
            value.copy_(_tensor_at(address, dtype, size))
        self._state(slice_, segment)[name] = value

    def write_scalar(self, slice_: int, segment: int, name: str, value: float) -> None:
        """Set a number of the state."""
        self._state(slice_, segment)[name] = torch.tensor(value, dtype=_scalar_dtype())

    def _state(self, slice_: int, segment: int) -> dict[str, Any]:
        if self._optimizer is None:
            return self._written.setdefault((slice_, segment), {})
        return self._optimizer.state[self._parameters[slice_][segment]]

    def _built(self, hypers: Sequence[float]) -> Optimizer:
        if self._optimizer is None:
            width = len(self._names)
            self._types = self._types or self._types_of(hypers[:width])
            groups = [
                {"params": [], **self._options(hypers[g * width : (g + 1) * width])}
                for g in range(self._groups)
            ]
            for i, segments in enumerate(self._segments):
                for j, (_, group, _) in enumerate(segments):
                    groups[group]["params"].append(self._parameters[i][j])
            self._optimizer = construct(self._cls, groups, self._options(hypers[:width]))
            for (i, j), state in self._written.items():
                if state:
                    self._optimizer.state[self._parameters[i][j]] = dict(state)
            self._written.clear()
        return self._optimizer

    def _types_of(self, values: Sequence[float]) -> dict[str, type]:
        """What its options are: the core knows numbers of one kind only."""
        probe = construct(self._cls, [nn.Parameter(torch.zeros(1))], self._options(values))
        return {name: type(value) for name, value in probe.defaults.items()}

    def _options(self, values: Sequence[float]) -> dict[str, Any]:
        types = self._types or {}
        options: dict[str, Any] = {}
        tuples: dict[str, list[float]] = {}
        for name, value in zip(self._names, values, strict=True):
            key, dot, _ = name.partition(".")
            if dot:
                tuples.setdefault(key, []).append(value)
            else:
                options[key] = _as(types.get(key, float), value)
        return {**options, **{key: tuple(items) for key, items in tuples.items()}}


def _as(kind: type, value: float) -> bool | int | float:
    """A class may count on whole numbers and truth values; a default of 0 does not say so."""
    if kind is bool:
        return bool(value)
    return int(value) if kind is int and value.is_integer() else value


def _is_number(value: object) -> TypeGuard[float | Tensor]:
    """State of a whole parameter; the other kind has an element for each of the segment's."""
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.dim() == 0)


def _tensor_at(address: int, dtype: torch.dtype, size: int) -> Tensor:
    memory = (ctypes.c_char * (size * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype)


def _check_size(dtype: torch.dtype, size: int, nbytes: int) -> None:
    if size * dtype.itemsize != nbytes:
        raise ValueError(f"state of {nbytes} bytes where {size} elements of {dtype} are expected")


def _scalar_dtype() -> torch.dtype:
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
