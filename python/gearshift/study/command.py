"""``gearshift study``: the command."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..launch import LaunchError
from ..report.words import count

if TYPE_CHECKING:
    from .cell import Cell, Study
    from .runner import Found, Wanted

_NEEDED = ("torch", "pandas", "pyarrow", "matplotlib", "markdown_it")
_SHOWN_FAILURES = 5


def study(
    file: Annotated[Path, typer.Argument(help="Study file (TOML): what is compared, and where.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results (runs/ and the study's name).")
    ] = None,
    use_case: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this use case (repeat).")
    ] = None,
    cluster: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this cluster (repeat).")
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option("--strategy", "-s", help="Only this strategy (repeat).")
    ] = None,
    clock: Annotated[
        str | None, typer.Option(help="Only what is simulated, or only what is measured.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Only so many of the file's seeds.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Simulations at once (as many as cores).")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Run cells, too, that an earlier run has done.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the cells, and run none.")
    ] = False,
) -> None:
    """Compare strategies over use cases and clusters, and report who wins where, and why.

    Each combination is simulated with real gradients, or measured on links shaped on this machine.
    Cells that are done are kept: the same command goes on where it was interrupted. `gearshift
    report FOLDER` makes the report anew. docs/study.md describes the file.
    """
    from .study_file import read_study

    _check_installed()
    read = read_study(file)
    wanted = _chosen(read, use_case, cluster, strategy, clock, seeds)
    if dry_run:
        _list(read, [cell for cell in read.cells() if wanted(cell)])
        raise typer.Exit
    whole = ["gearshift", "study", str(file), *(() if out is None else ("--out", str(out)))]
    raise typer.Exit(_run(read, wanted, out or Path("runs") / read.name, whole, jobs, again))


def _list(study: Study, cells: list[Cell]) -> None:
    for cell in cells:
        typer.echo(cell.label)
    more = any(study.cases_of(cell)[0].searched for cell in cells)
    typer.echo(count(len(cells), "cell") + (", and those that searches ask for" if more else ""))


def _check_installed() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(missing).replace("markdown_it", "markdown-it-py")
        raise LaunchError(f"a study needs {names}; install with: pip install 'gearshift[study]'")


def _chosen(
    study: Study,
    use_cases: list[str] | None,
    clusters: list[str] | None,
    strategies: list[str] | None,
    clock: str | None,
    seeds: int | None,
) -> Wanted:
    """Which cells the options leave.

    Raises:
        LaunchError: when an option names what is not there, or they leave none.
    """
    from ..errors import Error
    from ..strategy import parse, to_text
    from .cell import CLOCKS

    try:
        texts = [to_text(parse(text)) for text in strategies or ()]
    except Error as error:
        raise LaunchError(f"--strategy: {error}") from error
    for option, chosen, known in (
        ("--use-case", use_cases, [case.name for case in study.use_cases]),
        ("--cluster", clusters, [case.name for case in study.clusters]),
        ("--strategy", texts, study.strategies),
        ("--clock", [clock] if clock else [], CLOCKS),
    ):
        for name in chosen or ():
            if name not in known:
                raise LaunchError(f'{option}: there is no "{name}"; there are {", ".join(known)}')

    def wanted(cell: Cell) -> bool:
        return (
            (not use_cases or cell.use_case in use_cases)
            and (not clusters or cell.cluster in clusters)
            and (not texts or cell.strategy in texts)
            and (not clock or cell.clock == clock)
            and (seeds is None or cell.seed in study.seeds[:seeds])
        )

    if not any(map(wanted, study.cells())):
        raise LaunchError("no cell of the study is left: nothing to run")
    return wanted


def _run(
    study: Study,
    wanted: Wanted,
    folder: Path,
    whole: list[str],
    jobs: int | None,
    again: bool,
) -> int:
    """Run the cells that are wanted, and report; `whole` is the command that runs all of them."""
    from ..bench.interrupts import endings_raised
    from ..report.files import claimed, io_text
    from ..sim.display import display
    from ..sim.processes import Pool
    from .runner import Runner
    from .store import Store

    theirs = Store(folder).overwritten(study)
    if theirs is not None:
        raise LaunchError(f"--out {folder}: {theirs} would be overwritten; give it another folder")
    with claimed(folder), endings_raised():
        with display() as shown:
            runner = Runner(study, folder, whole, Pool(jobs), shown, _note)
            try:
                found = runner.run(wanted, again)
            except BrokenPipeError:
                raise
            except OSError as error:
                _note(f"{io_text(error)}; {_goes_on(folder)}")
                return 1
        empty = found.done + found.kept == 0
        # Before anything is shown: the reader of stdout may have gone.
        report = None if empty else _report(folder, "study")
        _tell(found)
        if report is not None:
            _show(report)
    if found.interrupted:
        _note(f"interrupted; {_goes_on(folder)}")
        return found.interrupted
    return 1 if found.failures or not (empty or report) else 0


def _report(folder: Path, command: str) -> Path | None:
    """Write the report; None, with the reason on stderr, when that cannot be done."""
    from ..errors import Error
    from ..report.files import io_text
    from .report import write_report

    try:
        return write_report(folder)
    except Error as error:
        why = str(error)
    except OSError as error:
        why = f"no report in {folder}: {io_text(error)}"
    print(f"gearshift {command}: {why}", file=sys.stderr)
    return None


def _show(path: Path) -> None:
    """The answer of a report, and where it is."""
    from rich.markdown import Markdown

    from ..report.table import report_console
    from .report import MARKDOWN

    text = (path.parent / MARKDOWN).read_text(encoding="utf-8")
    answer = text.partition("\n## 1. ")[2].partition("\n## ")[0].partition("\n")[2]
    report_console().print(Markdown(answer))
    print(f"Report: {path}")


def report_again(folder: Path) -> int:
    """Make the report of what is in a folder; returns the exit code."""
    from ..report.files import claimed

    _check_installed()
    with claimed(folder, option=""):
        report = _report(folder, "report")
        if report is None:
            return 2
        _show(report)
        return 0


def _tell(found: Found) -> None:
    parts = [f"{count(found.done, 'cell')} run"]
    if found.kept:
        others = f" ({found.of_others} of another commit of gearshift: --again runs them anew)"
        parts.append(f"{found.kept} kept from before{others if found.of_others else ''}")
    if found.failures:
        parts.append(f"{len(found.failures)} failed")
    print(", ".join(parts))


def _goes_on(folder: Path) -> str:
    return f"the same command goes on from here ({folder} has what is done)"


def _note(text: str) -> None:
    print(f"gearshift study: {text}", file=sys.stderr)
