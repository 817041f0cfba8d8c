"""Section 3: each use case, on each cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...report.words import count
from ...sim.inputs import seconds
from .analysis import Arm, Combination
from .context import Context
from .curves_chart import draw_curves
from .document import code, plain
from .factors_chart import draw_factors
from .numbers import NONE, duration, number, percent, quantity, rate_factor
from .words import reason, time_to_target

_HEADER = [
    "Strategy", "Time to target", "Samples to target", "Samples/s", "Efficiency", "Waiting",
    "Step mean", "Step p95", "Staleness mean", "max", "Metric at end", "best", "Switch at step",
    "Diverged",
]  # fmt: skip


def write_use_cases(context: Context) -> None:
    """Facts, curves, tables, and the two factors of each."""
    document = context.document
    document.heading(2, "3. Use cases")
    document.paragraph(
        "Tables have medians over seeds, of each strategy at its best learning rate; after the time"
        " to the target stand the least and the greatest of the seeds. *Waiting* is the share of"
        " its steps in which a worker only waits, *efficiency* the samples per second in proportion"
        " to workers that compute alone. Section 9 defines each figure."
    )
    for name, title in context.use_cases.items():
        document.heading(3, plain(title))
        document.paragraph(*_facts(context, context.case(name)))
        for clock in context.data.clocks:
            found = context.of(clock, name)
            if found:
                _curves(context, name, found)
        for combination in context.of(use_case=name):
            _table(context, combination)
        for clock in context.data.clocks:
            found = context.of(clock, name)
            if found:
                _factors(context, name, found)


def _facts(context: Context, case: Mapping[str, Any]) -> list[str]:
    sentences = [f"Trained is {code(case['task'].rpartition('/')[2])}"]
    if case.get("parameters"):
        sentences[0] += f", {quantity(case['parameters'])} parameters"
    sentences[0] += "."
    budget = quantity(case["samples"])
    sentences.append(
        f"All workers together learn from {budget} samples"
        f" ({count(case['batch_size'], 'sample')} per worker and step)."
    )
    sentences.append(
        f"The metric is {plain(case['metric'])}; the target is {number(case['target'])}."
    )
    took = [
        f"{key} {duration(seconds(case[key]))}"
        for key in ("forward", "backward", "optimizer")
        if case.get(key)
    ]
    if took:
        sentences.append(f"On a host of speed 1 a step computes: {', '.join(took)}.")
    rates = context.rates(case["name"])
    if len(rates) > 1:
        factors = ", ".join(map(rate_factor, rates))
        how = " (each strategy's was searched)" if context.searched(case["name"]) else ""
        sentences.append(f"Learning rates: {factors} that of the task{how}.")
    return sentences


def _curves(context: Context, name: str, found: list[Combination]) -> None:
    clock = found[0].clock
    case = context.case(name)
    if not any(run.curve for c in found for arm in c.arms for run in arm.best.runs):
        context.document.paragraph(
            f"Learning curves ({clock}) are left out: no run has a point of one."
        )
        return
    file = f"curves-{name}-{clock}.png"
    draw_curves(
        found, context.clusters, float(case["target"]), str(case["metric"]), context.looks,
        context.figures / file,
    )  # fmt: skip
    marks = [
        "a line is the median over seeds, a band their least and greatest",
        "the black line is the target",
    ]
    runs = [run for c in found for arm in c.arms for run in arm.best.runs]
    if any(run.switched for run in runs):
        marks.append("a dotted line is a switch")
    if any(run.status == "diverged" for run in runs):
        marks.append("a cross is where training diverged")
    context.document.figure(
        file,
        f"{plain(case['title'])}: the metric over time ({clock}), a panel for each cluster;"
        f" {', '.join(marks)}.",
        f'`curves.parquet`, where `use_case` = "{name}" and `clock` = "{clock}"',
    )


def _table(context: Context, combination: Combination) -> None:
    document = context.document
    cluster = context.clusters[combination.cluster]
    clock = f", {combination.clock}" if len(context.data.clocks) > 1 else ""
    document.heading(
        4, f"{plain(context.use_cases[combination.use_case])} on {plain(cluster)}{clock}"
    )
    outcome = combination.first.best.outcomes[0]
    servers = f" and {count(outcome.servers, 'dedicated server')}" if outcome.servers else ""
    document.paragraph(
        f"{count(outcome.workers, 'worker')}{servers},"
        f" {count(len(combination.first.best.runs), 'seed')}.",
        reason(combination),
    )
    rows = [_row(arm, context.several_rates) for arm in combination.arms]
    header = list(_HEADER)
    if context.several_rates:
        header.insert(1, "Rate")
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] != NONE for row in rows)]
    document.table([header[i] for i in kept], ([row[i] for i in kept] for row in rows))
    for name in combination.without:
        document.paragraph(f"{code(name)} has no result here.")


def _row(arm: Arm, with_rate: bool) -> list[str]:
    group = arm.best
    diverged = len(group.diverged)
    return [
        code(arm.strategy),
        *([rate_factor(group.rate)] if with_rate else []),
        time_to_target(group),
        number(group.of_runs(lambda run: run.samples)),
        number(group.of("samples_per_second")),
        percent(group.of("efficiency")),
        percent(group.of("exposed_share")),
        duration(group.of("step_mean")),
        duration(group.of("step_p95")),
        number(group.of("mean_staleness")),
        _whole(group.of("max_staleness")),
        number(group.of_runs(lambda run: run.final)),
        number(group.best),
        _whole(group.of_runs(lambda run: run.switched and run.switched[0])),
        f"{diverged} of {len(group.runs)}" if diverged else NONE,
    ]


def _whole(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def _factors(context: Context, name: str, found: list[Combination]) -> None:
    clock, title = found[0].clock, plain(context.use_cases[name])
    file = f"factors-{name}-{clock}.png"
    if not draw_factors(found, context.clusters, context.looks, context.figures / file):
        context.document.paragraph(
            f"The split of the time to the target into speed and samples ({clock}) is left out: no"
            " strategy reaches the target in most of its seeds."
        )
        return
    context.document.figure(
        file,
        f"{title}: why ({clock}). To the left, fewer samples are needed for the target (statistical"
        " efficiency); above, more samples are done per second until then (hardware efficiency)."
        " On a dashed line the time to the target is equal; nearer to the top left corner it is"
        " shorter. Letters are clusters; grey lines join the strategies on one to its All-Reduce.",
        f"`strategies.parquet`, `samples_to_target` and `samples_to_target` ÷ `time_to_target`,"
        f' where `use_case` = "{name}" and `clock` = "{clock}"',
    )
