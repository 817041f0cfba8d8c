"""A sweep: every strategy in every combination of values, the winners, and where they change."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ..errors import Error, InvalidArgument, Unsupported
from ..report.files import write_json
from . import scaling
from .axes import STRATEGY, Axis
from .batch import Batch, Job
from .crossovers import Crossover, crossovers
from .extension import check_workload, describe_cluster
from .inputs import Source
from .recommend import Accuracy
from .result import Result
from .winners import Cell, Grid

TABLE = "sweep.parquet"
TABLE_AS_TEXT = "sweep.csv"
MAP = "heatmap.png"
CROSSOVERS = "crossovers.json"

_FIGURES: dict[str, type] = {
    "workers_total": int,
    "servers_total": int,
    **dict.fromkeys(
        ("throughput", "step_mean", "step_p50", "step_p95", "efficiency", "exposed_share"), float
    ),
    "waiting_slower_workers": float,
    "waiting_communication": float,
    "mean_staleness": float,
    "busiest_link": float,
    "bytes_sent": int,
    "messages": int,
    "virtual_seconds": float,
    "wall_seconds": float,
    "simulated_steps": int,
    "estimated": bool,
    "half_width": float,
    "synchronous": bool,
    "asynchronous": bool,
    "local": bool,
    "unsettled": bool,
    "error": str,
}
"""Columns of the table, after those of the axes; None where a simulation failed."""


@dataclass
class Sweep:
    """What a sweep found."""

    grid: Grid
    strategies: Sequence[str]
    rows: list[dict[str, Any]]
    """One per cell and strategy: the axes' values (bytes per second, seconds), and figures."""
    crossovers: list[Crossover]
    too_few: Sequence[str] = ()
    """What is said of those with too few steps."""

    def margins(self) -> list[float]:
        """Those of error, as shares, of the cells in which several may be the fastest."""
        found = map(self.grid.leaders, self.grid.cells())
        return [leaders.margin for leaders in found if leaders and len(leaders.strategies) > 1]

    def save(self, folder: Path) -> dict[str, Path]:
        """Write the table, as Parquet and as CSV, the map, and the crossovers.

        Returns:
            the files; without "map" where no axis has numbers.
        """
        from .frames import write_parquet
        from .heatmap import draw

        folder.mkdir(parents=True, exist_ok=True)
        write_parquet(self.rows, self.columns(), folder / TABLE)
        with (folder / TABLE_AS_TEXT).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        write_json(folder / CROSSOVERS, [self._crossover(c) for c in self.crossovers])
        files = {"table": folder / TABLE, "csv": folder / TABLE_AS_TEXT}
        files["crossovers"] = folder / CROSSOVERS
        drawn = draw(self.grid, self.crossovers, folder / MAP)
        if drawn is None:
            (folder / MAP).unlink(missing_ok=True)  # that of another sweep
        return files if drawn is None else files | {"map": drawn}

    def columns(self) -> dict[str, type]:
        """The columns of the table, and what they hold."""
        axes = {axis.name: axis.kind for axis in self.grid.axes}
        return {**axes, STRATEGY: str, **_FIGURES, "winner": bool, "level": bool}

    def describe(self) -> list[str]:
        """The crossovers as sentences."""
        return [self._sentence(crossover) for crossover in self.crossovers]

    def _crossover(self, crossover: Crossover) -> dict[str, Any]:
        number = self._number(crossover)
        axis = self.grid.axes[number]
        after = crossover.cell[number] + 1
        others = self.grid.point(crossover.cell)
        del others[crossover.axis]
        return {
            "axis": crossover.axis,
            "value": crossover.value,
            "low": axis.values[crossover.cell[number]],
            "high": axis.values[after],
            "below": crossover.between[0],
            "above": crossover.between[1],
            "at": others,
        }

    def _sentence(self, crossover: Crossover) -> str:
        number = self._number(crossover)
        where = ", ".join(
            f"{axis.name}={axis.show(axis.values[i])}"
            for n, (axis, i) in enumerate(zip(self.grid.axes, crossover.cell, strict=True))
            if n != number
        )
        value = self.grid.axes[number].show(crossover.value)
        return (
            f"{crossover.between[0]} below, {crossover.between[1]} above {crossover.axis}={value}"
            + (f" ({where})" if where else "")
        )

    def _number(self, crossover: Crossover) -> int:
        return next(i for i, axis in enumerate(self.grid.axes) if axis.name == crossover.axis)


def check_packages() -> None:
    """Refuse a sweep before it runs when its files could not be written.

    Raises:
        Unsupported: saying what is missing.
    """
    missing = [name for name in ("pyarrow", "matplotlib") if not importlib.util.find_spec(name)]
    if missing:
        raise Unsupported(
            f"a sweep needs {' and '.join(missing)}; `pip install 'gearshift[sim]'` does it"
        )


def sweep(
    cluster: Source,
    workload: Source,
    axes: Sequence[Axis],
    strategies: Sequence[str],
    batch: Batch,
) -> Sweep:
    """Simulate all combinations.

    A combination that cannot be, or a strategy that does not work there, has its error in the
    table; what is wrong with the files as they are is raised.

    Args:
        strategies: where the axes have none.

    Raises:
        InvalidArgument: for the files, or when no combination can be.
        Error: when training failed in all of them.
    """
    describe_cluster(cluster.text, cluster.name)
    check_workload(workload.text, workload.name)
    given = [str(value) for axis in axes if axis.name == STRATEGY for value in axis.values]
    names = given or list(strategies)
    accuracy = Accuracy.load()
    grid = Grid(
        [axis for axis in axes if axis.name != STRATEGY],
        error=accuracy.mean_absolute_error if accuracy else 0.0,
    )
    prepared = [(cell, *_prepare(cluster, workload, grid, cell)) for cell in grid.cells()]
    jobs = [
        (cell, Job(changed[0], changed[1], name))
        for (cell, changed, _), name in product(prepared, names)
        if changed is not None
    ]
    found = batch.run([job for _, job in jobs], "sweep", keep=True)
    results: dict[tuple[Cell, str], Result | Error] = {
        (cell, job.strategy): result for (cell, job), result in zip(jobs, found, strict=True)
    }
    for cell, _, error in prepared:
        if error is not None:
            results |= {(cell, name): error for name in names}
    return _collect(grid, names, results)


def _prepare(
    cluster: Source, workload: Source, grid: Grid, cell: Cell
) -> tuple[tuple[Source, Source] | None, Error | None]:
    """Cluster and workload of a cell, or why there are none."""
    point = grid.point(cell)
    if not point:
        return (cluster, workload), None
    documents = cluster.document(), workload.document()
    try:
        scaling.change(*documents, point)
    except Error as error:
        return None, error
    how = ", ".join(
        f"{axis.name}={axis.show(axis.values[i])}" for axis, i in zip(grid.axes, cell, strict=True)
    )
    return (cluster.changed(documents[0], how), workload.changed(documents[1], how)), None


def _collect(
    grid: Grid, strategies: Sequence[str], results: dict[tuple[Cell, str], Result | Error]
) -> Sweep:
    for (cell, name), result in results.items():
        if isinstance(result, Result) and result.failure is None:
            grid.add(cell, name, result.throughput, result.half_width)
    if not grid.throughput:
        first = next(iter(results.values()))
        why = first if isinstance(first, Error) else first.failure
        told = f"sweep: nothing could be simulated; the first error: {why}"
        if isinstance(first, InvalidArgument):
            raise InvalidArgument(told)
        raise Error(told, code=first.code if isinstance(first, Error) else None)
    rows = []
    for cell, name in product(grid.cells(), strategies):
        winner, leaders = grid.winner(cell), grid.leaders(cell)
        wins = winner is not None and winner.strategy == name
        level = leaders is not None and name in leaders.strategies and len(leaders.strategies) > 1
        figures = _figures(results[cell, name])
        rows.append({**grid.point(cell), STRATEGY: name, **figures, "winner": wins, "level": level})
    too_few = [r.too_few() for r in results.values() if isinstance(r, Result) and r.unsettled]
    return Sweep(grid, strategies, rows, crossovers(grid), too_few)


def _figures(result: Result | Error) -> dict[str, Any]:
    columns: dict[str, Any] = dict.fromkeys(_FIGURES)
    if isinstance(result, Error):
        return columns | {"error": str(result)}
    step = asdict(result.step_seconds)
    return columns | {
        "workers_total": result.workers,
        "servers_total": result.servers,
        "throughput": result.throughput,
        **{f"step_{key}": step[key] for key in ("mean", "p50", "p95")},
        "efficiency": result.efficiency,
        "exposed_share": result.exposed_share,
        "waiting_slower_workers": result.waiting.slower_workers,
        "waiting_communication": result.waiting.communication,
        "mean_staleness": result.mean_staleness,
        "busiest_link": max((link.utilisation for link in result.links), default=None),
        "bytes_sent": result.bytes_sent,
        "messages": result.messages,
        "virtual_seconds": result.virtual_seconds,
        "wall_seconds": result.wall_seconds,
        "simulated_steps": result.simulated_steps,
        "estimated": result.estimated,
        "half_width": result.half_width,
        "synchronous": result.synchronous,
        "asynchronous": result.asynchronous,
        "local": result.local,
        "unsettled": result.unsettled,
        "error": result.failure,
    }
