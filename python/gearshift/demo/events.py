"""How the training processes tell the demo about their progress: marked lines on stdout."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

ENVIRONMENT = "GEARSHIFT_DEMO_EVENTS"
"""Set to "1" by the demo; without it, the training script prints lines for people."""

_MARK = "@gearshift-demo "


@dataclass(frozen=True)
class Progress:
    """The state of a run after a logged step or an epoch."""

    strategy: str
    """The strategy in force."""
    epoch: int
    """From 1."""
    epochs: int
    step: int
    """Optimizer steps of rank 0 so far."""
    loss: float
    samples_per_second: float
    seconds: float
    """Since the beginning of the training, evaluation included."""
    test_accuracy: float | None = None
    """At the end of an epoch."""

    def text(self) -> str:
        """A line for people."""
        head = (
            f"epoch {self.epoch}/{self.epochs}  step {self.step}  loss {self.loss:.4f}  "
            f"{self.samples_per_second:,.0f} samples/s  {self.strategy}  {self.seconds:.1f} s"
        )
        if self.test_accuracy is None:
            return head
        return f"{head}  test accuracy {100 * self.test_accuracy:.2f} %"

    def encode(self) -> str:
        """A line for :func:`decode`."""
        return _MARK + json.dumps(asdict(self))


def decode(line: bytes) -> Progress | None:
    """The event in a line of output; None when it is an ordinary line."""
    mark = _MARK.encode()
    if not line.startswith(mark):
        return None
    try:
        return Progress(**json.loads(line[len(mark) :]))
    except (ValueError, TypeError):
        return None
