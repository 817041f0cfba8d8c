"""Which update rule an optimizer is, and its numbers: what a parameter server needs to know."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from ..errors import Unsupported

NATIVE: dict[type[Optimizer], str] = {
    torch.optim.SGD: "sgd",
    torch.optim.Adam: "adam",
    torch.optim.AdamW: "adamw",
    torch.optim.Adagrad: "adagrad",
}
"""Rules that the core has itself."""

_ELEMENTWISE: tuple[type[Optimizer], ...] = (
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.ASGD,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Rprop,
)

_REASONS = {
    "LBFGS": "it evaluates the loss several times per step and works on whole vectors",
    "SparseAdam": "it needs sparse gradients, and gradients travel dense",
    "Adafactor": "it factors the second moment over a tensor's rows and columns",
    "Muon": "it orthogonalises whole matrices",
}

SCALAR_STATE = frozenset({"step", "mu_product", "eta", "mu"})
"""State of torch.optim's optimizers that is one number per parameter."""


@dataclass(frozen=True)
class Rule:
    """An update rule as the core knows it."""

    kind: str
    """"sgd", "adam", …, or "module:class" of a rule that runs in Python on the server."""
    numbers: tuple[tuple[str, str, int], ...]
    """Name for the core ("betas.0"), key of the param group, index in a tuple or -1."""
    groups: int

    @property
    def names(self) -> list[str]:
        """Names of the numbers, in their order."""
        return [name for name, _, _ in self.numbers]

    def values(self, param_groups: Sequence[dict[str, Any]]) -> list[float]:
        """The numbers of all param groups as they are now."""
        return [
            float(group[key] if index < 0 else group[key][index])
            for group in param_groups
            for _, key, index in self.numbers
        ]

    def spec(self) -> tuple[str, list[str], int]:
        """What the core wants to know."""
        return self.kind, self.names, self.groups


def rule_of(optimizer: Optimizer, elementwise: bool) -> Rule:
    """The rule of an optimizer.

    Args:
        elementwise: the caller vouches that an optimizer of a class unknown here treats every
            element of a parameter alike and by itself.

    Raises:
        Unsupported: when the optimizer cannot run on slices of parameters; the message says why.
    """
    cls = own_class(optimizer)
    _check_options(optimizer)
    numbers = tuple(_numbers(optimizer.param_groups[0], optimizer.defaults))
    kind = NATIVE.get(cls)
    if kind is None:
        _check_elementwise(cls, elementwise)
        kind = f"{cls.__module__}:{cls.__qualname__}"
    return Rule(kind, numbers, len(optimizer.param_groups))


def own_class(optimizer: Optimizer) -> type[Optimizer]:
    """The user's class, also of an optimizer that takes part in a job, or once did."""
    cls = type(optimizer)
    found: type[Optimizer] = getattr(cls, "_gearshift_own_class", cls)
    return found


def group_numbers(optimizer: Optimizer) -> dict[int, int]:
    """The index of its param group for each parameter, by id()."""
    return {
        id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]
    }


def load_class(kind: str) -> type[Optimizer]:
    """The class of a rule's kind "module:class"."""
    module, _, name = kind.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _numbers(group: dict[str, Any], defaults: dict[str, Any]) -> list[tuple[str, str, int]]:
    found: list[tuple[str, str, int]] = []
    for key in sorted(defaults):
        value = group[key]
        if _is_number(value):
            found.append((key, key, -1))
        elif isinstance(value, tuple | list) and value and all(_is_number(v) for v in value):
            found += [(f"{key}.{i}", key, i) for i in range(len(value))]
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (
        isinstance(value, torch.Tensor) and value.numel() == 1
    )


def _check_options(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        if group.get("differentiable"):
            raise Unsupported(
                "an optimizer with differentiable=True cannot run on a parameter server; "
                "use the all_reduce strategy"
            )


def _check_elementwise(cls: type[Optimizer], vouched: bool) -> None:
    if cls in _ELEMENTWISE:
        return
    name = cls.__name__
    if cls.__module__.startswith("torch.optim") and name in _REASONS:
        raise Unsupported(
            f"{name} cannot run on a parameter server, whose shards see slices of parameters: "
            f"{_REASONS[name]}; use the all_reduce strategy with it"
        )
    if not vouched:
        raise Unsupported(
            f"gearshift does not know whether {name} is element-wise, as an optimizer on a "
            "parameter server must be; if it treats each element by itself, say "
            "distribute(..., elementwise=True), else use the all_reduce strategy"
        )
    try:
        importable = load_class(f"{cls.__module__}:{cls.__qualname__}") is cls
    except (ImportError, AttributeError):
        importable = False
    if not importable or cls.__module__ == "__main__":
        raise Unsupported(
            f"{name} must be importable for the servers to run it: move it to a module of its own"
        )
