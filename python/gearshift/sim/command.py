"""What ``gearshift simulate`` does with its options."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import Error, InvalidArgument
from ..report.files import check_writable, finite, io_text, write_json
from ..report.fit import print_table
from ..report.words import count, several, times
from ..strategy import parse, to_text
from .axes import STRATEGY, Axis, parse_sweep
from .batch import Batch, Job, Settings
from .display import display
from .inputs import Source, read_both
from .processes import Pool
from .result import NAN_METRIC, Result, margin
from .table import (
    NOT_ACCURACY,
    NOT_ACCURACY_LOCAL,
    comparison,
    fastest,
    learning_table,
    sweep_table,
)

SUMMARY = "summary.json"
CURVES = "curves.png"
RECOMMENDATION = "recommendation.json"
_MAX_WIDTH = 400
_USAGE_ERROR = 2
_INTERRUPTED = 130


@dataclass(frozen=True)
class SimulateOptions:
    """What the command line says."""

    cluster: Path
    workload: Path
    strategies: Sequence[str] = ()
    sweep: Sequence[str] = ()
    """Parts of the text that :func:`gearshift.sim.axes.parse_sweep` reads; empty: no sweep."""
    recommend: bool = False
    settings: Settings = field(default_factory=Settings)
    target: float | None = None
    """The metric whose time is asked for."""
    timeline: Path | None = None
    out: Path = Path("runs/simulate")
    as_json: bool = False
    jobs: int | None = None


def run(options: SimulateOptions) -> int:
    """Simulate, show the outcome and write it to files; returns the exit code.

    The code is 2 for what the user got wrong, 1 for what else failed.
    """
    try:
        with display() as shown:
            batch = Batch(options.settings, Pool(options.jobs), shown)
            outcome = _Command(options, batch).run()
    except Error as error:
        print(f"gearshift simulate: {error}", file=sys.stderr)
        wrong = isinstance(error, InvalidArgument) or error.code in ("io", "unsupported")
        return _USAGE_ERROR if wrong else 1
    except OSError as error:
        print(f"gearshift simulate: {io_text(error)}", file=sys.stderr)
        return _USAGE_ERROR
    except KeyboardInterrupt:
        print("gearshift simulate: interrupted", file=sys.stderr)
        return _INTERRUPTED
    try:
        outcome.show(options.as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"gearshift simulate: stdout: {io_text(error)}", file=sys.stderr)
        _drop_stdout()
        return 1
    if batch.interrupted:
        print("gearshift simulate: interrupted; this is what was done before", file=sys.stderr)
        return _INTERRUPTED
    return outcome.code


class _Outcome:
    """What goes to stdout, for people and for programs."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.code = 0
        self._parts: list[str | tuple[Table, int]] = []

    def add(self, part: str) -> None:
        """A line of text."""
        self._parts.append(part)

    def add_table(self, table: Table, keys: int = 1) -> None:
        """A table, whose first `keys` columns say what its rows are about."""
        self._parts.append((table, keys))

    def save(self, what: str, write: Callable[[], Path]) -> None:
        """Name the file that `write` writes; a full disk costs the file, not what is shown."""
        with self.saving(what):
            self.add(f"{what}: {write()}")

    @contextlib.contextmanager
    def saving(self, what: str) -> Iterator[None]:
        """Where files are written: what hinders that is told on stderr."""
        try:
            yield
        except OSError as error:
            self.code = 1
            told = f"{what} could not be written: {io_text(error)}"
            print(f"gearshift simulate: {told}", file=sys.stderr)

    def show(self, as_json: bool) -> None:
        if as_json:
            print(json.dumps(finite(self.document), indent=2, ensure_ascii=not _shows_all()))
            return
        console = Console(emoji=False)  # ":ring:" is an algorithm
        if not console.is_terminal:  # as wide as the tables are
            wanted = [console.measure(p[0], options=console.options.update(max_width=_MAX_WIDTH))
                      for p in self._parts if not isinstance(p, str)]  # fmt: skip
            width = max([console.width, *(m.maximum for m in wanted)])
            console = Console(width=width, emoji=False)
        for part in self._parts:
            if isinstance(part, str):
                console.print(part, markup=False, highlight=False, soft_wrap=True)
            else:
                print_table(console, part[0], keys=part[1])


class _Command:
    """One run of the command."""

    def __init__(self, options: SimulateOptions, batch: Batch) -> None:
        self._options = options
        self._batch = batch
        self._cluster, self._workload = read_both(options.cluster, options.workload)
        check_writable(options.out / SUMMARY)  # rather fail now than after an hour
        if options.timeline is not None and options.timeline.is_dir():
            raise InvalidArgument(f"--timeline {options.timeline}: is a folder; name a file")
        if options.timeline is not None:
            check_writable(options.timeline)
        self._strategies = list(dict.fromkeys(to_text(parse(s)) for s in options.strategies))

    def run(self) -> _Outcome:
        options = self._options
        if options.sweep and options.recommend:
            raise InvalidArgument("--sweep and --recommend: choose one")
        if options.timeline is not None and (options.sweep or options.recommend):
            raise InvalidArgument("--timeline goes with neither --sweep nor --recommend")
        learns = options.settings.train is not None
        if learns and (options.sweep or options.recommend):
            raise InvalidArgument("--train goes with neither --sweep nor --recommend")
        if options.target is not None and not learns:
            raise InvalidArgument("--target goes with --train only")
        if options.target is not None and not math.isfinite(options.target):
            raise InvalidArgument(f"--target {options.target}: must be finite")
        if learns:
            from . import curves_plot  # noqa: F401  # rather fail now than after an hour
        if options.recommend:
            return self._recommend()
        if options.sweep:
            return self._sweep(parse_sweep(options.sweep))
        return self._compare(self._strategies or ["all_reduce"])

    def _compare(self, names: Sequence[str]) -> _Outcome:
        jobs = [Job(self._cluster, self._workload, name) for name in names]
        results = dict(zip(names, self._batch.run(jobs, keep=True), strict=True))
        worked = {name: r for name, r in results.items() if isinstance(r, Result)}
        failed = {name: r for name, r in results.items() if isinstance(r, Error)}
        if not worked:
            raise next(iter(failed.values()))
        outcome = _Outcome(
            {
                **self._head(),
                "results": [result.to_dict() for result in worked.values()],
                "failed": {name: str(error) for name, error in failed.items()},
                "best": fastest(results),
            }
        )
        outcome.code = 1 if failed else 0
        outcome.add_table(comparison(results))
        if self._options.settings.train is not None:
            self._add_learning(outcome, worked)
        for name, error in failed.items():
            outcome.add(f"- {name}: {error}")
        unsettled: dict[str, list[str]] = {}
        for name, result in worked.items():
            if result.unsettled:
                unsettled.setdefault(result.too_few(), []).append(name)
        for why, which in unsettled.items():
            outcome.add(f"- {several(which)}: {self._only(why)}")
        for name, result in worked.items():
            if result.skipped is not None:
                outcome.add(f"- {name}: {result.skipped}")
            if result.idle_switch is not None:
                outcome.add(f"- {name}: {result.idle_switch}")
            if result.restarts:
                outcome.add(
                    f"- {name}: restarted {times(result.restarts)} after failures; of all workers "
                    f"{count(result.repeated_steps, 'step was', 'steps were')} done twice"
                )
            if result.failure is not None:
                outcome.add(
                    f"- {name}: training ended early, after {count(result.steps_done, 'step')}: "
                    f"{result.failure}"
                )
        self._add_timelines(outcome, worked)
        outcome.save("Numbers", lambda: self._write(SUMMARY, outcome.document))
        return outcome

    def _add_learning(self, outcome: _Outcome, results: dict[str, Result]) -> None:
        from .curves_plot import draw_curves

        target = self._options.target
        times = {name: _time_to(result, target) for name, result in results.items()}
        path = self._options.out / CURVES
        outcome.document |= {"target": target, "seconds_to_target": times, "curves": str(path)}
        outcome.add_table(learning_table(results, target))
        without = [name for name, result in results.items() if result.nan_metrics]
        if without:
            outcome.add(f"- {several(without)}: {NAN_METRIC}")
        for name, result in results.items():
            if result.diverged is not None:
                outcome.add(f"- {name}: {result.diverged}: {result.diverged.reason}")
        outcome.save("Curves", lambda: draw_curves(results, path, target))

    def _add_timelines(self, outcome: _Outcome, results: dict[str, Result]) -> None:
        given = self._options.timeline
        if given is None:
            return
        for name, result in results.items():
            path = _with_name(given, name) if len(results) > 1 else given
            outcome.save(f"Timeline of {name}", partial(result.save_timeline, path))

    def _sweep(self, axes: Sequence[Axis]) -> _Outcome:
        from .sweep import check_packages, sweep

        if self._strategies and any(axis.name == STRATEGY for axis in axes):
            raise InvalidArgument("strategies are in --sweep and in --strategy: choose one")
        check_packages()
        names = self._strategies or ["all_reduce"]
        found = sweep(self._cluster, self._workload, axes, names, self._batch)
        crossed = found.describe()
        outcome = _Outcome({**self._head(), "rows": found.rows, "crossovers": crossed})
        outcome.add_table(sweep_table(found.grid, found.strategies), len(found.grid.axes))
        for sentence in crossed:
            outcome.add(f"- {sentence}")
        margins = found.margins()
        if margins:
            outcome.add(f"- {_level(margins)}")
        for error in dict.fromkeys(row["error"] for row in found.rows if row["error"]):
            outcome.add(f"- failed: {error}")
        estimated = [row["half_width"] for row in found.rows if row["estimated"]]
        if estimated:
            outcome.add(
                f"- {len(estimated)} of {len(found.rows)} are estimated from the steps that were "
                f"simulated, means {margin(max(estimated))} or better (95 %)"
            )
        for why in dict.fromkeys(found.too_few):
            outcome.add(f"- {self._only(why)}")
        if any(row["asynchronous"] for row in found.rows):
            outcome.add(f"- {NOT_ACCURACY.replace(' (*)', '')}")
        if any(row["local"] for row in found.rows):
            outcome.add(f"- {NOT_ACCURACY_LOCAL.replace(' (**)', '')}")
        with outcome.saving("Files"):
            files = found.save(self._options.out)
            outcome.document["files"] = {what: str(path) for what, path in files.items()}
            self._write(SUMMARY, outcome.document)
            listed = "    ".join(f"{what}: {path}" for what, path in files.items())
            outcome.add(f"Files:  {listed}")
        return outcome

    def _recommend(self) -> _Outcome:
        from .recommend import recommend

        answer = recommend(self._cluster, self._workload, self._strategies, self._batch)
        outcome = _Outcome({**self._head(), **answer.to_dict()})
        outcome.add(answer.text())
        for what, why in answer.impossible.items():
            outcome.add(f"- not tried: {what}: {why}")
        outcome.save("Numbers", lambda: self._write(RECOMMENDATION, outcome.document))
        return outcome

    def _only(self, why: str) -> str:
        return f"only {count(self._options.settings.steps, 'step')}: {why}"

    def _head(self) -> dict[str, Any]:
        settings = self._options.settings
        return {
            "cluster": _described(self._cluster),
            "workload": _described(self._workload),
            "steps": settings.steps,
            "warmup": settings.warmup,
            "seed": settings.seed,
            **(
                {"optimizer": settings.optimizer}
                if settings.train is None
                else {"train": settings.train, "evaluate_every": settings.evaluate_every}
            ),
        }

    def _write(self, name: str, document: dict[str, Any]) -> Path:
        path = self._options.out / name
        write_json(path, document)
        return path


def _level(margins: Sequence[float]) -> str:
    """What it means that several strategies are the fastest of a row."""
    shown = list(dict.fromkeys(f"{100 * share:.1f} %" for share in (min(margins), max(margins))))
    return (
        "no difference, or several winners: they are no more apart than the margin of error, "
        f"{' to '.join(shown)}"
    )


def _time_to(result: Result, target: float | None) -> float | None:
    return None if target is None else result.time_to(target)


def _drop_stdout() -> None:
    """What is left of it would fail once more when Python ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _shows_all() -> bool:
    """Whether every character can be printed."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _described(source: Source) -> dict[str, str]:
    return {"name": source.title, "file": source.name}


def _with_name(path: Path, strategy: str) -> Path:
    """The path with a strategy in it: out.json → out.ps-asp.json."""
    name = "".join(c if c.isalnum() or c == "_" else "-" for c in strategy).strip("-")
    return path.with_name(f"{path.stem}.{name}{path.suffix}")
