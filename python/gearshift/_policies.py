"""When a strategy changes: part of :mod:`gearshift.strategy`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._strategy_checks import at_least, positive
from .errors import InvalidArgument

if TYPE_CHECKING:
    from . import _core


@dataclass(frozen=True)
class LossPlateau:
    """Switch when the epoch loss hardly changes: the published rule.

    It fires when the mean relative change of the loss between consecutive epochs, over the last
    `window` changes, is below `threshold`. Epochs that ended before the last switch do not count.

    The loss is the one given to ``optimizer.step(loss=...)``, averaged over all workers.
    """

    window: int = 6
    threshold: float = 0.01

    def __post_init__(self) -> None:
        at_least("LossPlateau: window", self.window, 1)
        positive("LossPlateau: threshold", self.threshold)

    def _to_core(self) -> _core.Policy:
        from . import _core

        return _core.loss_plateau(self.window, self.threshold)


@dataclass(frozen=True)
class At:
    """Switch after a step, or after a fraction of distribute()'s ``total_steps``."""

    step: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        if (self.step is None) == (self.fraction is None):
            raise InvalidArgument("At: give either step= or fraction=")
        if self.step is not None:
            at_least("At: step", self.step, 1, below=2**63)
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise InvalidArgument(f"At: fraction must lie between 0 and 1, got {self.fraction!r}")

    def _to_core(self) -> _core.Policy:
        from . import _core

        if self.step is not None:
            return _core.at_step(self.step)
        assert self.fraction is not None
        return _core.at_fraction(self.fraction)


Policy = LossPlateau | At | Callable[["_core.Metrics"], bool]
"""When to switch: one of the values above, or a function of the shared metrics.

A function is called with an object that has ``step``, ``total_steps``, ``epoch``, ``loss``,
``epoch_losses``, ``strategy`` and ``staleness``, all equal on all ranks, and says whether to switch
after this step. It must depend on nothing else.
"""


def policy_to_core(policy: Policy) -> _core.Policy:
    """The core's form of a policy."""
    from . import _core

    if isinstance(policy, LossPlateau | At):
        return policy._to_core()
    name = getattr(policy, "__qualname__", None) or type(policy).__qualname__
    return _core.custom_policy(name, policy)
