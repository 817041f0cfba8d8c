"""The optimizer after distribute(): the same object, whose class has become a subclass."""

from __future__ import annotations

import copyreg
import functools
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..errors import InvalidArgument, Unsupported
from ._distributed import Distributed
from ._loss import check_loss
from ._outer import KEY, keep, kept
from ._rules import own_class


class DistributedOptimizer(Optimizer):
    """Mixed in before the optimizer's own class, so that `super()` is the original.

    ``step`` takes two more arguments: `loss`, this rank's mean loss (a number or a scalar tensor),
    which switch policies and reports see averaged over all ranks, and `epoch`, unless a
    :class:`gearshift.torch.DistributedSampler` tells.
    """

    _gearshift: Distributed
    _gearshift_own_class: type[Optimizer]

    @torch._disable_dynamo  # a compiled function that calls it goes on behind it
    def step(
        self, closure: Any = None, *, loss: Any = None, epoch: int | None = None, **more: Any
    ) -> Any:
        """Make one optimizer step, as the strategy in force has it. Collective.

        `more` is for classes whose own ``step`` takes more (not under a server).
        """
        if closure is not None and not callable(closure):
            raise InvalidArgument(
                f"step() was given a {type(closure).__name__} as closure, which is a function; a "
                "loss is given by its name: step(loss=loss)"
            )
        self._opt_called = True  # for LR schedulers, which would wrap `step` otherwise
        distributed = self._gearshift
        update = functools.partial(super().step, **more) if more else super().step
        if distributed.closed:
            return update() if closure is None else update(closure)
        check_loss(loss)
        distributed.check_unchanged()
        if distributed.uses_server:
            if more:
                raise Unsupported(
                    f"under a parameter server, which has the optimizer, step() takes no "
                    f"{', '.join(more)}"
                )
            return self._step_server(closure, loss=loss, epoch=epoch)
        distributed.adapter.keep_layout()
        if distributed.is_local:
            return distributed.step_local(update, closure, loss, epoch)
        return distributed.step_all_reduce(update, closure, loss, epoch)

    step.hooked = True  # type: ignore[attr-defined]  # the original runs the user's hooks
    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]

    @torch._disable_dynamo
    def zero_grad(self, *arguments: Any, **more: Any) -> None:
        """As ever; what was accumulated has no weight in the average any more."""
        super().zero_grad(*arguments, **more)
        if not self._gearshift.closed:
            self._gearshift.adapter.forget_gradients()

    @Optimizer.profile_hook_step
    def _step_server(self, closure: Any, *, loss: Any, epoch: int | None) -> Any:
        return self._gearshift.step_server(closure, loss, epoch)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Unless gradients are those of all ranks, a GradScaler leaves unscaling, and what to do
        on overflow, to us: a step that one rank leaves out is one for the others."""
        distributed = self._gearshift
        if not distributed.closed and (distributed.uses_server or distributed.is_local):
            return True
        return bool(self.__dict__.get("_step_supports_amp_scaling", False))

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, value: bool) -> None:
        self.__dict__["_step_supports_amp_scaling"] = value

    def state_dict(self) -> dict[str, Any]:
        """As ever; under a server its part comes from the shards (not collective). Under local SGD
        with the momentum of an outer optimizer, if it has one."""
        if self._gearshift.closed:
            result, momentum = super().state_dict(), kept(self)
        else:
            self._gearshift.fetch_state()
            result, momentum = super().state_dict(), self._gearshift.outer_momentum()
            self._gearshift.drop_state()
        return result | {KEY: momentum} if momentum else result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As ever; under a server the shards get their part. Call on all ranks, with the same."""
        super().load_state_dict(state_dict)
        momentum = state_dict.get(KEY)
        keep(self, momentum)
        if not self._gearshift.closed:
            _match_layout(self)
            self._gearshift.store_state()
            self._gearshift.store_outer(momentum)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused once the model is distributed."""
        if self._gearshift.closed:
            super().add_param_group(param_group)
            return
        raise Unsupported(
            "param groups cannot be added after distribute(): add them before, with lr=0 until "
            "they are needed, or call gst.release(model), add them, and distribute again"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy or pickle is an optimizer of the original class, with all of its state."""
        takes_part = not self._gearshift.closed
        if takes_part:
            self._gearshift.fetch_state()
        state = self.__getstate__()
        state["state"] = defaultdict(dict, self.state)
        if takes_part:
            self._gearshift.drop_state()
        rebuild = copyreg._reconstructor  # type: ignore[attr-defined]
        return rebuild, (own_class(self), object, None), state


def adopt(optimizer: Optimizer, distributed: Distributed) -> None:
    """Make the optimizer take part in the job."""
    own_step = optimizer.__dict__.get("step")
    if own_step is not None:
        if not hasattr(own_step, "_wrapped_by_lr_sched"):
            raise Unsupported(
                "optimizer.step was replaced on the optimizer itself: call distribute() before"
            )
        del optimizer.__dict__["step"]  # an LR scheduler's; the subclass does the same
    _match_layout(optimizer)
    optimizer._gearshift = distributed  # type: ignore[attr-defined]
    optimizer.__class__ = _subclass(own_class(optimizer))


def _match_layout(optimizer: Optimizer) -> None:
    """Lay the state out as the parameters, which are contiguous now: fused kernels rely on it."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if (
                isinstance(value, Tensor)
                and value.layout is torch.strided
                and value.shape == parameter.shape
                and value.stride() != parameter.stride()
            ):
                like = torch.empty_like(parameter, dtype=value.dtype, device=value.device)
                state[name] = like.copy_(value)


def check_free(optimizer: Optimizer) -> None:
    """Refuse an optimizer that takes part already."""
    distributed = getattr(optimizer, "_gearshift", None)
    if distributed is not None and not distributed.closed:
        raise Unsupported("this optimizer was distributed already, with another model")


def _subclass(base: type[Optimizer]) -> type[Optimizer]:
    made = _subclasses.get(base)
    if made is None:
        made = _subclasses[base] = _make_subclass(base)
    return made


_subclasses: dict[type[Optimizer], type[Optimizer]] = {}


def _make_subclass(base: type[Optimizer]) -> type[Optimizer]:
    @functools.wraps(base.__init__)
    def init(self: Any, *arguments: Any, **more: Any) -> None:
        if "_gearshift" not in self.__dict__:  # another one, by type(optimizer)(...): the user's
            self.__class__ = base
        base.__init__(self, *arguments, **more)

    members = {
        "__init__": init,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "_gearshift_own_class": base,
    }
    return type(base.__name__, (DistributedOptimizer, base), members)
