"""The real side: a cell's trainings on network namespaces."""

from __future__ import annotations

from typing import Any

from ...bench.hosts import hosts
from ..paced import Training
from .cases import STEPS, WARMUP, Cell, workload
from .figures import spread, step_seconds
from .jobs import Job, run_job
from .model import MTU, Parameters, cluster

CONGESTION_CONTROL = "cubic"
_PATIENCE = 30.0
_PATIENCE_PER_TRAINING = 60.0


def measure(cell: Cell) -> dict[str, dict[str, float]]:
    """Step time and its spread, by strategy.

    Raises:
        NamespaceError: when hosts cannot be made here.
        Error: when the job fails.
    """
    model = cluster(cell, Parameters())
    trainings = [
        Training(model.text, workload(cell.workload).text, strategy, STEPS)
        for strategy in cell.strategies
    ]
    with hosts(len(cell.rates), prefix=None) as made:
        made.set_mtu(MTU)
        made.set_congestion_control(CONGESTION_CONTROL)
        for host, mbit in enumerate(cell.rates):
            made.shape_host(host, mbit)
        job = Job(cell.worker_hosts, cell.server_hosts, trainings)
        patience = _PATIENCE + _PATIENCE_PER_TRAINING * len(trainings)
        results: list[list[dict[str, Any]]] = run_job(made, job, patience)
    return {
        strategy: {"seconds": step_seconds(result, WARMUP), "spread": spread(result, WARMUP)}
        for strategy, result in zip(cell.strategies, results, strict=True)
    }
