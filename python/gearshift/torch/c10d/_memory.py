"""Tensors as memory that the core works on."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import InvalidArgument, Unsupported


def checked(tensor: Tensor) -> Tensor:
    """The tensor, detached, if the backend can move it.

    Raises:
        Unsupported: when it is on an accelerator, or not dense.
    """
    if tensor.device.type != "cpu":
        raise Unsupported(
            f"the gearshift backend moves tensors on the CPU, not on {tensor.device}: "
            "gst.distribute trains models on accelerators"
        )
    if tensor.layout != torch.strided:
        raise Unsupported(
            f"the gearshift backend moves dense tensors, not {tensor.layout}; "
            "call to_dense(), or make the embedding with sparse=False"
        )
    return tensor.detach()


def readable(tensor: Tensor) -> Tensor:
    """Contiguous, with the same contents: the tensor itself where it is contiguous."""
    return checked(tensor).resolve_conj().resolve_neg().contiguous()


class Target:
    """A tensor that receives: `flat` is contiguous memory of it, or in its place.

    Args:
        tensor: receives, when `finish` is called at the latest.
        fill: whether `flat` begins with its contents.
    """

    def __init__(self, tensor: Tensor, fill: bool = False) -> None:
        self._tensor = checked(tensor)
        plain = self._tensor.is_contiguous() and not (tensor.is_conj() or tensor.is_neg())
        if plain:
            self.flat = self._tensor
        else:
            self.flat = torch.empty(tensor.shape, dtype=tensor.dtype)
            if fill:
                self.flat.copy_(self._tensor)

    def finish(self) -> None:
        """Make the contents of `flat` the tensor's."""
        if self.flat is not self._tensor:
            self._tensor.copy_(self.flat)


def same_bytes(tensors: list[Tensor], what: str) -> bool:
    """Whether all have as many bytes as the first.

    Raises:
        InvalidArgument: when they differ in dtype.
    """
    if any(t.dtype != tensors[0].dtype for t in tensors):
        raise InvalidArgument(f"{what}: all tensors must have one dtype")
    return all(t.nbytes == tensors[0].nbytes for t in tensors)
