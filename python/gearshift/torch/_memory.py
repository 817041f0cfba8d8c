"""Tensors on memory of the core, which is what travels between processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._core import Replica
from ..errors import InvalidArgument
from ._heap import keep_freed_memory

_ALIGNMENT = 64


def tensor_on(
    memory: np.ndarray[Any, Any], dtype: torch.dtype, shape: torch.Size | tuple[int, ...]
) -> Tensor:
    """A contiguous tensor on `memory` (bytes), which it keeps alive."""
    if memory.size == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def bytes_of(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The bytes of a CPU tensor as a one-dimensional array; a copy if it is not contiguous."""
    flat = tensor.detach().contiguous().view(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, dtype=np.uint8)


def copy_gradient(gradient: Tensor, memory: Tensor) -> None:
    """Copy a gradient of either layout to memory of the core, where all are dense."""
    gradient = gradient.detach()
    memory.copy_(gradient.to_dense() if gradient.is_sparse else gradient)


def pin(tensor: Tensor) -> None:
    """Lock memory so that an accelerator can copy to and from it directly."""
    if torch.cuda.is_available() and tensor.numel():
        nbytes = tensor.numel() * tensor.element_size()
        torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), nbytes, 0)


@dataclass
class Trainable:
    """One trainable parameter and its memory in the core."""

    name: str
    parameter: nn.Parameter
    group: int
    """Index of the optimizer's param group; -1: it belongs to none."""
    staged: bool
    """The parameter stays where it is (on an accelerator), and is copied to and from the core."""
    value: Tensor
    """On the core's memory."""
    gradient: Tensor
    """On the core's memory."""


def adopt_parameters(
    replica: Replica, found: list[tuple[str, nn.Parameter, int]], stage: bool
) -> list[Trainable]:
    """Move the parameters' values into the core's memory, and their gradients with them.

    Args:
        found: name, parameter, param group, in the order of the replica.
        stage: leave even the parameters in host memory where they are, and copy.
    """
    trainables = []
    on_host = 0
    for i, (name, parameter, group) in enumerate(found):
        value = tensor_on(replica.parameter(i), parameter.dtype, parameter.shape)
        gradient = tensor_on(replica.gradient(i), parameter.dtype, parameter.shape)
        staged = stage or parameter.device.type != "cpu"
        value.copy_(parameter.detach())
        if staged and parameter.device.type == "cuda":
            pin(value)
            pin(gradient)
        elif not staged:
            parameter.data = value
        if parameter.device.type == "cpu":
            on_host += parameter.numel() * parameter.element_size()
        trainables.append(Trainable(name, parameter, group, staged, value, gradient))
    keep_freed_memory(on_host)
    return trainables


def readopt(trainable: Trainable) -> None:
    """Take in a parameter whose data was replaced (``p.data = other``).

    Raises:
        InvalidArgument: when the replacement has another shape, dtype or device.
    """
    data = trainable.parameter.data
    value = trainable.value
    if data.shape != value.shape or data.dtype != value.dtype or data.device != value.device:
        raise InvalidArgument(
            f"parameter '{trainable.name}' became {data.dtype}{tuple(data.shape)} on "
            f"{data.device} after distribute(): move or cast the model before"
        )
    value.copy_(data)
    trainable.parameter.data = value


@dataclass
class _Buffer:
    holder: dict[str, Tensor | None]
    name: str
    label: str
    tensor: Tensor
    shadow: Tensor
    """On the core's memory."""
    staged: bool


class Buffers:
    """The model's non-trainable state (BatchNorm statistics), which one rank gives to all.

    The buffers are views of the core's memory, except on an accelerator, where they are copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._found = list(distinct_buffers(model))
        self._adopted: list[_Buffer] = []

    @property
    def nbytes(self) -> int:
        """Bytes that they need in the core."""
        return sum(_aligned(tensor) for _, _, _, tensor in self._found)

    def adopt(self, memory: np.ndarray[Any, Any], stage: bool) -> None:
        """Move them into the core's memory."""
        offset = 0
        for holder, name, label, tensor in self._found:
            size = tensor.numel() * tensor.element_size()
            shadow = tensor_on(memory[offset : offset + size], tensor.dtype, tensor.shape)
            offset += _aligned(tensor)
            shadow.copy_(tensor)
            staged = stage or tensor.device.type != "cpu"
            if not staged:
                tensor.data = shadow
            self._adopted.append(_Buffer(holder, name, label, tensor, shadow, staged))

    def gather(self) -> None:
        """Make the core's memory show the buffers as they are, wherever the model put them."""
        for b in self._adopted:
            current = b.holder.get(b.name)
            if current is None:
                raise InvalidArgument(f"buffer '{b.label}' was removed after distribute()")
            if current is b.tensor and not b.staged and current.data_ptr() == b.shadow.data_ptr():
                continue
            if current.shape != b.shadow.shape or current.dtype != b.shadow.dtype:
                raise InvalidArgument(
                    f"buffer '{b.label}' changed from {b.shadow.dtype}{tuple(b.shadow.shape)} to "
                    f"{current.dtype}{tuple(current.shape)} after distribute()"
                )
            b.shadow.copy_(current)
            b.tensor = current
            if not b.staged:
                current.data = b.shadow

    def scatter(self) -> None:
        """Make the buffers show what the core's memory has."""
        for b in self._adopted:
            if b.staged:
                b.tensor.copy_(b.shadow)


def distinct_buffers(
    model: nn.Module,
) -> Iterable[tuple[dict[str, Tensor | None], str, str, Tensor]]:
    """Holder, name there, full name and tensor of each dense buffer, shared ones once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, tensor in module._buffers.items():
            if tensor is None or id(tensor) in seen or tensor.layout is not torch.strided:
                continue
            seen.add(id(tensor))
            label = f"{prefix}.{name}" if prefix else name
            yield module._buffers, name, label, tensor


def _aligned(tensor: Tensor) -> int:
    size = tensor.numel() * tensor.element_size()
    return -(-size // _ALIGNMENT) * _ALIGNMENT
