"""Tensors of a model that share memory, and come apart when they get memory of the core."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NoReturn

import torch
from torch import Tensor, nn

from ..errors import InvalidArgument

Named = tuple[str, Tensor]


def check_parameters_apart(found: Iterable[Named], others: Iterable[Named]) -> None:
    """Refuse trainable parameters that are tied to anything by their memory alone.

    Raises:
        InvalidArgument: naming both.
    """
    trainable = list(found)
    names = {name for name, _ in trainable}
    for (first, _), (second, _) in sharing([*trainable, *on_host(others)]):
        if first in names and second in names:
            raise InvalidArgument(
                f"parameters '{first}' and '{second}' are two that share memory (a.data = b.data), "
                "and would get memory of their own: tie them by making them one (module.weight = "
                "other.weight)"
            )
        if first in names or second in names:
            parameter, other = (first, second) if first in names else (second, first)
            raise InvalidArgument(
                f"'{other}' shares memory with parameter '{parameter}', which gets memory of its "
                "own: give it a clone, or use the parameter in its place"
            )


def buffers_within(buffers: list[Named], frozen: Iterable[Named]) -> dict[int, int]:
    """Which buffers are views of which: the index of each that lies within another, and of that.

    Raises:
        InvalidArgument: naming two that share memory in another way, and so cannot be kept so.
    """
    position = {name: index for index, (name, _) in enumerate(buffers)}
    within: dict[int, int] = {}
    for (first, _), (second, part) in sharing(on_host([*buffers, *frozen])):
        if first not in position or second not in position:
            _refuse(first, second)
        index = position[second]
        at = within.get(position[first], position[first])
        name, whole = buffers[at]
        fits = whole.is_contiguous() and whole.dtype == part.dtype and _end(part) <= _end(whole)
        if not fits or within.setdefault(index, at) != at:
            _refuse(name, second)
    return within


def _refuse(first: str, second: str) -> NoReturn:
    raise InvalidArgument(
        f"'{first}' and '{second}' share memory, and would come apart when buffers move to memory "
        "that is broadcast: register one of them, give it a clone, or say "
        "distribute(..., broadcast_buffers=False)"
    )


def on_host(tensors: Iterable[Named]) -> Iterator[Named]:
    """Those that move; on an accelerator they stay where they are."""
    return ((name, t) for name, t in tensors if t.device.type == "cpu")


def sharing(tensors: Iterable[Named]) -> Iterator[tuple[Named, Named]]:
    """Pairs that share memory, the one that begins first, or is longer, first."""
    places: dict[torch.device, list[Named]] = {}
    for name, t in tensors:
        if _has_memory(t):
            places.setdefault(t.device, []).append((name, t))
    for found in places.values():
        found.sort(key=lambda item: (item[1].data_ptr(), -_end(item[1])))
        open_: list[Named] = []
        for item in found:
            open_ = [before for before in open_ if _end(before[1]) > item[1].data_ptr()]
            yield from ((before, item) for before in open_ if _meet(before[1], item[1]))
            open_.append(item)


def _has_memory(tensor: Tensor) -> bool:
    if nn.parameter.is_lazy(tensor) or hasattr(type(tensor), "__tensor_flatten__"):
        return False  # none yet, or only that of tensors within
    return tensor.layout is torch.strided and not tensor.is_meta and tensor.numel() > 0


def _end(tensor: Tensor) -> int:
    """The address behind its last element."""
    spans = ((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (sum(spans) + 1) * tensor.element_size()


def _meet(one: Tensor, other: Tensor) -> bool:
    """Of two whose ranges of memory overlap; columns of a matrix have no element in common."""
    if one.is_contiguous() and other.is_contiguous():
        return True
    size = one.element_size()
    begin = min(one.data_ptr(), other.data_ptr())
    offsets = one.data_ptr() - begin, other.data_ptr() - begin
    if other.element_size() != size or any(offset % size for offset in offsets):
        return True
    taken = torch.zeros((max(_end(one), _end(other)) - begin) // size, dtype=torch.bool)
    taken.as_strided(one.shape, one.stride(), offsets[0] // size).fill_(True)
    return bool(taken.as_strided(other.shape, other.stride(), offsets[1] // size).any())
