"""Batch normalization over the samples of all ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from .. import _session
from ._meeting import Kind, meet
from ._samples import current_weight
from ._through import pooled_sum


class SyncBatchNorm(nn.SyncBatchNorm):
    """What a torch.nn.SyncBatchNorm is while its model is distributed: the same, on any device.

    Mean and variance are those of all ranks' samples. Ranks may have different numbers of them, or
    none; such as are out of batches take part with nothing. Copies and pickles are PyTorch's own.
    """

    def forward(self, input: Tensor) -> Tensor:
        """As torch.nn.SyncBatchNorm's. Collective in training."""
        alone = not _session.is_initialized() or _session.world_size() == 1
        if not self.training or alone:
            return _BatchNorm.forward(self, input)
        self._check_input_dim(input)
        self._check_non_zero_input_channels(input)
        mean, var, n = _statistics(input)
        if n <= 1:
            raise ValueError(
                "Expected more than 1 value per channel when training, over all ranks; this "
                f"rank's input is of size {tuple(input.shape)}"
            )
        self._track(mean, var * (n / (n - 1)))
        normalized: Tensor = _Normalize.apply(
            input, self.weight, self.bias, mean, var, float(n), self.eps
        )
        return normalized

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None:
            return
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        share = 1.0 / self.num_batches_tracked.item() if momentum is None else momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(var.to(self.running_var), share)

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = super().__reduce_ex__(protocol)[2]
        return object.__new__, (nn.SyncBatchNorm,), state


def synchronize(model: nn.Module) -> list[nn.Module]:
    """Have a model's torch.nn.SyncBatchNorm normalize over the ranks of the job.

    Returns:
        Those that do now, for :func:`desynchronize`.
    """
    found: list[nn.Module] = [m for m in model.modules() if type(m) is nn.SyncBatchNorm]
    for module in found:
        module.__class__ = SyncBatchNorm
    return found


def desynchronize(modules: list[nn.Module]) -> None:
    """Make them ordinary again."""
    for module in modules:
        module.__class__ = nn.SyncBatchNorm


@torch._disable_dynamo
@torch.no_grad()
def _statistics(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance of each channel over all ranks' samples, and how many values each.

    Of the ranks' means and variances, by the formula of Chan, Golub and LeVeque (1979), in float64.
    All ranks get the same bits.
    """
    channels = x.shape[1]
    n = x.numel() // channels
    told = torch.zeros((1, 2 * channels + 1), dtype=torch.float64, device="cpu")
    if n > 0:
        mean, var = _moments(_wide(x))
        told[0, :channels], told[0, channels:-1], told[0, -1] = mean, var, n
    meeting = meet(Kind.GATHER, told.dtype, 1, told.shape[1], current_weight(), "SyncBatchNorm")
    every = meeting.gather(told)
    counts, means, variances = every[:, -1:], every[:, :channels], every[:, channels:-1]
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    var = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    kind = _wide(x[:0]).dtype
    return mean.to(x.device, kind), var.to(x.device, kind), int(total)


def _wide(x: Tensor) -> Tensor:
    """Of at least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel."""
    if x.device.type == "cpu":  # var_mean takes ten times as long there
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
    else:
        var, mean = torch.var_mean(x, _others(x), correction=0)
    return mean, var


def _sums(gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel's gradients, and of them times the normalized values."""
    if x.numel() > 0 and x.device.type == "cpu":  # in one pass
        _, sum_gx, sum_g = torch.ops.aten.native_batch_norm_backward(
            *(gradient, x, None, None, None, mean, inverse, True, 0.0, [False, True, True])
        )
        return sum_g, sum_gx
    shape = [1, -1] + [1] * (x.dim() - 2)
    centred = x - mean.reshape(shape)
    return gradient.sum(_others(x)), (gradient * centred).sum(_others(x)) * inverse


def _others(x: Tensor) -> list[int]:
    """The dimensions that a channel's values are in."""
    return [d for d in range(x.dim()) if d != 1]


class _Normalize(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) · weight + bias, mean and variance being those of all ranks."""

    @staticmethod
    @torch._disable_dynamo
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        n: float,
        eps: float,
    ) -> Tensor:
        ctx.n, ctx.eps, ctx.sample_weight = n, eps, current_weight()
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(x, weight, mean, var)
        scale = None if weight is None else weight.to(mean.dtype)
        shift = None if bias is None else bias.to(mean.dtype)
        with torch.autocast(x.device.type, enabled=False):
            y = nn.functional.batch_norm(_wide(x), mean, var, scale, shift, False, 0.0, eps)
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, mean, var = ctx.saved_tensors
        shape = [1, -1] + [1] * (x.dim() - 2)
        inverse = torch.rsqrt(var + ctx.eps)
        wide, values = _wide(gradient), _wide(x)
        sum_g, sum_gx = _sums(wide, values, mean, inverse)
        grad_x = None
        if ctx.needs_input_grad[0]:
            own = torch.cat([sum_g, sum_gx]).to("cpu", torch.float64)
            total = pooled_sum(own, current_weight(ctx.sample_weight), "SyncBatchNorm")
            mean_g, mean_gx = (total / ctx.n).to(x.device, mean.dtype).chunk(2)
            scale = inverse if weight is None else inverse * weight.to(mean.dtype)
            grad_x = (values - mean.reshape(shape)).mul_((inverse * -mean_gx).reshape(shape))
            grad_x = grad_x.add_(wide).sub_(mean_g.reshape(shape)).mul_(scale.reshape(shape))
            grad_x = grad_x.to(x.dtype)
        grad_weight = sum_gx.to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad_bias = sum_g.to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, None, None, None, None
