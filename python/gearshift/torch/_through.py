"""Collectives that gradients go through, for losses that are of all ranks' samples together."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import _session
from ..errors import InvalidArgument
from ._meeting import DTYPES, REDUCED, Kind, meet
from ._samples import current_weight


def all_reduce(x: Tensor, op: Literal["sum", "mean"] = "sum") -> Tensor:
    """The sum, or mean, of all ranks' `x`, through which gradients go. Collective.

    Unlike :func:`gearshift.all_reduce` it leaves `x` as it is. The gradient of `x` is that of all
    ranks' losses, so that training equals one process that computes the loss of all samples: each
    rank's loss weighs as in the average of gradients (:func:`samples`). Ranks that are out of
    batches take part with nothing, and do not count in the mean. Backward goes through it once.

    Args:
        x: tensor of any shape, the same on all ranks; float64, float32, float16, bfloat16, or, for
            the sum, int8, uint8, int32, int64. One on an accelerator passes through host memory.
        op: "sum" or "mean".

    Returns:
        A new tensor; all ranks get the same bits.

    Raises:
        InvalidArgument: for another operation, or dtype.
        MismatchError: when ranks have called different functions, or with other numbers of elements
            or dtypes.
    """
    if op not in ("sum", "mean"):
        raise InvalidArgument(f"all_reduce: op {op!r} is neither 'sum' nor 'mean'")
    kinds = REDUCED if op == "sum" else REDUCED[:4]
    _check("all_reduce", x, kinds)
    reduced: Tensor = _AllReduce.apply(x, op == "mean")
    return reduced


def concat_all_gather(x: Tensor) -> Tensor:
    """All ranks' `x`, one after another along the leading dimension. Collective.

    For losses that compare each sample with those of all ranks (contrastive ones, say). Gradients
    go through, as :func:`all_reduce` says; of what shall have none, pass ``x.detach()``. Ranks may
    have different numbers of rows, and those that are out of batches have none.

    Args:
        x: tensor of shape ``(n, …)``; n may differ among the ranks, the rest may not. Of any dtype
            but quantized ones, int8 … int64, bool, complex ones; on an accelerator it passes
            through host memory.

    Returns:
        A new tensor of shape ``(sum of n over the ranks, …)``, rank 0's rows first.

    Raises:
        InvalidArgument: for a tensor without a leading dimension, or of a dtype that does not
            travel.
        MismatchError: when ranks have called different functions, or with rows of other sizes or
            dtypes.
    """
    _check("concat_all_gather", x, DTYPES)
    if x.dim() == 0:
        raise InvalidArgument("concat_all_gather: a tensor of no dimension has no rows")
    gathered: Tensor = _Gather.apply(x)
    return gathered


@torch._disable_dynamo
def pooled_sum(x: Tensor, weight: float, label: str) -> Tensor:
    """For a backward: the sum of all ranks' gradients, as if all were of this rank's loss.

    Args:
        x: gradient of this rank's loss; contiguous, in host memory. Changed.
        weight: of this rank's loss in the mean over all samples.
        label: of whose backward.
    """
    meeting = meet(Kind.SUM, x.dtype, 1, x.numel(), weight, f"backward of {label}")
    factor = meeting.factor
    total = meeting.sum(_scaled(x, factor))
    return _scaled(total, 1 / factor if factor else 0.0)


def _check(name: str, x: Any, dtypes: tuple[torch.dtype, ...]) -> None:
    if not isinstance(x, Tensor):
        raise InvalidArgument(f"{name} takes a tensor, not a {type(x).__name__}")
    if x.dtype not in dtypes or x.layout is not torch.strided:
        known = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise InvalidArgument(f"{name}: a {x.layout} tensor of {x.dtype}; it takes dense {known}")
    if not torch.is_grad_enabled():
        _session.settled()  # an evaluation: epochs that are over end before it


def _scaled(x: Tensor, factor: float) -> Tensor:
    """In place; times zero is zero, whatever there was."""
    if factor == 0:
        return x.zero_()
    return x if factor == 1 else x.mul_(factor)


def _copied(x: Tensor) -> Tensor:
    """Contiguous, in host memory, and nobody else's."""
    held = x.detach().to("cpu").contiguous()
    return held.clone() if held.data_ptr() == x.data_ptr() else held


class _AllReduce(torch.autograd.Function):
    @staticmethod
    @torch._disable_dynamo
    def forward(ctx: Any, x: Tensor, mean: bool) -> Tensor:
        ctx.weight = current_weight()
        meeting = meet(Kind.SUM, x.dtype, 1, x.numel(), ctx.weight, "all_reduce")
        ctx.scale = 1 / meeting.active if mean else 1.0
        return _scaled(meeting.sum(_copied(x)), ctx.scale).to(x.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        total = pooled_sum(_copied(gradient), current_weight(ctx.weight), "all_reduce")
        return _scaled(total, ctx.scale).to(gradient.device), None


class _Gather(torch.autograd.Function):
    @staticmethod
    @torch._disable_dynamo
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.weight = current_weight()
        ctx.rows, shape = x.shape[0], x.shape[1:]
        ctx.width = math.prod(shape)
        meeting = meet(Kind.GATHER, x.dtype, ctx.rows, ctx.width, ctx.weight, "concat_all_gather")
        held = x.detach().to("cpu").reshape(ctx.rows, ctx.width)
        return meeting.gather(held).reshape(sum(meeting.rows), *shape).to(x.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        weight = current_weight(ctx.weight)
        meeting = meet(
            *(Kind.SCATTER, gradient.dtype, ctx.rows, ctx.width, weight),
            label="backward of concat_all_gather",
        )
        factor = meeting.factor
        held = _scaled(_copied(gradient), factor).reshape(sum(meeting.rows), ctx.width)
        own = _scaled(meeting.scatter(held), 1 / factor if factor else 0.0)
        return own.reshape(ctx.rows, *gradient.shape[1:]).to(gradient.device)
