"""Cells that are simulated: real gradients, applied as a virtual clock has them arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import Error
from ..sim.extension import describe_cluster
from ..sim.inputs import WorkloadFacts
from ..sim.messages import Fidelity, Request
from ..sim.processes import OnStep, Pool
from ..sim.result import Result, make_result
from ..sim.simulation import make_request
from ..strategy import parse
from .cell import WARMUP, Cell, ClusterCase, Outcome, Point, Study, decision, gradients_by
from .rates import task_file

OnOutcome = Callable[[int, Outcome | Error], None]


def simulate_cells(
    study: Study,
    cells: Sequence[Cell],
    tasks: Path,
    pool: Pool,
    on_done: OnOutcome,
    on_steps: OnStep | None = None,
) -> None:
    """Simulate cells, several at once.

    Args:
        study: whose cells they are.
        cells: some of them.
        tasks: folder for the tasks with other learning rates.
        pool: where they run.
        on_done: gets the number of the cell, and its outcome or what it failed with.
        on_steps: gets how many more steps a worker 0 has done; called in other threads.
    """
    requests = [request(study, cell, tasks) for cell in cells]

    def done(number: int, raw: dict[str, Any] | Error) -> None:
        found: Outcome | Error
        try:
            if isinstance(raw, Error):
                raise raw
            found = outcome_of(study, cells[number], raw, requests[number])
        except Error as error:
            found = error
        on_done(number, found)

    pool.run_all(requests, done, on_steps)


def request(study: Study, cell: Cell, tasks: Path) -> Request:
    """What a cell asks the simulator for."""
    case, cluster = study.cases_of(cell)
    workers = workers_of(cluster)
    return make_request(
        cluster.source,
        case.workload,
        parse(cell.strategy),
        case.steps(workers),
        cell.seed,
        train=task_file(tasks, case.task, cell.rate, case.name),
        evaluate_every=case.evaluate_every(workers),
        fidelity=Fidelity(every_step=True),
    )


def workers_of(cluster: ClusterCase) -> int:
    """How many train there."""
    return int(describe_cluster(cluster.source.text, cluster.source.name)["workers"])


def outcome_of(study: Study, cell: Cell, raw: dict[str, Any], asked: Request) -> Outcome:
    """What a simulation's answer says.

    Raises:
        Error: when no step was completed after the warm-up, or a host that failed ended it.
    """
    case, cluster = study.cases_of(cell)
    warmup = min(WARMUP, asked.steps - 1)
    names = cluster.title, case.title
    result = make_result(raw, asked, names, WorkloadFacts.of(case.workload), warmup)
    if result.failure is not None:
        raise Error(result.failure)
    return Outcome(
        workers=result.workers,
        servers=result.servers,
        batch_size=result.batch_size,
        steps=result.steps,
        step_mean=result.step_seconds.mean,
        step_p50=result.step_seconds.p50,
        step_p95=result.step_seconds.p95,
        samples_per_second=result.throughput,
        efficiency=result.efficiency,
        exposed_share=result.exposed_share,
        mean_staleness=result.mean_staleness,
        max_staleness=max(result.staleness, default=None),
        bytes_sent=result.bytes_sent,
        seconds=result.virtual_seconds,
        curve=_curve(result),
        switches=tuple(decision(switch) for switch in result.switches),
        idle_switch=result.idle_switch,
        diverged=_divergence(result),
        cost=result.wall_seconds,
    )


def _curve(result: Result) -> tuple[Point, ...]:
    """The points that have a metric, with the samples of which all workers had gradients."""
    return tuple(
        Point(
            point.seconds,
            point.step,
            result.batch_size * gradients_by(result.raw["workers"], point.seconds),
            point.loss,
            point.metric,
        )
        for point in result.curve
        if point.metric is not None
    )


def _divergence(result: Result) -> str | None:
    return None if result.diverged is None else f"{result.diverged}: {result.diverged.reason}"
