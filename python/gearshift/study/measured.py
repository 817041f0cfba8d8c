"""Cells that are measured: real processes on network namespaces, with links as the cluster's.

Workers are more than cores, and yet each is to be as fast as the workload says. So the whole cell
runs in slow motion where it has to: computation takes `dilation` times as long as the workload
says, links carry as many times less, and every time that is measured is divided by it. After Gupta
et al., "To infinity and beyond: time-warped network emulation", NSDI 2006.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ..bench.hosts import NamespaceError
from ..errors import Error
from ..sim.extension import check_workload
from ..sim.inputs import Source, WorkloadFacts
from ..sim.validation.jobs import Job, Start, own_environment, run_commands, run_processes
from ..sim.workload import Workload
from ..sim.workload_file import from_document
from ..strategy import parse
from .cell import Cell, ClusterCase, Outcome, Study, UseCase
from .measured_outcome import Run
from .namespaces import Network, made, unmeasurable
from .pace import factors
from .work import Work

DELAY = 0.02
"""Share by which steps may take longer because real computation does; with more, a cell is run
again, more slowly."""
MOST_DELAY = 0.1
"""With more, at the end, nothing was measured."""

_MARGIN = 1.6
"""Of what real computation needs by itself: for exchanging, and for what else the cores do."""
_SLOWER = 1.5
_ATTEMPTS = 3
_PILOT = 40
"""Steps by which is found out, before the first cell of its kind, how slowly it has to run."""
_BYTES_PER_CORE = 5e8
"""Per second, between namespaces: so much of the links' traffic does a core move with ease."""
_TIMEOUT = 30.0
_TRIAL_PATIENCE = 120.0
_PATIENCE = 120.0
_FOREVER = 10.0
"""Times that a training may take as long as if all communicated one after the other."""
_MODULE = [sys.executable, "-P", "-m", "gearshift.study.train"]


def why_not(cluster: ClusterCase) -> str | None:
    """Why a cluster cannot be measured on this machine, for people; None: it can."""
    return unmeasurable(cluster.source, _cores())


def measure(study: Study, cell: Cell, task: str) -> Outcome:
    """Run a cell as a real job, once more and more slowly if its computation does not keep pace.

    Ctrl-C ends all processes, and removes what was made.

    Args:
        study: whose cell it is.
        cell: a measured one, on a cluster for which :func:`why_not` has no reason.
        task: as of ``gearshift simulate --train``, with the cell's learning rate.

    Raises:
        Error: with the last lines of a process that failed; when hosts cannot be made here, and
            when the machine was too busy to keep pace.
    """
    use_case, cluster = study.cases_of(cell)
    begin = time.monotonic()
    network = Network.of(cluster.source)
    work = _work(use_case, cluster.source, cell, task, len(network.worker_hosts))
    key = _Key(use_case.task, use_case.workload.text, cluster.source.text)
    if key not in _dilations:
        sample = replace(work, task=use_case.task, steps=min(work.steps, _PILOT), evaluate_every=0)
        _dilations[key] = _dilation(sample, network)
        if work.steps > 2 * _PILOT:
            _keeping_pace(sample, network, use_case.workload, key)
    run = _keeping_pace(work, network, use_case.workload, key)
    if run.delay_share() > MOST_DELAY:
        raise Error(
            "real computation took longer than the workload says, and made steps "
            f"{100 * run.delay_share():.0f} % longer, though all was {run.dilation:g} times "
            "as slow: is this machine busy with something else? Run the study again when it is not"
        )
    return run.outcome(time.monotonic() - begin)


def _keeping_pace(work: Work, network: Network, workload: Source, key: _Key) -> Run:
    """A run, and if its computation does not keep pace another one, more slowly."""
    for _ in range(_ATTEMPTS):
        run = _run(replace(work, dilation=_dilations[key]), network, workload)
        if run.delay_share() <= DELAY:
            break
        _dilations[key] = _rounded(_SLOWER * _dilations[key])  # and for the cells that follow
    return run


@dataclass(frozen=True)
class _Key:
    """What determines how slowly a cell has to run: the same for its strategies and seeds."""

    task: str
    workload: str
    cluster: str


_dilations: dict[_Key, float] = {}


def _work(use_case: UseCase, cluster: Source, cell: Cell, task: str, workers: int) -> Work:
    source = use_case.workload
    check_workload(source.text, source.name)
    workload = from_document(source.document(), source.stem)
    steps = use_case.steps(workers)
    return Work(
        task=task,
        parameters=[(p.name, list(p.shape), p.dtype) for p in workload.parameters],
        ready=_ready(workload),
        forward=workload.forward_seconds,
        backward=workload.backward_seconds,
        optimizer=workload.optimizer_seconds,
        batch_size=workload.batch_size,
        strategy=cell.strategy,
        workers=workers,
        steps=steps,
        seed=cell.seed,
        evaluate_every=use_case.evaluate_every(workers),
        factors=factors(cluster, source, steps, cell.seed),
    )


def _ready(workload: Workload) -> list[float]:
    """By parameter; the one whose gradient comes last is there when backward is over."""
    ready = [p.ready_seconds for p in workload.parameters]
    ready[ready.index(max(ready))] = workload.backward_seconds
    return ready


def _dilation(work: Work, network: Network) -> float:
    """How slowly all has to go, so that the cores can do what they are to do meanwhile."""
    cores = _cores()
    share = max(1.0, work.workers / cores)
    computation = work.forward + work.backward + work.optimizer
    fastest = min(fmean(of_worker) for of_worker in work.factors)
    computing = _MARGIN * share * _trial(work, min(work.workers, cores)) / computation / fastest
    carrying = sum(network.rates) / cores / _BYTES_PER_CORE
    return _rounded(max(1.0, computing, carrying))


def _rounded(dilation: float) -> float:
    return math.ceil(10 * dilation) / 10


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _trial(work: Work, processes: int) -> float:
    """Seconds that a step really takes when all cores compute."""
    with tempfile.TemporaryDirectory(prefix="gearshift-trial-") as name:
        folder = Path(name)
        path = _write(folder, work)
        starts = [
            Start(
                [*_MODULE, str(path), "--trial"],
                {**own_environment(), "GEARSHIFT_RANK": str(number)},
            )
            for number in range(processes)
        ]
        run_commands(starts, folder, _TRIAL_PATIENCE)
        found = [_read(folder / f"trial-{number}.json") for number in range(processes)]
    for one in found:
        if one["failure"] is not None:
            raise Error(one["failure"])
    return max(one["seconds"] for one in found)


def _run(work: Work, network: Network, workload: Source) -> Run:
    job = Job(
        network.worker_hosts,
        network.server_hosts,
        environment={"GEARSHIFT_TIMEOUT": f"{_TIMEOUT * work.dilation:g}"},
    )
    with tempfile.TemporaryDirectory(prefix="gearshift-measured-") as name:
        folder = Path(name)
        path = _write(folder, work)
        patience = _PATIENCE + _FOREVER * work.dilation * _longest(work, network)
        try:
            with made(network, work.dilation) as found:
                run_processes(found, job, [*_MODULE, str(path)], folder, patience)
        except NamespaceError as error:
            raise Error(str(error)) from error
        records = [_read(folder / f"{rank}.json") for rank in range(work.workers)]
    facts = WorkloadFacts.of(workload)
    return Run(records, network, facts, parse(work.strategy), work.steps, work.dilation)


def _longest(work: Work, network: Network) -> float:
    """Seconds of a training whose workers send all gradients one after the other."""
    slowest = max(sum(of_worker) for of_worker in work.factors)
    computing = (work.forward + work.backward + work.optimizer) * slowest
    count = sum(math.prod(shape) for _, shape, _ in work.parameters)
    sending = 2 * 8 * count * work.workers / min(network.rates)
    return computing + work.steps * sending


def _write(folder: Path, work: Work) -> Path:
    path = folder / "work.json"
    path.write_text(json.dumps(vars(work)), encoding="utf-8")
    return path


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
