"""What a training loop may say about a distributed model."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .. import _session
from ..errors import InvalidArgument, Unsupported
from . import _samples
from ._distributed import Distributed
from ._registry import everything, find, get


@contextlib.contextmanager
def no_sync(model: nn.Module) -> Iterator[None]:
    """Accumulate gradients on this rank: backward inside does not exchange them.

    The first backward outside, or ``optimizer.step()``, exchanges the sum. All ranks must do alike.
    """
    adapter = get(model).adapter
    adapter.no_sync_depth += 1
    try:
        yield
    finally:
        adapter.no_sync_depth -= 1


def samples(n: float) -> None:
    """Say how much the gradient of the next backward weighs in the average over the ranks.

    Without it, that is the leading dimension of the first tensor given to the model's forward.
    Use it to weight by tokens, for example.

    Raises:
        InvalidArgument: when `n` is negative or not finite.
    """
    _samples.say(n)


def join(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Around the loop over an epoch's batches, when ranks may have different numbers of them.

    A rank that comes to the end takes part in the others' steps without a gradient, until all have;
    then parameters, buffers and optimizer state are equal on all ranks. The averages stay exact:
    gradients are weighted by samples. Not needed with :class:`gearshift.torch.DistributedSampler`.

    Inside, call no collectives of your own: ranks that are through do not take part in them.
    """
    return get(model).epoch.explicit()


def clip_grad_norm_(
    target: nn.Module | Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Clip the gradients by their global norm, under any strategy, as one process would.

    Under All-Reduce, and for a model that is not distributed, this is
    :func:`torch.nn.utils.clip_grad_norm_`, of gradients that are exchanged before if they have not
    been (accumulated under :func:`no_sync`, or made without a backward). Under a parameter server
    the gradient that the servers apply is clipped, in the step that follows: the average under BSP,
    else this worker's own. Under BSP call it in every worker or in none, with the same norm. Under
    local SGD it is this worker's own, here and now.

    Args:
        target: a model, or all of its parameters.
        max_norm: the norm.
        norm_type: under a server only 2.
        error_if_nonfinite: raise when the norm is not finite.

    Returns:
        The norm before; under a server that of this worker's own gradient.

    Raises:
        InvalidArgument: under a server for a negative norm, or NaN.
        Unsupported: under a server for another norm, or for some of the parameters only.
    """
    parameters = _parameters_of(target)
    served = [d for d in everything() if d.uses_server and _touches(d, parameters)]
    if not served:
        for distributed in everything():
            if _touches(distributed, parameters):
                distributed.adapter.exchange_own()
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite)
    if not max_norm >= 0:
        raise InvalidArgument(f"clip_grad_norm_: max_norm must not be negative, got {max_norm!r}")
    given = {id(p) for p in parameters}
    for distributed in served:
        needed = {id(t.parameter) for t in distributed.adapter.trainables if t.group >= 0}
        if norm_type != 2 or needed - given or len(served) > 1:
            raise Unsupported(
                "under a parameter server clip_grad_norm_ takes all parameters of one model, and "
                "the 2-norm"
            )
        # To the core 0 is no limit. An infinite one asks for the norm alone, as in torch.
        limits = sys.float_info.min, sys.float_info.max
        distributed.clip_norm = min(max(float(max_norm), limits[0]), limits[1])
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients, norm_type, error_if_nonfinite)


def release(model: nn.Module) -> None:
    """Undo distribute(): model and optimizer are on their own again, on every worker. Collective.

    Parameters, buffers and optimizer state stay as they are; under a server, parameters and state
    become the servers', with the updates of all workers, of which the slowest is waited for, and
    buffers those of a worker that made most steps. Under local SGD parameters and buffers become
    those of all, by a last round.
    Without it that happens at :func:`gearshift.shutdown`; use it in jobs that train many models one
    after another.
    """
    distributed = get(model)
    if not distributed.closed:
        _session.not_before_close(distributed.close)
        distributed.close(exiting=False)


def stats(model: nn.Module) -> dict[str, Any]:
    """What happened so far, on this worker.

    Returns:
        A dict with

        * ``strategy``: in force; ``step``: steps done; ``loss``: latest loss, mean over all ranks
          (NaN when ``optimizer.step(loss=...)`` was never told, or it is not finite): under
          All-Reduce of the step before the latest, under BSP of the latest, under local SGD of all
          steps up to the latest round since the one before, otherwise of the latest that each
          worker has given;
        * ``bytes_sent``, ``bytes_received``: by this process; ``communication_seconds``: time that
          gradients and parameters were under way, waiting for other ranks included;
          ``exposed_seconds``: how much of it backward and step waited for (the rest was hidden
          behind computation);
        * ``pushes``, ``mean_staleness``, ``max_staleness``: of this worker, under servers;
          ``max_lead``, ``shard_applies``: of the shard in this process;
        * ``switches``: the decision log, a list of dicts with ``step``, ``from``, ``to``,
          ``policy``, ``inputs``, ``seconds``, ``bytes_moved`` and ``parameter_hash``.
    """
    return get(model).stats()


def _parameters_of(target: nn.Module | Tensor | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(target, nn.Module):
        found = find(target)
        return list(target.parameters()) if found is None else list(found.adapter.parameters)
    return [target] if isinstance(target, Tensor) else list(target)


def _touches(distributed: Distributed, parameters: list[Tensor]) -> bool:
    given = {id(p) for p in parameters}
    return any(id(p) in given for p in distributed.adapter.parameters)
