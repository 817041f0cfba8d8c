"""The real side: a cell's trainings on network namespaces."""

from __future__ import annotations

from collections.abc import Sequence

from ...bench.hosts import Hosts, hosts
from ..paced import Training
from .cases import STEPS, WARMUP, Cell, workload
from .figures import spread, step_seconds
from .jobs import Job, run_job
from .model import MTU, PORT_QUEUE_SECONDS, Parameters, cluster

CONGESTION_CONTROL = "cubic"
OWN_QUEUE_SECONDS = 2.0
"""So long that a host never loses what it sends itself: a real one is held back, not cut off."""
UNSTEADY = 0.03
"""Spread above which a training is measured once more."""
_PATIENCE = 30.0
_PATIENCE_PER_TRAINING = 60.0


def measure(cell: Cell) -> dict[str, dict[str, float]]:
    """Step time and its spread, by strategy.

    What is unsteady is measured twice; the steadier counts.

    Raises:
        NamespaceError: when hosts cannot be made here.
        Error: when the job fails.
    """
    with hosts(len(cell.rates), sites=cell.sites) as made:
        made.set_mtu(MTU)
        made.set_congestion_control(CONGESTION_CONTROL)
        made.keep_windows()
        for host, mbit in enumerate(cell.rates):
            made.shape_host(host, mbit, OWN_QUEUE_SECONDS, PORT_QUEUE_SECONDS)
        if cell.uplink:
            made.shape_uplinks(cell.uplink, PORT_QUEUE_SECONDS)
        found = _run(made, cell, cell.strategies)
        unsteady = [name for name, figures in found.items() if figures["spread"] > UNSTEADY]
        for name, figures in _run(made, cell, unsteady).items() if unsteady else ():
            found[name] = min(found[name], figures, key=lambda f: f["spread"])
    return found


def _run(made: Hosts, cell: Cell, strategies: Sequence[str]) -> dict[str, dict[str, float]]:
    model = cluster(cell, Parameters())
    trainings = [
        Training(model.text, workload(cell.workload).text, strategy, STEPS)
        for strategy in strategies
    ]
    job = Job(cell.worker_hosts, cell.server_hosts, trainings)
    patience = _PATIENCE + _PATIENCE_PER_TRAINING * len(trainings)
    results = run_job(made, job, patience)
    return {
        strategy: {"seconds": step_seconds(result, WARMUP), "spread": spread(result, WARMUP)}
        for strategy, result in zip(strategies, results, strict=True)
    }
