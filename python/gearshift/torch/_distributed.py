"""A distributed model with its optimizer: steps, joins, checkpoints."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import _session
from .. import strategy as strategies
from .._core import Replica, StepReport
from ..errors import InvalidArgument
from . import _outer
from ._adapter import Adapter
from ._epoch import Epoch
from ._follow import follow
from ._joins import join
from ._loss import mean_over_ranks, number_of
from ._memory import Buffers, Trainable
from ._optimizer_facts import (
    decides_by_loss,
    needs_all,
    scaling,
    scheduled_numbers,
    state_digest,
    update_unscaled,
)
from ._reports import log_switch, statistics
from ._rules import Rule, check_groups, group_numbers
from ._samples import forget_latest
from ._scales import back_off, scales_of
from ._state import StateBridge
from ._sync_batch_norm import desynchronize, synchronize

_log = logging.getLogger("gearshift")
_MOST_STEPS_OF_OTHERS = 8


class Distributed:
    """What distribute() made of a model and an optimizer."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        replica: Replica,
        trainables: list[Trainable],
        buffers: Buffers,
        rule: Rule | None,
        bridge: StateBridge | None,
    ) -> None:
        self.replica = replica
        self.optimizer = optimizer
        self.epoch = Epoch(model, self, join, needs_all(optimizer))
        self.adapter = Adapter(
            replica,
            model,
            trainables,
            buffers,
            holds_server=rule is not None,
            on_forward=self._on_forward,
            on_backward=self.epoch.note_backward,
        )
        self.clip_norm = 0.0
        """Under a server: what gst.clip_grad_norm_ asked for in this step."""
        self.frozen: list[tuple[str, Tensor]] = []
        """Parameters that take no part because they required no gradient, with their names."""
        self._normalizing = synchronize(model)
        self._needs_losses = False
        """A switch policy compares the losses of epochs, and it was not said yet if it has none."""
        self._lets_stale_writes_pass = False
        """Servers do not wait for all workers, and it was not said yet what a write does then."""
        self._rule = rule
        self._switches = False
        """The next phase may begin with what the core has."""
        self._groups = {} if optimizer is None else group_numbers(optimizer)
        self._bridge = bridge
        self._versions: list[int] = []
        self._is_fresh = False
        """Under local SGD there was no forward since the last round."""
        self._warned_of_data = False
        self._updating = False
        """The optimizer's own step calls the closure."""
        self._others_steps = 0
        """Rounds since the last step, between which somebody changed the parameters."""
        self._begins = True
        """There was no forward yet."""
        self._stepped = False
        """There was a step."""

    @property
    def uses_server(self) -> bool:
        """Whether a parameter server is in force."""
        return self.replica.uses_server

    @property
    def is_local(self) -> bool:
        """Whether local SGD is in force."""
        return self.replica.is_local

    @property
    def closed(self) -> bool:
        """Whether the model is on its own again."""
        return self.adapter.closed

    def start(self, momentum: _outer.Momentum | None) -> None:
        """Collective: rank 0's parameters and buffers for all; servers start if need be.

        Args:
            momentum: with which the outer optimizer of local SGD begins; the same on all ranks.
        """
        self.replica.start()
        if momentum:
            self.store_outer(momentum)
        self.adapter.fetch_parameters()
        self.adapter.buffers.scatter()
        self._settle()

    def watch_for_mistakes(self, strategy: strategies.Strategy) -> None:
        """Log once what can go wrong under a strategy, when it does."""
        self._switches = len(strategies.phases(strategy)) > 1
        self._needs_losses = strategies.needs_losses(strategy)
        self._lets_stale_writes_pass = strategies.is_asynchronous(strategy)

    # Steps.

    def check_unchanged(self) -> None:
        """Refuse to go on where servers, or other ranks, would not do what the optimizer would.

        Raises:
            InvalidArgument: when a parameter was unfrozen after distribute().
            Unsupported: under servers, when one was put into another param group, or taken out.
        """
        if self._rule is not None and self.optimizer is not None:
            check_groups(self.optimizer, self._groups, self.adapter.parameters)
        self.check_frozen()

    def check_frozen(self) -> None:
        """Refuse a parameter that was unfrozen after distribute(), as check_unchanged does."""
        for name, parameter in self.frozen:
            if parameter.requires_grad:
                raise InvalidArgument(
                    f"parameter '{name}' was frozen when the model was distributed, and requires "
                    "a gradient now, which would not travel: after unfreezing, call "
                    "gst.release(model) and gst.distribute() again, on all ranks"
                )

    def step_all_reduce(
        self, update: Callable[..., Any], closure: Any, loss: Any, epoch: int | None
    ) -> Any:
        """The optimizer's own step on the averaged gradients, then the end of the step."""
        assert self.optimizer is not None
        loaded = [] if self._stepped else [state_digest(self.optimizer)]
        if closure is not None:
            seen: list[Any] = []
            self._updating = True
            try:
                result = update(self._counting(closure, seen))
            finally:
                self._updating = False
            loss = seen[0] if loss is None and seen else loss
        else:
            self.adapter.exchange_new()
            result = update()
        if self._switches:
            self.adapter.bring_parameters()
        self._check_losses(loss, epoch)
        numbers = scheduled_numbers(self.optimizer) + scales_of(self.optimizer) + loaded
        report = self.replica.step(self._told(loss), self._epoch(epoch), numbers)
        self._after_step(report)
        return result

    def step_local(
        self, update: Callable[..., Any], closure: Any, loss: Any, epoch: int | None
    ) -> Any:
        """The optimizer's own step on this worker's gradients; every so many, a round of all."""
        assert self.optimizer is not None
        skip = False
        if closure is not None:
            seen: list[Any] = []
            result = update(self._seeing(closure, seen))
            loss = seen[0] if loss is None and seen else loss
        else:
            _, overflows = scaling(self.optimizer)
            skip = overflows or self.adapter.has_no_samples
            result = (
                None if self.adapter.has_no_samples else update_unscaled(self.optimizer, update)
            )
        if self.replica.averages_next:
            self.adapter.bring_parameters()
            self.adapter.buffers.gather()
        self.adapter.weigh_own(latest=closure is not None)
        self._check_losses(loss, epoch)
        numbers = scheduled_numbers(self.optimizer)
        report = self.replica.step(self._told(loss), self._epoch(epoch), numbers, skip=skip)
        if report.averaged:
            self.adapter.fetch_parameters()
            self.adapter.buffers.scatter()
        if report.switched is not None and not self.uses_server:
            # What each rank had of its own has to be one for all again. All are in this step.
            follow(self.optimizer, self.adapter.parameters, root=0, with_state=True)
        self._after_step(report)
        return result

    def step_server(self, closure: Any, loss: Any, epoch: int | None) -> Any:
        """Push the gradients, and take the fresh parameters."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
            loss = result if loss is None else loss
        if self.adapter.unsynced or self.adapter.rounds == 0:
            self.adapter.exchange()
        else:
            self.adapter.refresh_gradients()
        self._store_changes()
        assert self._rule is not None and self.optimizer is not None
        self._check_losses(loss, epoch)
        factor, skip = scaling(self.optimizer)
        report = self.replica.step(
            self._told(loss),
            self._epoch(epoch),
            self._rule.values(self.optimizer.param_groups),
            factor,
            skip,
            self.clip_norm,
        )
        self.adapter.fetch_parameters()
        shared = report.switched is not None and not (self.uses_server or self.is_local)
        if report.skipped and not (skip or shared) and self.adapter.samples.pending > 0:
            back_off(self.optimizer)
        self.adapter.samples.exchanged()
        self._after_step(report)
        return result

    def _after_step(self, report: StepReport) -> None:
        self.adapter.rounds = self._others_steps = 0
        self.adapter.called = False
        self._stepped = True
        self.clip_norm = 0.0
        if report.switched is not None:
            log_switch(report.switched)
            if not self.uses_server:
                self.adapter.buffers.scatter()  # workers have met, and have one rank's
            if self.is_local:
                self.adapter.keep_gradients()  # their memory is needed for rounds
        self._settle(report.averaged or report.switched is not None)
        self.epoch.note_step(report)
        self.epoch.settle(stepped=True)

    def _check_losses(self, loss: Any, epoch: int | None) -> None:
        """Say with the first step that a policy by losses will never fire."""
        needed, self._needs_losses = self._needs_losses, False
        if not needed or _session.rank() != 0:
            return
        if loss is None:
            _log.warning("LossPlateau will not fire: it needs optimizer.step(loss=loss)")
        elif epoch is None and not self.epoch.known:
            _log.warning(
                "LossPlateau will not fire: it compares epochs, and nothing says where "
                "they are; use gst.DistributedSampler, gst.join around each, or "
                "optimizer.step(loss=loss, epoch=epoch)"
            )

    def _settle(self, averaged: bool = True) -> None:
        """After anything that may have moved parameters or optimizer state."""
        if self.uses_server:
            assert self._bridge is not None
            self._bridge.drop_state()
        self._is_fresh = self.is_local and averaged
        if self.uses_server or self._is_fresh:
            self._versions = [p._version for p in self.adapter.parameters]

    def _store_changes(self) -> None:
        """What the user wrote to the parameters since the last step goes to their keeper."""
        if not self.uses_server:
            self.adapter.bring_parameters()
        elif self._parameters_changed() or self._written_unseen():
            self._warn_of_stale_writes()
            self.replica.store_parameters()

    def _written_unseen(self) -> bool:
        """The same for writes that PyTorch does not count, through ``p.data`` or NumPy."""
        if not self.replica.parameters_written():
            return False
        if not self._warned_of_data:
            self._warned_of_data = True
            _log.warning(
                "the parameters of %s were written to through .data (or NumPy), of which PyTorch "
                "does not tell: from here on every step looks for it, which costs a pass over the "
                "model; write to them under torch.no_grad() instead",
                self.adapter.samples.model,
            )
        return True

    def _warn_of_stale_writes(self) -> None:
        shared = _session.world_size() > 1 and self.replica.stats().step > 0
        if self._lets_stale_writes_pass and shared:
            self._lets_stale_writes_pass = False
            _log.warning(
                "the parameters were written to between two steps: servers that do not wait for "
                "all workers lose what others have taught them meanwhile, even if the parameters "
                "were put back; to evaluate others (EMA), use a copy of the model"
            )

    def _parameters_changed(self) -> bool:
        """Under a server: has the user written to the parameters since the last step?"""
        versions = [p._version for p in self.adapter.parameters]
        changed = versions != self._versions
        if changed or any(t.staged for t in self.adapter.trainables):
            return self.adapter.bring_parameters() or changed
        return self.adapter.bring_parameters()

    def _counting(self, closure: Callable[[], Any], seen: list[Any]) -> Callable[[], Any]:
        """The closure, with the gradients of all ranks whichever way it made them.

        Optimizers that decide by the loss get that of all ranks, too.
        """
        decides = decides_by_loss(self.optimizer)

        def counted() -> Any:
            rounds = self.adapter.rounds
            loss = closure()
            self.adapter.exchange_new(rounds)
            seen.append(loss)
            if not decides or _session.world_size() == 1:
                return loss
            return mean_over_ranks(loss, self.adapter.samples.latest)

        return counted

    def _seeing(self, closure: Callable[[], Any], seen: list[Any]) -> Callable[[], Any]:
        """The closure, whose losses are noted; on no samples it makes no gradients."""

        def noted() -> Any:
            seen.append(closure())
            if self.adapter.has_no_samples:
                self.adapter.drop_gradients()
            return seen[-1]

        return noted

    def _told(self, loss: Any) -> float:
        """A loss for the core, to which NaN means none: one that is NaN is infinite there."""
        number = number_of(loss)
        given = loss is not None and self.adapter.samples.latest > 0  # an empty batch has none
        return math.inf if given and math.isnan(number) else number

    def _epoch(self, given: int | None) -> int:
        return self.epoch.number if given is None else int(given)

    def _on_forward(self, samples: int) -> None:
        if self._is_fresh:
            self._take_writes()
        if self._begins:
            self._begins = False
            self.adapter.bring_parameters()  # the first round of All-Reduce compares them
        if self.optimizer is None:
            self.check_frozen()
            self.count_step_by_hand()
        elif self.adapter.rounds > 0 and not self._updating:
            self._watch_others()
        self.epoch.note_forward(samples)

    def _take_writes(self) -> None:
        """Under local SGD, before the first step after a round: was a checkpoint loaded, say?

        That is no change that should be rounded on its way, or that an outer optimizer should see;
        where there is one, the core looks for it. Later ones are not equal on all ranks.
        """
        self._is_fresh = False
        changed = self._versions != [p._version for p in self.adapter.parameters]
        if changed or not any(t.staged for t in self.adapter.trainables):
            self.adapter.bring_parameters()
        self.replica.store_parameters()

    def _watch_others(self) -> None:
        """Before a forward, when no step has come since a round: did others make one?

        Once or twice they may, to look ahead.

        Raises:
            InvalidArgument: under a server, when others train the model on this rank's gradients.
        """
        # What a forward writes itself comes later.
        versions = [p._version for p in self.adapter.parameters]
        if self.adapter.rounds > 1 and versions != self.adapter.versions_of_round:
            self._others_steps += 1
        if self._others_steps != _MOST_STEPS_OF_OTHERS:
            return
        text = (
            f"the parameters of {self.adapter.samples.model} were changed after each of the last "
            f"{_MOST_STEPS_OF_OTHERS} backward passes, without a step of the optimizer that was "
            "given to distribute()"
        )
        if self.uses_server:
            raise InvalidArgument(
                f"{text}: another one applies this rank's gradients alone. To train with another "
                "optimizer call gst.release(model), and distribute() with that"
            )
        _log.warning("%s: metrics, switch policies and epochs count its steps only", text)

    def count_step_by_hand(self) -> None:
        """Without an optimizer the user updates the parameters: each exchange was a step."""
        if self.optimizer is None and self.adapter.rounds > 0:
            self.adapter.rounds = 0
            self.epoch.note_step(self.replica.step(math.nan, self.epoch.number))

    # Joins and checkpoints.

    def before_join(self) -> None:
        """This rank has no more batches in this epoch."""
        self.count_step_by_hand()
        if self._is_fresh:
            self._take_writes()
        self._store_changes()
        self.adapter.buffers.gather()

    def after_join(self, root: int, steps_differ: bool) -> None:
        """Collective: all ranks are through. Rank `root`'s state is that of all from here on."""
        self.adapter.fetch_parameters()
        self.adapter.buffers.scatter()
        self.adapter.rounds = 0
        self._stepped = True  # if not this rank, others
        if self.is_local:  # perhaps since a switch within this join
            self.adapter.keep_gradients()
        if steps_differ:
            follow(
                self.optimizer,
                self.adapter.parameters,
                root,
                # Of each rank's own state nothing is common under local SGD.
                with_state=not (self.uses_server or self.is_local),
                with_others=not self.uses_server,
            )
        self._settle()

    def fetch_state(self) -> None:
        """Under a server: fill the optimizer's state from the shards."""
        if self.uses_server:
            assert self._bridge is not None
            self._bridge.import_state(self.replica.fetch_state())

    def store_state(self) -> None:
        """Under a server: give the shards the optimizer's state."""
        if self.uses_server:
            assert self._bridge is not None
            self.replica.store_state(self._bridge.export_state())
            self._bridge.drop_state()

    def outer_momentum(self) -> _outer.Momentum:
        """Under local SGD: that of the outer optimizer, if it has some."""
        return _outer.fetch(self.replica, self.adapter.trainables)

    def store_outer(self, momentum: _outer.Momentum | None) -> None:
        """Under local SGD: have the outer optimizer go on from it; without any, from zeros."""
        _outer.store(self.replica, self.adapter.trainables, momentum)

    def drop_state(self) -> None:
        """Under a server: forget what fetch_state filled in."""
        if self.uses_server and self._bridge is not None:
            self._bridge.drop_state()

    def stats(self) -> dict[str, Any]:
        """See gst.stats."""
        return statistics(self.replica.stats())

    def close(self, exiting: bool) -> None:
        """Collective: leave the servers; the model and the optimizer are on their own again.

        Unless the process ends, the model is that of all ranks then.
        """
        self.epoch.finish()
        if not exiting and (self.uses_server or self.is_local):
            if self._is_fresh:
                self._take_writes()
            self._store_changes()
            self.adapter.buffers.gather()
            self.replica.finish()
            self.adapter.fetch_parameters()
            self.adapter.buffers.scatter()
            self.fetch_state()
        if self.optimizer is not None and not exiting:
            _outer.keep(self.optimizer, self.outer_momentum())
        self.replica.stop()
        self.adapter.close()
        desynchronize(self._normalizing)
        forget_latest()
        self.replica.forget_bridge()
