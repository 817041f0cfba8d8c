"""Studies whose outcomes are made up, so that what a report must find is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gearshift.sim.inputs import Source
from gearshift.study.cell import Cell, Clock, ClusterCase, Done, Outcome, Point, Study, UseCase
from gearshift.study.store import Store

WORKLOAD = Source(
    'name = "made"\nbatch_size = 10\nforward = "3 ms"\nbackward = "6 ms"\noptimizer = "1 ms"\n'
    'parameters = [{name = "w", shape = [20, 5], dtype = "float32"}]\n',
    "made.toml",
    "made",
)
CLUSTER = Source('name = "made"\n', "made.toml", "made")
WORKERS = 4
BATCH = 10


def study(
    strategies: Sequence[str],
    use_cases: Sequence[str] = ("digits",),
    clusters: Sequence[str] = ("lan",),
    seeds: Sequence[int] = (1, 2, 3),
    rates: Sequence[float] = (1.0,),
    clocks: tuple[Clock, ...] = ("simulated",),
    target: float = 0.8,
) -> Study:
    """With these names; titles are the names with a capital."""
    return Study(
        name="made",
        title="A study that was made up",
        question="Which strategy wins?",
        use_cases=tuple(
            UseCase(
                n,
                n.capitalize(),
                f"{n}.py:training",
                WORKLOAD,
                4000,
                "accuracy",
                target,
                rates=tuple(rates),
            )
            for n in use_cases
        ),
        clusters=tuple(ClusterCase(n, n.capitalize(), CLUSTER, clocks) for n in clusters),
        strategies=tuple(strategies),
        seeds=tuple(seeds),
        text='title = "A study that was made up"\n',
    )


def outcome(
    step: float = 0.01,
    to_target: int | None = 40,
    top: float = 0.9,
    target: float = 0.8,
    **more: Any,
) -> Outcome:
    """Whose metric runs straight from 0 and is the target after exactly `to_target` steps.

    It is `top` from the point after the next on; without a `to_target` it runs to `top`, which is
    to be below the target.

    Args:
        step: seconds of each step.
        more: other fields of the outcome.
    """
    at = range(10, 101, 10)
    if to_target is None:
        metrics = [top * i / 100 for i in at]
    else:
        metrics = [top if i - 10 >= to_target else target * i / to_target for i in at]
    curve = tuple(
        Point(i * step, i, i * WORKERS * BATCH, 1 / (1 + i), metric)
        for i, metric in zip(at, metrics, strict=True)
    )
    usual: dict[str, Any] = {
        "workers": WORKERS, "servers": 0, "batch_size": BATCH, "steps": 100, "step_mean": step,
        "step_p50": step, "step_p95": 1.1 * step, "samples_per_second": WORKERS * BATCH / step,
        "efficiency": 0.01 / step, "exposed_share": max(0.0, 1 - 0.01 / step),
        "mean_staleness": None, "max_staleness": None, "bytes_sent": 1000, "seconds": 100 * step,
        "curve": curve, "cost": 1.5,
    }  # fmt: skip
    return Outcome(**{**usual, **more})


def fill(
    folder: Path,
    made: Study,
    found: Callable[[Cell], Outcome | str | None],
    **facts: Any,
) -> Path:
    """Write the study's folder; `found` gives a cell's outcome, its error, or None: not run."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder)
    store.save_facts(made, facts)
    for cell in made.cells():
        result = found(cell)
        if isinstance(result, Outcome):
            store.save(Done(cell, result, recipe="made"))
        elif result is not None:
            store.save(Done(cell, error=result, recipe="made"))
    return folder


def lifelike(folder: Path) -> Path:
    """Three use cases, four clusters, five strategies, three seeds, two clocks, two rates.

    Written as though a network and stragglers held synchronous strategies up, and staleness
    asynchronous ones: each outcome is a function of its cell.
    """
    made = study(
        ("all_reduce", "ps:bsp", "ps:ssp(3)", "ps:asp", "switch(at=0.2)"),
        ("digits", "text", "ratings"),
        ("fast", "slow", "stragglers", "racks"),
        rates=(0.5, 1.0),
        clocks=("simulated", "measured"),
    )
    titles = {
        "digits": "Fashion-MNIST, CNN", "text": "Shakespeare, character LSTM",
        "ratings": "MovieLens-100K, matrix factorization",
    }  # fmt: skip
    places = {
        "fast": "4 hosts, 10 Gbit/s", "slow": "4 hosts, 100 Mbit/s",
        "stragglers": "4 hosts, 1 Gbit/s, one is slow", "racks": "8 hosts in two racks, 1 Gbit/s",
    }  # fmt: skip
    made = replace(
        made,
        title="Which strategy for which cluster?",
        question="Three use cases on four clusters: when does asynchrony pay, and what does a"
        " switch gain?",
        use_cases=tuple(replace(c, title=titles[c.name]) for c in made.use_cases),
        clusters=tuple(
            replace(c, title=places[c.name],
                    clocks=("simulated",) if c.name == "racks" else c.clocks)
            for c in made.clusters
        ),
    )  # fmt: skip
    return fill(
        folder,
        made,
        _lifelike,
        machine={"processor": "AMD EPYC", "cores": 2, "memory": "8 GB"},
        versions={"gearshift": "0.9", "torch": "2.13.0"},
        command="gearshift study study.toml --out made",
        commit="0123abc",
    )


_NETWORK = {"fast": 1.0, "slow": 2.6, "stragglers": 1.3, "racks": 1.7}
_SLOW = {"stragglers": 1.9}
_HARD = {"digits": 24, "text": 47, "ratings": 33}
_STALE = {"digits": 1.25, "text": 2.4, "ratings": 1.02}


def _lifelike(cell: Cell) -> Outcome | str | None:
    if cell == Cell("ratings", "fast", "ps:bsp", 0.5, 2, "measured"):
        return "the process of rank 2 died"
    if (cell.use_case, cell.cluster, cell.seed) == ("ratings", "racks", 3):
        return None
    base = 0.010 if cell.use_case == "digits" else 0.023
    network, slow = _NETWORK[cell.cluster], _SLOW.get(cell.cluster, 1.0)
    wobble = 1 + 0.03 * math.sin(7.1 * cell.seed + len(cell.strategy) + _HARD[cell.use_case])
    real = 1.04 + 0.02 * math.sin(len(cell.strategy)) if cell.clock == "measured" else 1.0
    waits = {"all_reduce": 1.0, "ps:bsp": 1.06, "ps:ssp(3)": 0.8, "ps:asp": 0.62}
    stale = {"ps:ssp(3)": (1 + (_STALE[cell.use_case] - 1) * 0.6, 1.7, 3),
             "ps:asp": (_STALE[cell.use_case], 3.1 * slow, 9)}  # fmt: skip
    speed = base * real * (1 + (network * slow - 1) * waits.get(cell.strategy, 0.8))
    more, mean, most = stale.get(cell.strategy, (1.0, None, None))
    need = _HARD[cell.use_case] * more * wobble * (1.3 if cell.rate < 1 else 1)
    changes: dict[str, Any] = {"mean_staleness": mean, "max_staleness": most}
    if cell.strategy.startswith("switch"):
        need *= 1.03
        changes["switches"] = (
            {"step": 20, "to": "ps:asp", "reason": "step 20 of 100 was reached"},
        )
    if cell.strategy == "ps:asp" and cell.use_case == "text" and cell.cluster == "stragglers":
        gone = outcome(speed, None, 0.31, **changes, diverged="diverged after step 30: loss 1e9")
        return replace(gone, curve=gone.curve[:3])
    return outcome(speed, None if need > 100 else max(1, round(need)), 0.86 + 0.01 * cell.seed,
                   **changes)  # fmt: skip
