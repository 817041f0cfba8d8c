"""The end of an epoch, for all models that a loop trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

from .. import _session
from ._meeting import follow

if TYPE_CHECKING:
    from ._distributed import Distributed


class _Beside(Thread):
    """A call in a thread of its own; what it raises is kept."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Here or in the thread."""
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error


def join(models: list[Distributed]) -> None:
    """Collective: this rank has no more batches in this epoch, for any of the models.

    Each takes part in the others' rounds in a thread of its own until all ranks are through: those
    that go on make the rounds of several models in an order that is theirs. So this rank follows
    what their losses and layers exchange.
    """
    for model in models:
        model.before_join()
    parts = [_Beside(partial(m.replica.join, m.adapter.keep_gradients)) for m in models]
    following = [_Beside(follow)] if _session.world_size() > 1 else []
    for part in parts[1:] + following:
        part.start()
    parts[0].run()
    for part in parts[1:]:
        part.join()
    if all(part.error is None for part in parts):  # else the others may never end
        for part in following:
            part.join()
    # What follows uses collectives that the models share, so in one order on all ranks.
    for part in parts + following:
        if part.error is not None:
            raise part.error
    for model, part in zip(models, parts, strict=True):
        model.after_join(*part.result)
