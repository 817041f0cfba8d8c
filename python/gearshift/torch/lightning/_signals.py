"""What a rank does about SIGTERM: by itself, since gearshift tells the others of its end."""

from __future__ import annotations

from typing import Any


def leave_ranks_alone(trainer: Any) -> None:
    """Have no rank wait for another one with each batch.

    From 2.6 on Lightning broadcasts from rank 0, before each batch and within the signal's handler,
    whether it got SIGTERM. Ranks go their own ways here, and have different numbers of batches. Who
    gets SIGTERM ends after its batch, as before 2.6, and the others learn why.
    """
    loop = trainer.fit_loop.epoch_loop
    if hasattr(loop, "_broadcast_sigterm_tensor"):
        loop._broadcast_sigterm_tensor = _nothing
    connector = trainer._signal_connector

    def note(number: int, _frame: Any) -> None:
        launcher = trainer.strategy.launcher
        if launcher is not None and not connector.received_sigterm:
            launcher.kill(number)
        connector.received_sigterm = True

    connector._sigterm_notifier_fn = note  # before it is registered


def _nothing() -> None:
    """In place of what is not needed."""
