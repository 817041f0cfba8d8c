"""What to distribute with each of a module's optimizers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn
from torch.optim import Optimizer

from ...errors import Unsupported


def models_of(module: nn.Module, optimizers: Sequence[Optimizer]) -> list[nn.Module]:
    """The module itself for one optimizer; for each of several, the parts that it trains.

    Raises:
        Unsupported: when a part has parameters that several optimizers train.
    """
    if len(optimizers) == 1:
        return [module]
    return [_parts(module, optimizer) for optimizer in optimizers]


def _parts(module: nn.Module, optimizer: Optimizer) -> nn.ModuleList:
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parts = nn.ModuleList(_largest(module, trained))
    covered = {id(p) for p in parts.parameters()}
    for name, parameter in module.named_parameters():
        if id(parameter) in trained - covered:
            raise Unsupported(
                f"several optimizers: '{name}' is in a module with parameters of another one; each "
                "optimizer has to train modules of its own: put it into one"
            )
    return parts


def _largest(module: nn.Module, trained: set[int]) -> Iterator[nn.Module]:
    """The largest modules all of whose parameters are trained."""
    own = [id(p) for p in module.parameters() if p.requires_grad]
    if own and trained.issuperset(own):
        yield module
        return
    for child in module.children():
        yield from _largest(child, trained)
