"""Tensors on memory of the core, which is what travels between processes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._core import Replica
from ..errors import InvalidArgument
from ._heap import keep_freed_memory
from ._overlap import buffers_within

_ALIGNMENT = 64
_log = logging.getLogger("gearshift")


def tensor_on(
    memory: np.ndarray[Any, Any], dtype: torch.dtype, shape: torch.Size | tuple[int, ...]
) -> Tensor:
    """A contiguous tensor on `memory` (bytes), which it keeps alive."""
    if memory.size == 0:
        return torch.empty(shape, dtype=dtype, device="cpu")
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


class Home:
    """Memory of the core on which a tensor was made.

    Torch may take the tensor, and all that share its storage, elsewhere: to memory that it shares
    with other processes, by ``model.share_memory()`` or when torch.multiprocessing sends it.
    """

    __slots__ = ("_dtype", "_memory", "_shape", "address")

    def __init__(self, memory: np.ndarray[Any, Any], tensor: Tensor) -> None:
        self._memory = memory
        self._dtype, self._shape = tensor.dtype, tensor.shape
        self.address = tensor.data_ptr()

    def again(self, tensor: Tensor, name: str) -> Tensor:
        """A tensor like this one, which has left, on the memory; `name` is for the log.

        Raises:
            InvalidArgument: when it has another dtype or shape now.
        """
        if tensor.dtype != self._dtype or tensor.shape != self._shape:
            raise InvalidArgument(_became(name, tensor))
        _log.warning(
            "%s was moved to memory that is shared with other processes, where it stays as it is: "
            "training goes on in memory of its own; send copies to other processes",
            name,
        )
        return self.tensor()

    def tensor(self) -> Tensor:
        """Another tensor on the memory."""
        return tensor_on(self._memory, self._dtype, self._shape)


def _became(name: str, tensor: Tensor) -> str:
    return (
        f"{name} became {tensor.dtype}{tuple(tensor.shape)} on {tensor.device} after "
        "distribute(): move or cast the model before"
    )


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
    value_home: Home
    gradient_home: Home

    def renew_value(self) -> None:
        """Have the value on the core's memory again, if it is elsewhere."""
        if self.value.data_ptr() != self.value_home.address:
            self.value = self.value_home.again(self.value, f"parameter '{self.name}'")

    def renew_gradient(self) -> None:
        """Have the gradient on the core's memory again, if it is elsewhere."""
        if self.gradient.data_ptr() != self.gradient_home.address:
            self.gradient = self.gradient_home.again(self.gradient, f"gradient of '{self.name}'")

    def spare_kept_gradient(self) -> None:
        """Before another gradient comes in: one that the user has kept stays what it is.

        In one process ``zero_grad()`` lets go of a gradient, and the next backward makes another.
        """
        if sys.getrefcount(self.gradient) > _UNKEPT and self.parameter.grad is not self.gradient:
            self.part_with_gradient()

    def part_with_gradient(self) -> None:
        """Whoever has the gradient has it in memory of its own from here on."""
        self.gradient.data = self.gradient.clone()
        self.gradient = self.gradient_home.tensor()


def _references_of_unkept() -> int:
    """What sys.getrefcount says of an attribute that nobody else has."""
    holder = SimpleNamespace(attribute=object())
    return sys.getrefcount(holder.attribute)


_UNKEPT = _references_of_unkept()


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
        memory = replica.parameter(i), replica.gradient(i)
        value, gradient = (tensor_on(m, parameter.dtype, parameter.shape) for m in memory)
        homes = Home(memory[0], value), Home(memory[1], gradient)
        staged = stage or parameter.device.type != "cpu"
        value.copy_(parameter.detach())
        if staged and parameter.device.type == "cuda":
            pin(value)
            pin(gradient)
        elif not staged:
            parameter.data = value
        if parameter.device.type == "cpu":
            on_host += parameter.numel() * parameter.element_size()
        trainables.append(Trainable(name, parameter, group, staged, value, gradient, *homes))
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
        raise InvalidArgument(_became(f"parameter '{trainable.name}'", data))
    trainable.renew_value()
    trainable.value.copy_(data)
    trainable.parameter.data = trainable.value


@dataclass(eq=False)
class _Buffer:
    holder: dict[str, Tensor | None]
    name: str
    label: str
    tensor: Tensor
    shadow: Tensor
    """On the core's memory."""
    home: Home
    staged: bool
    persistent: bool
    own: np.ndarray[Any, Any]
    whole: _Buffer | None = None
    """That of which this one is a view. It does not use memory of its own then."""


class Buffers:
    """The model's non-trainable state (BatchNorm statistics), which one rank gives to all.

    The buffers are views of the core's memory, except on an accelerator, where they are copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._found = list(distinct_buffers(model))
        frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
        self._within = buffers_within([(label, t) for _, _, label, t in self._found], frozen)
        self._adopted: list[_Buffer] = []

    @property
    def nbytes(self) -> int:
        """Bytes that they need in the core."""
        return sum(_aligned(tensor) for _, _, _, tensor in self._found)

    def adopt(self, memory: np.ndarray[Any, Any], stage: bool) -> None:
        """Move them into the core's memory."""
        offset = 0
        for module, name, label, tensor in self._found:
            size = tensor.numel() * tensor.element_size()
            own = memory[offset : offset + size]
            shadow = tensor_on(own, tensor.dtype, tensor.shape)
            home = Home(own, shadow)
            offset += _aligned(tensor)
            shadow.copy_(tensor)
            staged = stage or tensor.device.type != "cpu"
            persistent = name not in module._non_persistent_buffers_set
            self._adopted.append(
                _Buffer(module._buffers, name, label, tensor, shadow, home, staged, persistent, own)
            )
        for index, whole in self._within.items():
            _unite(self._adopted[index], self._adopted[whole])
        for b in self._adopted:
            if not b.staged:
                b.tensor.data = b.shadow

    def gather(self) -> None:
        """Make the core's memory show the buffers as they are, wherever the model put them.

        One that is not part of checkpoints (a mask or a table that grows with its inputs) may
        become another: every rank has its own from then on.
        """
        for b in self._adopted:
            current = b.holder.get(b.name)
            if current is b.tensor and not b.staged and current.data_ptr() == b.home.address:
                continue
            if current is None or not _fits(current, b.shadow):
                if not b.persistent:
                    continue
                raise InvalidArgument(_changed(b, current))
            if not b.staged:
                self._part(b)
            if b.shadow.data_ptr() != b.home.address:
                b.shadow = b.home.again(b.shadow, f"buffer '{b.label}'")
            b.shadow.copy_(current)
            b.tensor = current
            if not b.staged:
                current.data = b.shadow

    def _part(self, replaced: _Buffer) -> None:
        """One that became another tensor is no view any more, and none are views of it."""
        views = [b for b in self._adopted if b.whole is replaced]
        kept = [b.label for b in views if b.holder.get(b.name) is b.tensor]
        if len(kept) > 1:  # they share memory still
            raise InvalidArgument(
                f"buffer '{replaced.label}', of which '{kept[0]}' and '{kept[1]}' are views, "
                "became another tensor after distribute(): write to it in place, or call "
                "distribute(..., broadcast_buffers=False)"
            )
        for b in views if replaced.whole is None else [replaced]:
            b.whole = None
            b.shadow = tensor_on(b.own, b.shadow.dtype, b.shadow.shape).copy_(b.tensor)
            b.home = Home(b.own, b.shadow)
            if b is not replaced:
                b.tensor.data = b.shadow

    def scatter(self) -> None:
        """Make the buffers show what the core's memory has."""
        for b in self._adopted:
            if b.staged:
                b.tensor.copy_(b.shadow)


def _unite(part: _Buffer, whole: _Buffer) -> None:
    """Have a buffer be a view of another one's memory in the core, as it is of that one now."""
    if part.staged:
        return
    steps = (part.tensor.data_ptr() - whole.tensor.data_ptr()) // part.tensor.element_size()
    part.shadow = whole.shadow.as_strided(part.tensor.shape, part.tensor.stride(), steps)
    part.home = Home(part.own, part.shadow)
    part.whole = whole


def _fits(current: Tensor, shadow: Tensor) -> bool:
    return current.shape == shadow.shape and current.dtype == shadow.dtype


def _changed(b: _Buffer, current: Tensor | None) -> str:
    became = "was removed"
    if current is not None:
        before, now = (f"{t.dtype}{tuple(t.shape)}" for t in (b.shadow, current))
        became = f"changed from {before} to {now}"
    return (
        f"buffer '{b.label}' {became} after distribute(), which keeps buffers equal on all ranks: "
        "register it with persistent=False if it is no part of checkpoints, or call "
        "distribute(..., broadcast_buffers=False)"
    )


def distinct_buffers(model: nn.Module) -> Iterable[tuple[nn.Module, str, str, Tensor]]:
    """Module, name there, full name and tensor of each dense buffer, shared ones once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, tensor in module._buffers.items():
            if tensor is None or id(tensor) in seen or tensor.layout is not torch.strided:
                continue
            seen.add(id(tensor))
            label = f"{prefix}.{name}" if prefix else name
            yield module, name, label, tensor


def _aligned(tensor: Tensor) -> int:
    size = tensor.numel() * tensor.element_size()
    return -(-size // _ALIGNMENT) * _ALIGNMENT
