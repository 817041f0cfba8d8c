"""The end of an epoch, for all models that a loop trains."""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._distributed import Distributed


def join(models: list[Distributed]) -> None:
    """Collective: this rank has no more batches in this epoch, for any of the models.

    Each takes part in the others' rounds in a thread of its own until all ranks are through: those
    that go on make the rounds of several models in an order that is theirs.
    """
    for model in models:
        model.before_join()
    reports: dict[int, tuple[int, bool] | BaseException] = {}

    def take_part(index: int) -> None:
        try:
            model = models[index]
            reports[index] = model.replica.join(model.adapter.keep_gradients)
        except BaseException as error:
            reports[index] = error

    rest = range(1, len(models))
    threads = [Thread(target=take_part, args=(i,), daemon=True) for i in rest]
    for thread in threads:
        thread.start()
    take_part(0)
    for thread in threads:
        thread.join()
    # What follows uses collectives that the models share, so in one order on all ranks.
    for index, model in enumerate(models):
        report = reports[index]
        if isinstance(report, BaseException):
            raise report
        model.after_join(*report)
