"""What a simulation's process and the one that started it say to each other."""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from ..errors import InvalidArgument
from ..strategy import Strategy
from .given import flag, number, whole

_LENGTH = struct.Struct("<Q")
_TIMEOUT = 365 * 24 * 3600.0
"""Virtual seconds without progress after which a simulation gives up."""


@dataclass(frozen=True)
class AfterFailure:
    """What happens when a host of the cluster fails."""

    detection: float = 30.0
    """Virtual seconds after which it is missed, and the job ends: a real job's timeout."""
    checkpoint_every: int = 0
    """Steps between the checkpoints from which training goes on when it is back; 0: none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detection", number("detection", self.detection))
        every = whole("checkpoint_every", self.checkpoint_every)
        object.__setattr__(self, "checkpoint_every", every)
        if not 0 <= self.detection < _TIMEOUT:
            raise InvalidArgument(
                f"detection={self.detection:g}: must be seconds, not negative and below a year"
            )
        if self.checkpoint_every < 0:
            raise InvalidArgument(f"checkpoint_every={self.checkpoint_every}: must not be negative")


SHARINGS = ("auto", "max_min", "per_link", "none")
STEADY_TOLERANCE = 0.01


@dataclass(frozen=True)
class Fidelity:
    """Where a simulation may spare itself work; docs/simulating.md says what that costs."""

    sharing: str = "auto"
    """How messages that cross a link at the same time share it: one of :data:`SHARINGS`."""
    every_step: bool = False
    """Simulate all steps."""
    steady_tolerance: float = STEADY_TOLERANCE
    """Share to within which the mean step time is to be known (95 %) before steps are estimated;
    0: only what repeats exactly is left out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "every_step", flag("every_step", self.every_step))
        tolerance = number("steady_tolerance", self.steady_tolerance)
        object.__setattr__(self, "steady_tolerance", tolerance)
        if not 0 <= self.steady_tolerance < 1:
            raise InvalidArgument(
                f"steady_tolerance={tolerance:g}: must be a share, at least 0 and below 1"
            )
        if self.sharing not in SHARINGS:
            raise InvalidArgument(f"sharing={self.sharing!r}: must be one of {', '.join(SHARINGS)}")


@dataclass(frozen=True)
class Request:
    """One simulation; files are texts by now."""

    cluster_text: str
    cluster_name: str
    """Stands for the file in errors."""
    workload_text: str
    workload_name: str
    strategy: Strategy
    optimizer: str = "sgd"
    steps: int = 20
    seed: int = 1
    timeline: bool = False
    timeout: float = _TIMEOUT
    train: str | None = None
    """The task to learn; None: values do not matter."""
    evaluate_every: int = 100
    """Steps of worker 0 between points of the learning curve."""
    after_failure: AfterFailure = field(default_factory=AfterFailure)
    fidelity: Fidelity = field(default_factory=Fidelity)


def encode(message: Any) -> bytes:
    """A message with its length.

    Raises:
        InvalidArgument: when it cannot be sent to another process: a policy that is a lambda.
    """
    try:
        data = pickle.dumps(message)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InvalidArgument(
            f"a simulation runs in a process of its own, and this cannot be sent there: {error}; "
            "a policy must be a function at the top of a module that can be imported"
        ) from error
    return _LENGTH.pack(len(data)) + data


def read(stream: BinaryIO) -> Any:
    """The next message.

    Raises:
        EOFError: when the other side has gone.
    """
    return pickle.loads(_exactly(stream, _LENGTH.unpack(_exactly(stream, _LENGTH.size))[0]))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data
