"""Which update rule an optimizer is, and its numbers: what a parameter server needs to know."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
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

_HOW = frozenset({"foreach", "fused", "capturable", "differentiable"})
"""Options that say how torch computes an update, not which one: servers compute in their way."""


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
    kind = NATIVE.get(cls)
    if kind is None:
        _check_elementwise(cls, elementwise)
        kind = f"{cls.__module__}:{cls.__qualname__}"
    numbers = tuple(_numbers(optimizer.param_groups, optimizer.defaults))
    rule = Rule(kind, numbers, len(optimizer.param_groups))
    _check_others(optimizer, rule)
    return rule


def construct(cls: type[Optimizer], params: Iterable[Any], numbers: dict[str, Any]) -> Optimizer:
    """An optimizer of a class; `numbers` has what it asks for and has no default of."""
    arguments = list(inspect.signature(cls).parameters.values())[1:]
    required = {
        a.name: numbers[a.name] for a in arguments if a.default is a.empty and a.name in numbers
    }
    make: Callable[..., Optimizer] = cls
    return make(params, **required)


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


def check_groups(
    optimizer: Optimizer, known: dict[int, int], trained: Iterable[nn.Parameter]
) -> None:
    """Refuse param groups with other parameters than servers have.

    Args:
        known: `group_numbers` of then. Frozen ones, without gradients, may have come and gone.
        trained: those of the model.
    """
    now = group_numbers(optimizer)
    if now == known:
        return
    held = (p for group in optimizer.param_groups for p in group["params"])
    changed = (p for p in (*held, *trained) if now.get(id(p)) != known.get(id(p)))
    if any(p.requires_grad or p.grad is not None for p in changed):
        raise Unsupported(
            "parameters were put into other param groups, taken out of them, or added, after "
            "distribute(), of which a parameter server would not know: call gst.release(model), "
            "change the groups, and distribute again"
        )


def load_class(kind: str) -> type[Optimizer]:
    """The class of a rule's kind "module:class"."""
    module, _, name = kind.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _numbers(
    groups: Sequence[dict[str, Any]], defaults: dict[str, Any]
) -> list[tuple[str, str, int]]:
    """Of the options that are a number, or as many of them, in all param groups."""
    found: list[tuple[str, str, int]] = []
    for key in sorted(defaults.keys() - _HOW):
        values = [group[key] for group in groups]
        if all(_is_number(value) for value in values):
            found.append((key, key, -1))
        elif all(_are_numbers(value) and len(value) == len(values[0]) for value in values):
            found += [(f"{key}.{i}", key, i) for i in range(len(values[0]))]
    return found


def _check_others(optimizer: Optimizer, rule: Rule) -> None:
    """Refuse options that servers would not have as they are: they get numbers only."""
    cls = own_class(optimizer)
    others = optimizer.defaults.keys() - _HOW - {key for _, key, _ in rule.numbers}
    if cls in NATIVE and not others:
        return
    numbers = {key: optimizer.param_groups[0][key] for _, key, _ in rule.numbers}
    try:
        defaults = construct(cls, [nn.Parameter(torch.zeros(1))], numbers).defaults
    except Exception as error:
        raise Unsupported(
            f"servers cannot make a {cls.__name__} from the numbers of its param groups: {error}; "
            "give its other arguments defaults, or use the all_reduce strategy"
        ) from error
    for index, group in enumerate(optimizer.param_groups):
        for key in sorted(others):
            if not _same(group[key], defaults.get(key)):
                raise Unsupported(
                    f"{cls.__name__} has {key}={group[key]!r} in param group {index}, which does "
                    "not travel to a parameter server: only numbers do, and tuples of them, where "
                    f"all param groups have some; the servers would have {defaults.get(key)!r}. "
                    "Make it the default of a class of its own, or use the all_reduce strategy"
                )


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    return a is b or bool(a == b)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (
        isinstance(value, torch.Tensor) and value.numel() == 1
    )


def _are_numbers(value: object) -> TypeGuard[Sequence[float]]:
    return isinstance(value, tuple | list) and bool(value) and all(_is_number(v) for v in value)


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
