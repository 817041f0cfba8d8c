"""One process of a paced job: ``python -m gearshift.sim.paced job.json``, started on every rank.

A paced job is a real one whose computation is sleeping for the time that the workload says: what a
simulation predicts, measured. `job.json` holds ``"out"``, a folder, and ``"trainings"``, which run
one after another in the same processes; each has the fields of :class:`Training`. For each, every
worker writes ``out/<number>-<rank>.json`` with the fields of a simulation's worker: the times of
its steps (``begin``, ``computed``, ``end``), in seconds since its ``start``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import strategy
from . import extension


@dataclass(frozen=True)
class Training:
    """One training of a paced job."""

    cluster: str
    """Text of the file. Its hosts' speeds and stragglers hold; its network is the real one."""
    workload: str
    strategy: str
    steps: int
    seed: int = 1
    optimizer: str = "sgd"
    timeline: bool = False


def write_job(path: Path, out: Path, trainings: list[Training]) -> None:
    """Write what the processes read."""
    job = {"out": str(out), "trainings": [asdict(training) for training in trainings]}
    path.write_text(json.dumps(job), encoding="utf-8")


def read_result(out: Path, number: int, rank: int) -> dict[str, Any]:
    """What a worker wrote about a training."""
    result: dict[str, Any] = json.loads(_result_file(out, number, rank).read_text("utf-8"))
    return result


def main(path: Path) -> None:
    job = json.loads(path.read_text(encoding="utf-8"))
    session = extension.load().PacedSession()
    if session.is_server:
        session.serve()
    else:
        for number, fields in enumerate(job["trainings"]):
            result = _train(session, Training(**fields))
            file = _result_file(Path(job["out"]), number, session.rank)
            file.write_text(json.dumps(result), encoding="utf-8")
    session.close()


def _train(session: Any, training: Training) -> dict[str, Any]:
    result: dict[str, Any] = session.run(
        cluster_text=training.cluster,
        workload_text=training.workload,
        strategy=strategy.to_core(strategy.parse(training.strategy), training.steps),
        optimizer=training.optimizer,
        steps=training.steps,
        seed=training.seed,
        timeline=training.timeline,
    )
    return result


def _result_file(out: Path, number: int, rank: int) -> Path:
    return out / f"{number}-{rank}.json"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
