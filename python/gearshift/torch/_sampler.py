"""Which samples of a dataset this worker trains on."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from .. import _session
from ..errors import InvalidArgument, Unsupported
from ._deal import Deal, Reader, Training
from ._epoch import begin
from ._position import Position, load, share
from ._registry import everything

_log = logging.getLogger("gearshift")


class DistributedSampler(Sampler[int]):
    """Deals the samples of a dataset out to the workers, each sample to exactly one of them.

    Worker r of N gets the samples r, r + N, r + 2N … of the order, so that N workers with batches
    of b see together what one process with batches of N·b would see. Sizes may differ by one:
    nothing is repeated to make them equal, and the epoch's end is handled by itself (see
    :func:`gearshift.torch.join`). The order with `shuffle` is
    ``torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed + epoch))``, where
    the epoch is that of :meth:`set_epoch`, or else how many epochs models have trained on before.

    Args:
        dataset: anything with a length.
        shuffle: a new order in each epoch; otherwise the dataset's own.
        seed: of the order; equal on all ranks.
        drop_last: leave out the last ``len(dataset) % N`` samples, so that all get equally many.
    """

    def __init__(
        self, dataset: Sized, shuffle: bool = True, seed: int = 0, drop_last: bool = False
    ) -> None:
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0
        self._epoch_set = False
        self._epochs = 0
        self._resumed: Position | None = None
        self._told = False
        """That a state is not gone on with."""
        self._warned = False
        """Of batches in another order, or of other sizes."""
        self._latest: _Iteration | None = None
        self._before: _Iteration | None = None
        """The one that training is in, as long as none does on the latest."""
        self._rank = _session.rank()
        self._size = _session.world_size()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes: it decides the order, and is what metrics count in."""
        self.epoch = epoch
        self._epoch_set = True

    def state_dict(self, trained: int | Sequence[int] | None = None) -> dict[str, Any]:
        """How far training has come in the epoch, for a checkpoint. Any rank, alone.

        What counts are samples on which the optimizer has made its step, not those that a loader
        has fetched, nor micro-batches that wait for theirs. So it fits the parameters and the
        optimizer's state that this rank has at that moment; save all of them together, on one rank.

        Where ranks go their own ways (servers that do not wait for all, local SGD between rounds),
        others' samples count as far as this rank's parameters have seen them for sure: some may be
        dealt again, and none is lost. When the epoch's loop has ended, it is the beginning of the
        next epoch.

        Args:
            trained: how many of this epoch's samples, of those that it was dealt since training
                began or was resumed, this rank has trained on (and every other one, if it was dealt
                as many), or a list of how many each has. For loops that cannot be followed: those
                that skip batches or fetch them ahead, two samplers that are iterated together,
                batches whose size differs between ranks, models that were not distributed.

        Raises:
            InvalidArgument: when `trained` is no number of samples that were dealt.
            Unsupported: within an epoch, of a DataLoader with ``in_order=False``.
        """
        for distributed in everything():
            distributed.count_step_by_hand()
        return self._position(trained).state(self._order())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a state was saved: the next iteration is over the rest of its epoch.

        Each of the samples that were left is dealt once, in the same order. Where the number of
        workers is the same, and they were in step, each gets those that it would have got. Call it
        on all ranks, with the same state. Collective.

        Raises:
            InvalidArgument: for a state of another order: of another dataset's size, or seed.
            MismatchError: when ranks load different states.
        """
        _session.settled()
        self._resumed = load(state_dict, self._order())
        self.epoch = self._epochs = self._resumed.epoch
        self._latest = self._before = None
        self._told = False

    def __len__(self) -> int:
        """Samples of this worker in a whole epoch, also where one is resumed."""
        return self._dealt(len(self.dataset), self._rank)

    def __iter__(self) -> Iterator[int]:
        """Indices into the dataset. Marks the beginning of an epoch for models that train."""
        start = self._next()
        reader = Reader(self, sys._getframe(1))
        left = start.left(len(self.dataset))
        targets = [reader.deliverable(self._dealt(left, rank)) for rank in range(self._size)]
        indices = iter(self._indices(start, left))
        target = targets[self._rank]
        deal = Deal(self, start.epoch, target, reader, indices, self._is_uneven(reader, left))
        self._before = self._current()
        self._latest = _Iteration(start, left, targets, deal.training)
        deal.training.begun = target == 0  # others may train meanwhile
        begin(deal, [distributed.epoch for distributed in everything()])
        return indices

    def _next(self) -> Position:
        """Where an iteration begins.

        Who looks at the data without training on them gets the same again. So the order is the same
        on all ranks, although only some may have looked.
        """
        start = self._coming()
        if self._latest is not None and self._latest.training.begun:
            self._resumed = None
        self._epochs = start.epoch
        resumed = self._resumed
        if resumed is not None and resumed.epoch != start.epoch and resumed.trained:
            self._tell(resumed)
        return start

    def _coming(self) -> Position:
        """Where an iteration would begin."""
        begun = self._latest is not None and self._latest.training.begun
        number = self.epoch if self._epoch_set else self._epochs + begun
        resumed = self._resumed
        if resumed is None or begun or resumed.epoch != number:
            return Position(number)
        return resumed

    def _tell(self, resumed: Position) -> None:
        left = resumed.left(len(self.dataset))
        if not self._told and left > 0 and self._rank == 0:
            _log.warning(
                "the sampler's state is from within epoch %d, of which %d samples are left: they "
                "are not dealt, for set_epoch() has named another epoch",
                resumed.epoch,
                left,
            )
        self._told = True

    def _current(self) -> _Iteration | None:
        """The iteration that training is in."""
        latest = self._latest
        return latest if latest is not None and latest.training.opened else self._before

    def _position(self, trained: int | Sequence[int] | None) -> Position:
        """Where training is."""
        current = self._current() if trained is None else self._latest
        if current is None or (self._epoch_set and self.epoch != current.start.epoch):
            return self._coming()
        if trained is None:
            position = current.position(self._rank)
            if position.trained != current.start.trained and position.left(len(self.dataset)) > 0:
                self._check(current.training)
            return position
        counts = [trained] * self._size if isinstance(trained, int) else list(trained)
        if isinstance(trained, int):
            counts = list(map(min, counts, current.targets))
            counts[self._rank] = trained
        if len(counts) != self._size or any(
            not 0 <= n <= target for n, target in zip(counts, current.targets, strict=True)
        ):
            raise InvalidArgument(
                f"state_dict(trained={trained!r}): {self._size} workers were dealt "
                f"{current.targets} samples"
            )
        return current.at(counts)

    def _check(self, training: Training) -> None:
        """Say where those that were trained on may be others than the state has."""
        reader = training.reader
        if not training.alike and not self._warned:
            self._warned = True
            _log.warning(
                "batches of the ranks differ in size, and the sampler's state takes all to have "
                "been trained on as many samples as this one: say state_dict(trained=[…]), with "
                "the number of each rank, or a job that resumes misses samples or sees them twice"
            )
        if reader is not None and not reader.in_order:
            raise Unsupported(
                "a DataLoader with in_order=False gives batches as its workers have them ready: "
                "nobody knows which samples of the epoch are left; say in_order=True"
            )
        if reader is not None and reader.batch_sampler and not self._warned:
            self._warned = True
            _log.warning(
                "the sampler's state takes the first samples that it dealt for those that were "
                "trained on; a %s that makes batches in another order (by length, say) lets a job "
                "that resumes within the epoch miss some, and see some twice",
                reader.batch_sampler,
            )

    def _order(self) -> dict[str, Any]:
        """What decides the order of an epoch."""
        order = {"samples": len(self.dataset), "shuffle": self.shuffle}
        return order | {"seed": self.seed} if self.shuffle else order

    def _is_uneven(self, reader: Reader, left: int) -> bool:
        """Whether some ranks get more batches than others."""
        if self.drop_last:
            return False
        most, least = (self._dealt(left, rank) for rank in (0, self._size - 1))
        return reader.batches_of(most) != reader.batches_of(least) or (least == 0 and most > 0)

    def _dealt(self, samples: int, rank: int) -> int:
        """How many of so many a rank is dealt."""
        return samples // self._size if self.drop_last else share(samples, rank, self._size)

    def _indices(self, start: Position, left: int) -> Sequence[int]:
        """Of this worker's samples, in order."""
        mine = slice(self._rank, None, self._size)
        order: Tensor | range = range(len(self.dataset))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + start.epoch)
            order = torch.randperm(len(self.dataset), generator=generator, device="cpu")
        own = start.rest(order)[mine][: self._dealt(left, self._rank)]
        if isinstance(own, range):
            return own
        indices: list[int] = own.tolist()  # not of all: 35 bytes for each
        return indices


@dataclasses.dataclass
class _Iteration:
    """Over the samples that were dealt."""

    start: Position
    left: int
    """Samples from there on."""
    targets: list[int]
    """Samples that each rank gets."""
    training: Training

    def position(self, rank: int) -> Position:
        """Where training is."""
        training = self.training
        counts = [min(training.of_others, target) for target in self.targets]
        counts[rank] = min(training.own, self.targets[rank])
        if training.ended:
            counts = self.targets
        if training.is_over and (training.all_given or counts == self.targets):
            return Position(self.start.epoch + 1)
        return self.at(counts)

    def at(self, counts: list[int]) -> Position:
        """Where training is when each rank has trained on so many samples."""
        if counts == self.targets:  # what loaders, or drop_last, leave out is over, too
            counts = [share(self.left, rank, len(counts)) for rank in range(len(counts))]
        return self.start.after(counts)
