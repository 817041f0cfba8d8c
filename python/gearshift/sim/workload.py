"""What one worker does in one step: the workload of a simulation, and its file.

The file is TOML (docs/profiling.md describes it), or JSON of the same structure when its name ends
in ``.json``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import InvalidArgument
from . import given
from .given import plain

Kind = Literal["constant", "normal", "log-normal", "empirical"]
KINDS: tuple[str, ...] = get_args(Kind)

DTYPES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
}
"""Bytes of an element, by the name of its type: of those that can be trained."""

MOST_SAMPLES = 2**31 - 1
"""Of a batch, as the simulator's own reader has it."""
_LONGEST = 1e9
"""Seconds; likewise."""


@dataclass(frozen=True)
class Variability:
    """By what factor a worker's computation takes longer or shorter in one step; mean 1."""

    kind: Kind = "constant"
    spread: float = 0.0
    """Standard deviation: of the factor (normal), or of its logarithm (log-normal)."""
    factors: tuple[float, ...] = ()
    """Empirical: one of these, divided by their mean."""

    def __post_init__(self) -> None:
        _make_plain(self)

    def relative_spread(self) -> float:
        """Standard deviation of the factor, in proportion to its mean."""
        if self.kind == "log-normal":
            return math.sqrt(math.expm1(self.spread**2))
        if self.kind != "empirical":
            return self.spread
        mean = sum(self.factors) / len(self.factors)
        return math.sqrt(sum((f / mean - 1) ** 2 for f in self.factors) / len(self.factors))


@dataclass(frozen=True)
class WorkloadParameter:
    """A trainable parameter and when, after backward began, its gradient is final."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    ready_seconds: float = 0.0

    def __post_init__(self) -> None:
        _make_plain(self)

    @property
    def elements(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of it, and of its gradient."""
        return self.elements * DTYPES[self.dtype]


@dataclass(frozen=True)
class Workload:
    """One step of one worker, on a host of speed 1. Times in seconds."""

    name: str
    batch_size: int
    """Samples per worker and step."""
    forward_seconds: float
    backward_seconds: float
    """Until the last gradient; not less than any `ready_seconds`."""
    optimizer_seconds: float
    """The worker's own update of the whole model."""
    parameters: tuple[WorkloadParameter, ...]
    """In the model's order."""
    variability: Variability = field(default_factory=Variability)
    """Of forward and backward together."""

    def __post_init__(self) -> None:
        _make_plain(self)

    @property
    def elements(self) -> int:
        """Numbers in all parameters."""
        return sum(p.elements for p in self.parameters)

    @property
    def compute_seconds(self) -> float:
        """Forward and backward."""
        return self.forward_seconds + self.backward_seconds

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(p.nbytes for p in self.parameters)

    def validate(self) -> None:
        """Check that this can be simulated.

        Raises:
            InvalidArgument: "key: what is wrong with it", for the first thing that is.
        """
        _check_text("name", self.name)
        _check_whole("batch_size", self.batch_size)
        if self.batch_size < 1:
            raise InvalidArgument(f"batch_size: must be positive, this is {self.batch_size}")
        if self.batch_size > MOST_SAMPLES:
            raise InvalidArgument(f"batch_size: must be at most {MOST_SAMPLES:,}")
        _check_time("forward", self.forward_seconds, positive=True)
        _check_time("backward", self.backward_seconds, positive=True)
        _check_time("optimizer", self.optimizer_seconds)
        _check_variability(self.variability)
        _check_parameters(self.parameters, self.backward_seconds)

    @classmethod
    def load(cls, path: str | Path) -> Workload:
        """Read a file.

        Raises:
            InvalidArgument: "file: key: what is wrong".
            Error: when the file cannot be read.
        """
        from .workload_file import load

        return load(Path(path))

    def save(self, path: str | Path, comment: str = "") -> None:
        """Write a file that :meth:`load` and the simulator read; times get six digits.

        Args:
            path: ends in ``.json`` for JSON; otherwise it gets TOML. Its folder is made.
            comment: for the head of a TOML file.

        Raises:
            InvalidArgument: when :meth:`validate` does.
            Error: when the file cannot be written.
        """
        from .workload_file import save

        save(self, Path(path), comment)


def _make_plain(value: Any) -> None:
    """Fields that numpy made get Python's values; arrays are tuples."""
    for one in fields(value):
        before = getattr(value, one.name)
        after = plain(before, one.name)
        if isinstance(after, list):
            after = tuple(after)
        object.__setattr__(value, one.name, after)


def _check_text(key: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidArgument(f"{key}: must be text, {value!r} is none")


def _check_whole(key: str, value: object) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InvalidArgument(f"{key}: must be a whole number, {value!r} is none")


def _check_number(key: str, value: float, *, positive: bool = False) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InvalidArgument(f"{key}: must be a number, {value!r} is none")
    if not math.isfinite(given.number(key, value)):
        raise InvalidArgument(f"{key}: must be finite, this is {value!r:.40}")
    if value < 0 or (positive and value == 0):
        rule = "be positive" if positive else "not be negative"
        raise InvalidArgument(f"{key}: must {rule}, this is {value:.6g}")


def _check_time(key: str, value: float, *, positive: bool = False) -> None:
    _check_number(key, value, positive=positive)
    if value > _LONGEST:
        raise InvalidArgument(f"{key}: must be at most {_LONGEST:.0e} s, this is {value:.6g} s")


def _check_variability(variability: Variability) -> None:
    if variability.kind not in KINDS:
        raise InvalidArgument(
            f'variability.kind: "{variability.kind}" is none of {", ".join(KINDS)}'
        )
    _check_number("variability.spread", variability.spread)
    if not isinstance(variability.factors, tuple):
        raise InvalidArgument(
            f"variability.factors: must be a tuple, {variability.factors!r} is none"
        )
    if variability.kind == "empirical" and not variability.factors:
        raise InvalidArgument('variability.factors: "empirical" needs at least one factor')
    for i, factor in enumerate(variability.factors):
        _check_number(f"variability.factors[{i}]", factor, positive=True)


def _check_parameters(parameters: Iterable[WorkloadParameter], backward: float) -> None:
    names: set[str] = set()
    for i, p in enumerate(parameters):
        key = f"parameters[{i}]"
        _check_text(f"{key}.name", p.name)
        if not p.name:
            raise InvalidArgument(f"{key}.name: must not be empty")
        if p.name in names:
            raise InvalidArgument(f'{key}.name: "{p.name}" is the name of another one already')
        names.add(p.name)
        if not isinstance(p.shape, tuple):
            raise InvalidArgument(f"{key}.shape: must be a tuple, {p.shape!r} is none")
        for d, size in enumerate(p.shape):
            _check_whole(f"{key}.shape[{d}]", size)
            if size < 1:
                raise InvalidArgument(f"{key}.shape[{d}]: must be positive, this is {size}")
        if p.dtype not in DTYPES:
            raise InvalidArgument(f'{key}.dtype: "{p.dtype}" is none of {", ".join(DTYPES)}')
        _check_number(f"{key}.ready", p.ready_seconds)
        if p.ready_seconds > backward:
            raise InvalidArgument(
                f"{key}.ready: the gradient is ready at {p.ready_seconds:.6g} s, after backward, "
                f"which takes {backward:.6g} s"
            )
    if not names:
        raise InvalidArgument("parameters: a workload needs at least one parameter")
