"""What the processes of a measured cell are told."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Work:
    """What the workers of a job do. Times are the workload's, in seconds, for a host of speed 1."""

    task: str
    parameters: list[tuple[str, list[int], str]]
    """Of the workload: name, shape, type."""
    ready: list[float]
    """Since backward began, by parameter; of the last one the time of backward."""
    forward: float
    backward: float
    optimizer: float
    batch_size: int
    strategy: str
    workers: int
    steps: int
    seed: int
    evaluate_every: int
    """Steps between points of the learning curve; 0: it has none."""
    factors: list[list[float]] = field(default_factory=list)
    """By worker and step: how many times as long computation takes."""
    dilation: float = 1.0
    """How many times as long everything takes."""
