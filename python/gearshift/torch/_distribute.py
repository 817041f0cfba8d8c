"""distribute(): from a model and an optimizer of one process to one of many."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from typing import Any, Literal, TypeVar, cast, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import _session
from .. import strategy as strategies
from .._collectives import all_reduce, broadcast
from .._core import Replica
from .._core import Strategy as CoreStrategy
from ..errors import InvalidArgument, Unsupported
from ..launch.strategy import asked_strategy, asked_total_steps
from ._distributed import Distributed
from ._memory import Buffers, adopt_parameters
from ._objects import broadcast_object
from ._optimizer import adopt, check_free
from ._outer import Momentum, kept
from ._overlap import check_parameters_apart
from ._registry import everything, find, register, settle_epochs, unwrapped
from ._rules import Rule, group_numbers, rule_of
from ._state import StateBridge, load_as_sent

_log = logging.getLogger("gearshift")
Model = TypeVar("Model", bound=nn.Module)
Opt = TypeVar("Opt", bound=Optimizer)
Found = list[tuple[str, nn.Parameter, int]]


@overload
def distribute(
    model: Model,
    optimizer: Opt,
    strategy: strategies.Strategy | str | None = ...,
    total_steps: int | None = ...,
    stage: Literal["auto", "force"] = ...,
    *,
    elementwise: bool = ...,
    broadcast_buffers: bool = ...,
) -> tuple[Model, Opt]: ...
@overload
def distribute(
    model: Model,
    optimizer: None = ...,
    strategy: strategies.Strategy | str | None = ...,
    total_steps: int | None = ...,
    stage: Literal["auto", "force"] = ...,
    *,
    elementwise: bool = ...,
    broadcast_buffers: bool = ...,
) -> tuple[Model, None]: ...
def distribute(
    model: Any,
    optimizer: Any = None,
    strategy: strategies.Strategy | str | None = None,
    total_steps: int | None = None,
    stage: Literal["auto", "force"] = "auto",
    *,
    elementwise: bool = False,
    broadcast_buffers: bool = True,
) -> tuple[Any, Any]:
    """Make a model and its optimizer train together with those of all other workers. Collective.

    All start from rank 0's parameters, buffers and optimizer state; backward and ``optimizer.step``
    are collective from here on. Move and cast the model before. Parameters become
    contiguous; those in host memory become views of memory that processes share. You may write to
    them between steps, on all workers alike; under a parameter server do so in place and under
    ``torch.no_grad()``, or by assigning ``p.data`` (writes *into* it are found late or never).

    Args:
        model: any module. Every parameter that requires a gradient takes part. To unfreeze others
            later, call :func:`release` and distribute again.
        optimizer: over the model's parameters; None (All-Reduce only) to update them by hand.
        strategy: a value or its text (:mod:`gearshift.strategy`). It stands, with a warning where
            the job was started with another; None: what it was started with, or All-Reduce.
        total_steps: optimizer steps of the job, for ``At(fraction=)`` (or GEARSHIFT_TOTAL_STEPS).
        stage: "auto" copies gradients through host memory for parameters on an accelerator;
            "force" does so for all.
        elementwise: vouch that an optimizer class of your own treats each element by itself.
        broadcast_buffers: keep buffers (BatchNorm statistics) equal on all workers.

    Returns:
        The same two objects.

    Raises:
        InvalidArgument: for a model, optimizer or strategy that cannot be.
        Unsupported: for an optimizer that the strategy cannot run; the text says why.
        MismatchError: when the workers' models or settings differ; the text shows the first one.
    """
    session = _session.current()
    chosen = strategies.parse(_asked() if strategy is None else strategy)
    _check_arguments(model, optimizer, total_steps, stage)
    core = _validated(chosen, total_steps)
    found = _trainable(unwrapped(model), optimizer)
    rule = _rule(chosen, optimizer, elementwise, found)
    bridge = None
    if optimizer is not None:
        bridge = StateBridge(optimizer, [p for _, p, _ in found], carries_state=rule is not None)
    buffers = Buffers(unwrapped(model) if broadcast_buffers else nn.Module())
    made = session.distribute(
        parameters=[(name, list(p.shape), _name(p.dtype), max(g, 0)) for name, p, g in found],
        strategy=core,
        optimizer=None if rule is None else rule.spec(),
        bridge=bridge,
        buffer_bytes=buffers.nbytes,
        fingerprint=_fingerprint(unwrapped(model), optimizer),
    )
    replica = cast(Replica, made)
    _share_frozen(unwrapped(model))
    momentum = None if optimizer is None else _share_state(optimizer)
    trainables = adopt_parameters(replica, found, stage == "force")
    buffers.adopt(replica.buffers(), stage == "force")
    distributed = Distributed(model, optimizer, replica, trainables, buffers, rule, bridge)
    distributed.frozen = _frozen(unwrapped(model), optimizer)
    distributed.watch_for_mistakes(chosen)
    distributed.start(momentum)
    if optimizer is not None:
        adopt(optimizer, distributed)
    register(model, distributed)
    _session.before_collectives(settle_epochs)
    return model, optimizer


def _validated(strategy: strategies.Strategy, total_steps: int | None) -> CoreStrategy:
    session = _session.current()
    core = strategies.to_core(strategy, total_steps or asked_total_steps())
    core.validate(session.world_size, session.servers)
    unused = session.servers > 0 and not strategies.uses_server(strategy)
    if unused and session.rank == 0:
        _log.warning(
            "dedicated servers: %d, which are not used: the strategy is %s",
            session.servers,
            strategies.to_text(strategy),
        )
    return core


def _asked() -> strategies.Strategy:
    return asked_strategy() or strategies.AllReduce()


def _check_arguments(model: Any, optimizer: Any, total_steps: Any, stage: str) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidArgument(f"the model is no nn.Module but {_article(model)}")
    _check_hooks(model)
    if isinstance(optimizer, tuple | list):
        raise InvalidArgument(
            "distribute() takes one optimizer of a model: give it the one that steps last, and let "
            "the others, under the all_reduce and local_sgd strategies, step as they are"
        )
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise InvalidArgument(
            f"the optimizer is no torch.optim.Optimizer but {_article(optimizer)}"
        )
    if find(model) is not None:
        raise InvalidArgument(
            "this model was distributed already; call gst.release(model) before you do it again"
        )
    if total_steps is not None and (not isinstance(total_steps, int) or total_steps < 1):
        raise InvalidArgument(
            f"total_steps must be a whole number from 1 on, or None, got {total_steps!r}"
        )
    if stage not in ("auto", "force"):
        raise InvalidArgument(f"stage {stage!r} is neither 'auto' nor 'force'")


def _check_hooks(model: nn.Module) -> None:
    try:
        model.register_forward_pre_hook(lambda *_: None).remove()
    except RuntimeError as error:
        raise Unsupported(
            f"a {type(model).__name__} takes no hooks ({error}): distribute the module that it was "
            "made of, and script that after training"
        ) from error


def _article(value: object) -> str:
    name = type(value).__name__
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {name}"


def _trainable(model: nn.Module, optimizer: Optimizer | None) -> Found:
    groups: dict[int, int] = {}
    if optimizer is not None:
        check_free(optimizer)
        groups = group_numbers(optimizer)
    found = [
        (name, p, groups.get(id(p), -1)) for name, p in model.named_parameters() if p.requires_grad
    ]
    if not found:
        raise InvalidArgument("the model has no parameter that requires a gradient")
    taken = {id(p) for d in everything() for p in d.adapter.parameters}
    for name, p, _ in found:
        _check_parameter(name, p)
        if id(p) in taken:
            raise InvalidArgument(
                f"parameter '{name}' takes part in the training of another model that was "
                "distributed: distribute one nn.ModuleList (or nn.Module) of both with one "
                "optimizer, or call gst.release() for the other one first"
            )
    check_parameters_apart([(name, p) for name, p, _ in found], _others(model))
    _check_renormalised(model)
    if optimizer is not None:
        _check_owned(model, optimizer)
    return found


def _frozen(model: nn.Module, optimizer: Optimizer | None) -> list[tuple[str, Tensor]]:
    """What takes no part as it is, but would be updated if it came to require a gradient."""
    if optimizer is None:
        return [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    names = {id(p): name for name, p in model.named_parameters()}
    return [
        (names.get(id(p), f"{number} of param group {index}"), p)
        for index, group in enumerate(optimizer.param_groups)
        for number, p in enumerate(group["params"])
        if not p.requires_grad
    ]


def _check_parameter(name: str, p: nn.Parameter) -> None:
    if nn.parameter.is_lazy(p):
        raise InvalidArgument(f"parameter '{name}' is lazy: run a forward before distribute()")
    if p.layout is not torch.strided or p.dtype.is_complex:
        raise Unsupported(f"parameter '{name}' is {p.layout} {p.dtype}: only dense real ones do")
    if p.is_meta:
        raise InvalidArgument(f"parameter '{name}' is on the meta device: give it memory before")


def _check_renormalised(model: nn.Module) -> None:
    """Weights that forward writes to, by the samples that this rank has, would drift apart."""
    if _session.world_size() == 1:
        return
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.Embedding | nn.EmbeddingBag)
            and module.max_norm is not None
            and module.weight.requires_grad
        ):
            raise Unsupported(
                f"{type(module).__name__} '{name}' has max_norm={module.max_norm}, by which each "
                "rank changes the rows that its own samples use, and no others: set it to None, "
                "and after each optimizer.step(), on all ranks, call under torch.no_grad() "
                f"weight.renorm_({module.norm_type:g}, 0, {module.max_norm:g})"
            )


def _check_owned(model: nn.Module, optimizer: Optimizer) -> None:
    own = {id(p) for p in model.parameters()}
    for index, group in enumerate(optimizer.param_groups):
        if any(p.requires_grad and id(p) not in own for p in group["params"]):
            raise InvalidArgument(
                f"param group {index} of the optimizer has parameters that are not the model's and "
                "would drift apart on the workers: put all modules that it trains into one "
                "nn.ModuleList (or nn.Module) and distribute that"
            )


def _rule(
    strategy: strategies.Strategy, optimizer: Optimizer | None, elementwise: bool, found: Found
) -> Rule | None:
    if strategies.uses_local(strategy):
        _check_local(strategy, optimizer)
    if not strategies.uses_server(strategy):
        return None
    if optimizer is None:
        raise InvalidArgument(
            "a parameter server applies the optimizer itself, so distribute() needs it; "
            "without one use the all_reduce strategy"
        )
    rule = rule_of(optimizer, elementwise)
    if _session.world_size() > 1:
        _warn_of_unowned(found)
    return rule


def _check_local(strategy: strategies.Strategy, optimizer: Optimizer | None) -> None:
    if optimizer is None:
        raise InvalidArgument(
            "local_sgd counts the steps of the optimizer, so distribute() needs it; without one "
            "use the all_reduce strategy"
        )
    if len(strategies.phases(strategy)) > 1 and isinstance(optimizer, torch.optim.LBFGS):
        raise Unsupported(
            "LBFGS cannot be switched to or from local_sgd: the curvature that it has learnt is "
            "that of one worker's losses, or of all workers' mean"
        )


def _warn_of_unowned(found: Found) -> None:
    """Under servers: parameters that would be trained apart, if anything trained them."""
    unowned = [name for name, _, group in found if group < 0]
    if unowned:
        _log.warning(
            "under a parameter server '%s'%s, which no param group of the optimizer has, stays as "
            "it is: do not train it with another optimizer, which would apply this rank's "
            "gradients alone, but freeze it, or give all to one optimizer",
            unowned[0],
            f" (and {len(unowned) - 1} more)" if len(unowned) > 1 else "",
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _fingerprint(model: nn.Module, optimizer: Optimizer | None) -> str:
    """What must be equal on all ranks besides the trainable parameters."""
    version = ".".join(torch.__version__.split(".")[:2])
    others = hashlib.sha256()
    for name, tensor in _others(model):
        others.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
    text = f"torch {version}, frozen parameters and buffers {others.hexdigest()[:16]}"
    if optimizer is None:
        return text
    for group in optimizer.param_groups:
        settings = {k: _plain(v) for k, v in group.items() if k not in ("params", "param_names")}
        text += f", {type(optimizer).__name__} group of {len(group['params'])} {settings}"
    return text


def _plain(value: Any) -> Any:
    """What is equal on all ranks where the value is; of a function or an object, its name."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)


def _others(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, p) for name, p in model.named_parameters() if not p.requires_grad)
    yield from model.named_buffers()


def _share_frozen(model: nn.Module) -> None:
    """Rank 0's frozen parameters for all."""
    if _session.world_size() == 1:
        return
    for p in model.parameters():
        if not p.requires_grad and p.numel():
            data = p.detach().to("cpu", copy=True).contiguous()
            broadcast(data.view(-1).view(torch.uint8))
            p.data.copy_(data)


def _share_state(optimizer: Optimizer) -> Momentum:
    """Rank 0's optimizer state for all, when anybody has some (from a checkpoint).

    Returns:
        The momentum of an outer optimizer that was in it.
    """
    momentum = kept(optimizer)
    if _session.world_size() == 1:
        return momentum
    count = np.array([len(optimizer.state) + len(momentum)], dtype=np.int64)
    if all_reduce(count, "max")[0] > 0:
        mine = (optimizer.state_dict(), momentum) if _session.rank() == 0 else None
        state, momentum = broadcast_object(mine)
        if _session.rank() != 0:
            load_as_sent(optimizer, state)
    return momentum
