"""The loss that a training loop tells."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

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
