"""The loss that a training loop tells."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import _session
from .._arrays import view
from ..errors import InvalidArgument


def check_loss(loss: Any) -> None:
    """Before anything is done with it.

    Raises:
        InvalidArgument: when it is not one number.
    """
    if loss is None or (isinstance(loss, Tensor) and loss.numel() == 1):
        return
    try:
        float(loss)
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise InvalidArgument(
            f"step(loss=...) takes this rank's mean loss, a number or a tensor of one element, not "
            f"{'a tensor ' if isinstance(loss, Tensor) else ''}{what}"
        ) from error


def number_of(loss: Any) -> float:
    """The loss as a number; NaN: none."""
    if isinstance(loss, Tensor):
        loss = loss.detach()
    return math.nan if loss is None else float(loss)


def mean_over_ranks(loss: Any, weight: float) -> Any:
    """The mean of all ranks' losses, of the kind that was given; NaN of no weight. Collective."""
    sums = torch.tensor([number_of(loss) * weight, weight], dtype=torch.float64, device="cpu")
    array = view(sums)  # not the user's collective: no epoch ends here
    _session.current().all_reduce(array.address, array.nbytes, array.dtype, "sum")
    array.finish()
    total, weights = sums.tolist()
    mean = total / weights if weights else math.nan
    return torch.full_like(loss.detach(), mean) if isinstance(loss, Tensor) else mean
