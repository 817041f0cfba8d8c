"""When this rank has no more batches in an epoch, so that the others need not wait for it."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from .. import _session
from .._core import StepReport
from ..errors import InvalidArgument, Unsupported
from ._deal import Deal

if TYPE_CHECKING:
    from ._distributed import Distributed


class _Place:
    """How far one model has come in what a sampler deals."""

    def __init__(self, deal: Deal, active: bool) -> None:
        self.deal = deal
        self.active = active
        """Whether the model is expected to train on it."""
        self.trained = False
        self.stepped = False
        """Whether there was a step after gradients of all samples had been made."""
        self._counted = 0
        self._reached = 0
        self._steps: deque[tuple[int, int]] = deque()
        """Steps made, and samples that had been seen then; from where the slowest may be."""

    def backward(self, samples: int) -> None:
        """One has begun, for a forward on so many samples that were not seen before."""
        self.trained = self.deal.training.begun = True
        self._counted += samples
        self._reached = self.deal.samples

    @property
    def through(self) -> bool:
        """Whether gradients of all samples have been made."""
        target = self.deal.target
        if target is None or target == 0:
            return target == 0
        return self.trained and self._seen >= target

    @property
    def _seen(self) -> int:
        """Samples of which gradients have been made."""
        return self._reached if self.deal.in_step else min(self._counted, self.deal.samples)

    def note_step(self, report: StepReport, samples: float) -> None:
        """The gradients so far have been applied; the latest is one of so many samples."""
        if self.deal.target is None:
            return
        self._steps.append((report.step, self._seen))
        training = self.deal.training
        training.own = max(training.own, self._seen_by(report.seen))
        training.of_others = max(training.of_others, self._seen_by(report.seen_of_others))
        reader = training.reader
        if reader is not None and samples == reader.batch_size and not self.through:
            training.alike = training.alike and report.alike  # else they are ends, or weights
        oldest = min(report.seen, report.seen_of_others)
        while len(self._steps) > 1 and self._steps[1][0] <= oldest:
            self._steps.popleft()

    def _seen_by(self, step: int) -> int:
        return next((seen for made, seen in reversed(self._steps) if made <= step), 0)


class Epoch:
    """Follows a model through the epochs of a training sampler, and joins at their ends.

    An epoch is open from the start of the sampler's iteration while the model trains (or from the
    first backward after it) until the join. It ends at the optimizer step after the samples that
    this rank was given have all been seen, by all models that train on them: their joins must not
    wait for one another. Where that cannot be told (a loop left early), it ends when the next one
    begins, or with the job. One in which nothing was trained was none: somebody looked at the data.
    """

    def __init__(
        self,
        model: nn.Module,
        owner: Distributed,
        join: Callable[[list[Distributed]], None],
        needs_all: str,
    ) -> None:
        """Made with the model.

        Args:
            model: whose it is.
            owner: what distribute() made of it.
            join: joins such, all at once.
            needs_all: what cannot go on when other ranks have no batches left, if anything.
        """
        self.number = 0
        """Of the epoch, for the metrics."""
        self._model = weakref.ref(model)
        self._owner = owner
        self._join = join
        self._turn = next(_turns)
        self._alone = _session.world_size() == 1
        self._needs_all = needs_all
        self._explicit = False
        self._place: _Place | None = None
        self._candidate: _Place | None = None
        """On which it may come to train, by the first backward."""
        self._delivered = 0
        """Of what it trains on, when the candidate came."""
        self._latest: Deal | None = None
        """For which an epoch was open last."""
        self._trained: Deal | None = None
        """For which there was a backward last."""

    @property
    def known(self) -> bool:
        """Whether a sampler, or the user by a join, tells where epochs are."""
        return self._explicit or self._latest is not None

    def note_forward(self, samples: int) -> None:
        """A forward with gradients, on so many samples."""
        if self._place is not None and self._candidate is not None and self._turned():
            candidate = self._candidate
            self._check(candidate.deal.uneven and not self._alone)
            _finish([self])
            self._open(candidate)
        place = self._place or self._candidate
        if place is not None:
            place.active = True
            place.deal.note_forward(samples)

    def note_backward(self, samples: int) -> None:
        """Gradients are being made, of so many new samples."""
        if self._place is None and self._candidate is not None:
            self._open(self._candidate)
        elif self._place is None and self._latest is not None:
            self._open(_Place(self._latest.rest(), True))  # more than expected; until the next
        if self._place is not None:
            self._place.backward(samples)
            self._trained = self._place.deal

    def note_step(self, report: StepReport) -> None:
        """A step was made; before it is settled."""
        if self._place is not None:
            self._place.note_step(report, self._owner.adapter.samples.latest)

    def settle(self, stepped: bool = False) -> None:
        """Join if all samples have been seen: after a step, and before the user's collectives.

        After a step other models may still train on the last batch, or apply its gradients.
        """
        place = self._place
        if place is None or self._explicit or not place.through:
            return
        place.stepped = place.stepped or stepped
        others = (e for e in place.deal.epochs if e._is_open(place.deal))
        if not stepped or all(e._is_done() for e in others):
            self.finish()
            place.deal.training.ended = True

    def _is_done(self) -> bool:
        """Whether no step of the epoch that is open is expected any more."""
        place = self._place
        if place is None or not place.active:
            return True
        return place.through and (place.stepped or self._owner.optimizer is None)

    def finish(self) -> None:
        """Join, if an epoch is open. Collective in the sense of gst.join."""
        _finish([self])

    @contextlib.contextmanager
    def explicit(self) -> Iterator[None]:
        """The user says where the epoch begins and ends."""
        if self._owner.closed:  # the model is on its own again, and so may be this rank
            yield
            return
        if not self._alone:
            self._check(True)
        if self in _entered:
            raise InvalidArgument("gst.join(model) within another one of the same model")
        if self in _left:
            _join_those_left()
        self._explicit = True
        _entered.append(self)
        place = None
        try:
            yield
            if not self._owner.closed:
                self._owner.count_step_by_hand()
            place = self._place
            _left.append(self)
            if self._latest is None:
                self.number += 1
        except BaseException:
            _left.clear()
            raise
        finally:
            _entered.remove(self)
            self._explicit, self._place = False, None
        # One of several nested ones: the others' steps go on until the outermost is left.
        if not _entered:
            _join_those_left()
        if place is not None and place.through:
            place.deal.training.ended = True

    def _check(self, uneven: bool) -> None:
        if uneven and self._needs_all:
            raise Unsupported(self._needs_all)

    def _trains_on(self, deal: Deal) -> bool:
        """Whether an iteration is for training, as far as can be told."""
        if not torch.is_grad_enabled():
            return False
        model = self._model()
        if self._place is not None and self._is_midway(deal):
            return False
        return _same_sampler(self._latest, deal) or (model is not None and model.training)

    def _is_midway(self, deal: Deal) -> bool:
        """Whether the epoch that is open may go on after an iteration over another dataset."""
        place = self._place
        if place is None or self._explicit or place.through or not place.trained:
            return False
        return place.deal.target is not None and place.deal.data != deal.data

    def _turned(self) -> bool:
        """Whether the loop has come to train on the candidate: what was open came no further."""
        assert self._place is not None and self._candidate is not None
        return (
            not self._explicit
            and self._candidate.deal.delivered > 0
            and self._place.deal.delivered == self._delivered
        )

    def _begin(self, deal: Deal, trains: bool) -> None:
        new = not _same_sampler(self._latest, deal)
        place = _Place(deal, new or _same_sampler(self._trained, deal))
        if trains:
            self._open(place)
        else:  # an evaluation, unless the model is going to train on it
            self._candidate = place
            self._delivered = 0 if self._place is None else self._place.deal.delivered

    def _open(self, place: _Place) -> None:
        self._place, self._candidate, self._latest = place, None, place.deal
        self.number = place.deal.number
        place.deal.epochs.append(self)
        place.deal.training.opened = True

    def _is_open(self, deal: Deal) -> bool:
        return self._place is not None and self._place.deal is deal and not self._explicit

    def _close(self) -> list[Epoch]:
        """No epoch is open any more; returns those that have to be joined for it."""
        if self._place is None or self._explicit:
            return []
        deal = self._place.deal
        together = [e for e in deal.epochs if e._is_open(deal)]
        for epoch in together:
            epoch._owner.count_step_by_hand()
            epoch._place = None
        return together if (deal.trained or deal.target == 0) and self._joins() else []

    def _joins(self) -> bool:
        """Whether a join does anything: one worker has nobody to wait for, but its rounds."""
        return not self._alone or self._owner.replica.has_outer_optimizer


def _same_sampler(a: Deal | None, b: Deal) -> bool:
    return a is not None and a.sampler() is b.sampler()


_turns = itertools.count()
_entered: list[Epoch] = []
"""Those that are in explicit()."""
_left: list[Epoch] = []
"""Those that have left it, but have not been joined because others have not."""


def _join_those_left() -> None:
    together = [e for e in _left if not e._owner.closed]  # released within the loop
    _left.clear()
    joining = [e for e in together if e._joins()]
    if joining:
        _join(joining)


def _join(epochs: list[Epoch]) -> None:
    """In one order on all ranks: that in which the models were distributed."""
    owners = [e._owner for e in sorted(epochs, key=lambda e: e._turn)]
    epochs[0]._join(owners)


def _finish(epochs: Iterable[Epoch]) -> None:
    """Join all that are open, at once: other ranks take their steps in any order."""
    ending = [e for epoch in epochs for e in epoch._close()]
    if ending:
        _join(ending)


def begin(deal: Deal, epochs: list[Epoch]) -> None:
    """An iteration over a sampler begins; the epochs are those of all models."""
    training = [e for e in epochs if e._trains_on(deal)]
    if deal.uneven:
        for epoch in training:
            epoch._check(not epoch._alone)
    _finish(training)
    for epoch in epochs:
        epoch._begin(deal, epoch in training)
    if deal.target == 0:
        _finish(training)  # a rank that gets no samples at all
