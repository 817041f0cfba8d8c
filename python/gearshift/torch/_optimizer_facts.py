"""What the training of a model has to know of an optimizer."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def decides_by_loss(optimizer: Optimizer | None) -> bool:
    """Whether a closure's loss may decide what an optimizer does next, as in a line search."""
    cls = type(optimizer)
    original = cls.__mro__[2] if hasattr(optimizer, "_gearshift") else cls
    return not original.__module__.startswith("torch.optim") or issubclass(
        original, torch.optim.LBFGS
    )


def needs_all(optimizer: Optimizer | None) -> str:
    """Why no rank may be without batches, or nothing."""
    if not isinstance(optimizer, torch.optim.LBFGS):
        return ""
    return (
        "LBFGS decides by the loss of all ranks, which a rank without batches has none of: give "
        "all ranks equally many batches (DistributedSampler(drop_last=True), or a batch size that "
        "comes out even)"
    )


def scheduled_numbers(optimizer: Optimizer) -> list[float]:
    """What schedules change: every rank must apply the same."""
    numbers: list[float] = []
    for group in optimizer.param_groups:
        for name in ("lr", "momentum", "betas", "weight_decay"):
            value = group.get(name)
            for number in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(number, (int, float)) or (
                    isinstance(number, Tensor) and number.numel() == 1
                ):
                    numbers.append(float(number))
    return numbers


def state_digest(optimizer: Optimizer) -> float:
    """A number that is another one where ranks have loaded different checkpoints of the state.

    Made of the first and the last element of each tensor: all of them would take seconds.
    """
    digest = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name, value in sorted(optimizer.state.get(parameter, {}).items()):
                text = f"{digest} {name} {_ends(value)}"
                digest = zlib.crc32(text.encode())
            digest = zlib.crc32(b";", digest)
    return float(digest)


def _ends(value: Any) -> Any:
    if isinstance(value, Tensor):
        dense = value.detach().to_dense() if value.layout is not torch.strided else value.detach()
        ends = [] if dense.numel() == 0 else [dense.reshape(-1)[i].item() for i in (0, -1)]
        return (tuple(value.shape), str(value.dtype), *ends)
    return value if isinstance(value, (int, float)) else type(value).__name__


def scaling(optimizer: Optimizer) -> tuple[float, bool]:
    """What a GradScaler says about the gradients: the factor that unscales them, and overflow."""
    scale = getattr(optimizer, "grad_scale", None)
    found = getattr(optimizer, "found_inf", None)
    factor = 1.0 if scale is None else 1.0 / float(scale)
    return factor, found is not None and float(found) != 0


def scales_by_itself(optimizer: Optimizer) -> bool:
    """Whether its own step does what a GradScaler leaves to it: fused ones do."""
    return bool(optimizer.__dict__.get("_step_supports_amp_scaling", False))


def update_unscaled(optimizer: Optimizer, update: Callable[[], Any]) -> Any:
    """Have it make its own step, unless a GradScaler has found an overflow.

    What the scaler has left to it, its own class may know nothing of.
    """
    factor, skip = scaling(optimizer)
    if scales_by_itself(optimizer):
        return update()
    if skip:
        return None
    names = ("grad_scale", "found_inf")
    left = {name: optimizer.__dict__.pop(name) for name in names if name in optimizer.__dict__}
    try:
        if factor != 1:
            _multiply_gradients(optimizer, factor)
        return update()
    finally:
        optimizer.__dict__.update(left)


def _multiply_gradients(optimizer: Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
