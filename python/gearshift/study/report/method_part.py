"""Sections 8 and 9: every cell, and how all of it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...report.words import count
from .analysis import Group
from .context import Context
from .document import code, plain
from .numbers import NONE, duration, number, rate_factor, times
from .words import time_to_target

_DEFINITIONS = (
    ("Cell", "one run: a use case on a cluster under a strategy, with a factor of the task's "
     "learning rate, a seed, and a clock: simulated (real gradients, virtual time) or measured."),
    ("Time to target", "when worker 0's metric is first as great as the target, on the cell's "
     "clock and without what evaluations take; between two points of the curve the metric is "
     "taken to run straight. A run that diverges has not reached it, whatever was before."),
    ("Samples to target", "samples that all workers together had learnt from by then."),
    ("Samples per second", "of all workers together, after the warm-up; in the figures that split "
     "the time, those until the target: samples to target ÷ time to target."),
    ("Efficiency", "samples per second ÷ those of the same workers if each computed alone."),
    ("Waiting", "exposed share: time in which a worker only waits ÷ time of its steps."),
    ("Step mean, p95", "of the steps of all workers after the warm-up; of local SGD, of whole "
     "rounds."),
    ("Staleness", "updates that the parameters of a push lacked."),
    ("Best learning rate", "of each strategy in each combination, the factor that ranks first in "
     "the order below, of those that all seeds have run. Where factors are given, all strategies "
     "have the same number of tries. Where they are searched, each goes on until it has its own: "
     "the first seed tries 1 and 2, and twice or half as much as the best, until that is no "
     "better; then all seeds run the best, and half as much where some of them miss a target that "
     "the first one reaches."),
    ("Order", "strategies are ranked by the share of seeds that reach the target, then by the "
     "geometric mean of their times, then by their best metric. Who never reaches it within the "
     "budget, or diverges, loses to those who do."),
    ("Lead, gain", "ratio of two times to the target for each seed that both have run, since equal "
     "seeds have equal batches; over seeds the geometric mean, with the 95 % interval by Student's "
     "t on logarithms, from three seeds on."),
    ("First, level", "a strategy is first if it leads each other one by 1 % or more and the "
     "interval leaves out 1; where some seeds of the other never reach the target, if it is ahead "
     "in each seed, of three at least. Otherwise it is level with those. With fewer than three "
     "seeds there is no interval, and the report says so."),
)  # fmt: skip

_FILES = (
    ("cells.parquet", "a row for each cell that was run: what it is, what it found"),
    ("curves.parquet", "a row for each point of each learning curve"),
    ("strategies.parquet", "a row for each strategy in each combination, at its best learning "
     "rate: place, time to target, gain over All-Reduce with its interval, and the two factors"),
    ("figures/", "the figures"),
    ("study.toml", "the study's file, as it was run"),
    ("study.json", "use cases, clusters, machine and versions"),
    ("workloads/, clusters/", "the files of both, as they were run"),
    ("cells/", "what each cell found, as it was written"),
)  # fmt: skip


def write_cells(context: Context) -> None:
    """Medians over seeds of every cell; then what failed and what is missing."""
    document, data = context.document, context.data
    document.heading(2, "8. All cells")
    document.paragraph(
        f"Medians over seeds of {count(len(data.runs), 'cell')}; `cells.parquet` has each of them."
    )
    clocks = len(data.clocks) > 1
    header = ["Use case", "Cluster", *(["Clock"] if clocks else []), "Strategy", "Rate", "Seeds",
              "Time to target", "Step mean", "Samples/s", "Staleness", "Best metric"]  # fmt: skip
    document.table(header, _rows(context, clocks), words=4 if clocks else 3)
    failed = data.failed()
    if failed:
        document.heading(3, "Cells that failed")
        document.bullets(f"{plain(r.cell.label)}: {plain(str(r.error))}" for r in failed)
    if data.missing:
        document.heading(3, "Cells that have not been run")
        shown = [plain(cell.label) for cell in data.missing[:_MOST]]
        if len(data.missing) > _MOST:
            shown.append(f"and {len(data.missing) - _MOST} more")
        document.bullets(shown)
    if data.skipped:
        document.heading(3, "Clusters that were not measured")
        document.bullets(f"{code(name)}: {plain(why)}" for name, why in data.skipped.items())
    if data.foreign:
        document.paragraph(
            f"{count(data.foreign, 'cell')} in the folder, which the study's file no longer asks"
            " for, took no part."
        )


_MOST = 20


def _rows(context: Context, clocks: bool) -> Iterator[list[str]]:
    for combination in context.found:
        order = {name: i for i, name in enumerate(context.data.strategies)}
        for arm in sorted(combination.arms, key=lambda arm: order[arm.strategy]):
            for group in arm.groups:
                yield [
                    code(combination.use_case),
                    code(combination.cluster),
                    *([combination.clock] if clocks else []),
                    code(arm.strategy),
                    rate_factor(group.rate),
                    _seeds(group),
                    time_to_target(group),
                    duration(group.of("step_mean")),
                    number(group.of("samples_per_second")),
                    number(group.of("mean_staleness")),
                    number(group.best),
                ]


def _seeds(group: Group) -> str:
    failed = f" ({len(group.failed)} failed)" if group.failed else ""
    return f"{len(group.runs)}{failed}"


def write_method(context: Context) -> None:
    """Machine, versions, commands, budgets, definitions, files."""
    document, facts = context.document, context.data.facts
    document.heading(2, "9. How this was made")
    command = facts.get("command")
    again = str(command) if command else "gearshift study study.toml"
    document.paragraph("This command makes every number again:")
    document.blocks.append(_fence(again))
    document.paragraph("And this one, in the study's folder, the report from what cells found:")
    document.blocks.append(_fence("gearshift report ."))
    document.bullets(_circumstances(context))
    document.heading(3, "Budgets")
    document.table(
        ["Use case", "Samples", "Batch of a worker", "Target", "Learning rates"],
        (
            [
                plain(case["title"]),
                f"{case['samples']:,}",
                f"{case['batch_size']:,}",
                number(case["target"]),
                "searched"
                if context.searched(case["name"])
                else ", ".join(map(rate_factor, context.rates(case["name"]))),
            ]
            for case in context.data.use_cases
        ),
    )
    document.heading(3, "What the figures mean")
    document.bullets(f"**{name}**: {text}" for name, text in _DEFINITIONS)
    document.heading(3, "Files")
    document.paragraph("Tables are there as `.csv`, too.")
    document.bullets(f"{code(name)}: {text}" for name, text in _FILES)


def _fence(text: str) -> str:
    marks = "```" if "```" not in text else "````"
    return f"{marks}\n{text}\n{marks}"


def _circumstances(context: Context) -> Iterator[str]:
    facts, data = context.data.facts, context.data
    for key in ("machine", "versions"):
        value = facts.get(key)
        if value:
            yield f"{key.capitalize()}: {_listed(value)}"
    if facts.get("commit"):
        yield f"Commit: {code(facts['commit'])}"
    if len(data.commits) > 1:
        yield f"Cells were run by several commits: {', '.join(map(code, data.commits))}"
    yield f"Seeds: {', '.join(str(seed) for seed in facts['seeds'])}"
    yield f"Strategies: {', '.join(code(name) for name in data.strategies)}"
    yield f"Cells: {len(data.runs)} of {data.asked} run, {len(data.failed())} of them failed"
    spent = sum(run.outcome.cost for run in data.runs if run.outcome is not None)
    if spent:
        yield f"Cells took {duration(spent)} in all, one after the other"
    yield from _dilation(context)


def _dilation(context: Context) -> Iterator[str]:
    """Of measured cells whose outcome has it: how slow the machine was made to look fast."""
    outcomes = [
        run.outcome
        for run in context.data.runs
        if run.outcome is not None and run.cell.clock == "measured"
    ]
    dilations = [d for o in outcomes if (d := getattr(o, "dilation", None)) is not None]
    overruns = [s for o in outcomes if (s := getattr(o, "overrun_share", None)) is not None]
    if dilations and max(dilations) > 1:
        yield f"Measured cells ran in slow motion, up to {times(max(dilations))}; times are undone"
    if overruns:
        yield f"Measured steps that overran their pace: at most {number(100 * max(overruns))} %"


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(str(k))} {plain(str(v))}" for k, v in value.items()) or NONE
    return plain(str(value))


def default_title(folder: Path) -> str:
    """For a study without one."""
    return folder.resolve().name
