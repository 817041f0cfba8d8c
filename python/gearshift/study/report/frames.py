"""The numbers of a study as tables: cells, learning curves, and strategies compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from ...sim.frames import write_parquet
from ..cell import Outcome
from ..run import Run
from .analysis import Arm, Combination, compare, factors
from .data import StudyData

_CELL: dict[str, type] = {
    "use_case": str, "cluster": str, "clock": str, "strategy": str, "rate": float, "seed": int,
}  # fmt: skip
_FOUND: dict[str, type] = {
    "status": str, "target": float, "time_to_target": float, "samples_to_target": float,
    "step_to_target": float, "final_metric": float, "best_metric": float, "switch_step": int,
    "switch_seconds": float, "switch_to": str, "switch_reason": str,
}  # fmt: skip
_NOT_PLAIN = ("curve", "switches")
_KINDS: dict[str, type] = {"int": int, "float": float, "str": str}
CURVES: dict[str, type] = {
    **_CELL, "seconds": float, "step": int, "samples": int, "loss": float, "metric": float,
}  # fmt: skip
STRATEGIES: dict[str, type] = {
    "use_case": str, "cluster": str, "clock": str, "place": int, "strategy": str, "rate": float,
    "seeds": int, "reached": int, "diverged": int, "time_to_target": float,
    "samples_to_target": float, "mean_staleness": float, "verdict": str, "times_first": float,
    "gain": float, "gain_low": float, "gain_high": float, "samples_factor": float,
    "speed_factor": float,
}  # fmt: skip


def _outcome_columns() -> dict[str, type]:
    """The plain fields of an outcome, whatever it has."""
    return {
        field.name: _KINDS[str(field.type).split(" ")[0]]
        for field in fields(Outcome)
        if field.name not in _NOT_PLAIN
    }


def cell_columns() -> dict[str, type]:
    """Of ``cells.parquet``."""
    return {**_CELL, **_FOUND, **_outcome_columns(), "error": str}


def cell_rows(data: StudyData) -> list[dict[str, Any]]:
    """A row for each cell that was run, in the order of the study."""
    return [_cell_row(run) for run in data.runs]


def _cell_row(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(run.cell, name) for name in _CELL}
    row |= {"status": run.status, "target": run.target, "error": run.error}
    row |= {"final_metric": run.final, "best_metric": run.best}
    if run.outcome is None:
        return row
    if run.reached is not None:
        row["time_to_target"] = run.reached.seconds
        row["samples_to_target"] = run.reached.samples
        row["step_to_target"] = run.reached.step
    if run.outcome.switches:
        first = run.outcome.switches[0]
        row["switch_step"] = first["step"]
        row["switch_to"] = str(first.get("to", ""))
        row["switch_reason"] = str(first.get("reason", ""))
        row["switch_seconds"] = None if run.switched is None else run.switched[1]
    for name in _outcome_columns():
        row[name] = getattr(run.outcome, name)
    return row


def curve_rows(data: StudyData) -> list[dict[str, Any]]:
    """A row for each point of each learning curve."""
    return [
        {name: getattr(run.cell, name) for name in _CELL}
        | {
            "seconds": point.seconds,
            "step": point.step,
            "samples": point.samples,
            "loss": point.loss,
            "metric": point.metric,
        }
        for run in data.runs
        for point in run.curve
    ]


def strategy_rows(found: Sequence[Combination]) -> list[dict[str, Any]]:
    """A row for each strategy in each combination, at its best learning rate."""
    return [
        _strategy_row(combination, arm, place)
        for combination in found
        for place, arm in enumerate(combination.arms, 1)
    ]


def _strategy_row(combination: Combination, arm: Arm, place: int) -> dict[str, Any]:
    group, base = arm.best, combination.baseline
    row: dict[str, Any] = {
        "use_case": combination.use_case,
        "cluster": combination.cluster,
        "clock": combination.clock,
        "place": place,
        "strategy": arm.strategy,
        "rate": group.rate,
        "seeds": len(group.runs),
        "reached": len(group.reached),
        "diverged": len(group.diverged),
        "time_to_target": group.time if math.isfinite(group.time) else None,
        "samples_to_target": group.of_runs(lambda run: run.samples),
        "mean_staleness": group.of("mean_staleness"),
        "verdict": combination.verdict,
    }
    against = compare(combination.first, arm).ratio
    row["times_first"] = None if against is None else against.mean
    if base is not None:
        gain, why = compare(arm, base).ratio, factors(arm, base)
        if gain is not None:
            row |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
        if why is not None:
            row |= {"samples_factor": why.samples, "speed_factor": why.speed}
    return row


def write(
    folder: Path, name: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, type]
) -> None:
    """As ``name.parquet`` and ``name.csv``."""
    write_parquet([_typed(row, columns) for row in rows], columns, folder / f"{name}.parquet")
    with (folder / f"{name}.parquet").open("rb") as file:
        frame = pd.read_parquet(file, dtype_backend="numpy_nullable")
    frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")


def _typed(row: Mapping[str, Any], columns: Mapping[str, type]) -> dict[str, Any]:
    return {
        name: None if row.get(name) is None else kind(row[name]) for name, kind in columns.items()
    }
