"""What ``gearshift doctor`` does."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import Error
from ..launch import DEFAULT_TIMEOUT, LaunchError
from ..launch.environment import ProcessEnvironment
from ..launch.launcher import launch
from ..launch.output import ConsoleSink, LineSink, Stream
from ..launch.plan import LaunchOptions, validate_numbers
from ..report.table import report_console
from . import alone, display, together
from .finding import Finding, has_problem
from .together import Report

_FILE = "report.json"
_PATIENCE = 60.0
"""Seconds for somebody to type the same on another host."""


@dataclass(frozen=True)
class DoctorOptions:
    """What the user asked for; more than one process starts a job."""

    processes: int = 1
    nnodes: int = 1
    node_rank: int = 0
    rdzv: str | None = None
    interface: str | None = None
    timeout: float | None = None
    token_file: Path | None = None
    as_json: bool = False


def run(options: DoctorOptions) -> int:
    """The exit code: 1 when a job could not run.

    Raises:
        LaunchError: when the job that was asked for cannot be started as asked.
    """
    if options.processes > 1 or options.nnodes > 1:
        return _start(options)
    validate_numbers(_launch_options(options), {})  # what is wrong with variables is a finding
    environment = _environment()
    if environment is not None and environment.world_size > 1:
        return run_in_job(environment, None, options.as_json)
    return _run_alone(options)


def run_in_job(environment: ProcessEnvironment, folder: Path | None, as_json: bool) -> int:
    """One process of a job. The first of each host writes its report to `folder`, or prints it."""
    report = together.examine(environment)
    if environment.local_rank == 0 and folder is not None:
        _write(report, folder)
        return 0
    if environment.rank == 0:
        _show(report, as_json)
    elif environment.local_rank == 0 and has_problem(report.findings):
        _show(report, False)
    return 1 if folder is None and has_problem(report.findings) else 0


def join(folder: Path | None, as_json: bool) -> int:
    """What ``python -m gearshift.doctor`` does: this process's part of its job, if it has one."""
    environment = _environment()
    if environment is None or environment.world_size == 1:
        return _run_alone(DoctorOptions(as_json=as_json))
    return run_in_job(environment, folder, as_json)


def _environment() -> ProcessEnvironment | None:
    """None where the variables contradict each other, which the check of them says."""
    try:
        return together.place_in_job()
    except (LaunchError, Error):
        return None


def _run_alone(options: DoctorOptions) -> int:
    if options.interface is not None:
        os.environ["GEARSHIFT_INTERFACE"] = options.interface
    if options.timeout is not None:
        os.environ["GEARSHIFT_TIMEOUT"] = str(options.timeout)
    if options.token_file is not None:
        os.environ["GEARSHIFT_TOKEN_FILE"] = str(options.token_file)
    rdzv = options.rdzv or os.environ.get("GEARSHIFT_RDZV") or None
    ranks = len(os.sched_getaffinity(0))
    console = report_console()
    found: list[Finding] = []

    def take(finding: Finding) -> None:
        found.append(finding)
        if not options.as_json:
            display.print_finding(console, finding)

    for finding in alone.examine(alone.Place(ranks, rdzv=rdzv)):
        take(finding)
    for finding in alone.try_jobs(list(found)):
        take(finding)
    if options.as_json:
        print(json.dumps({"findings": [finding.to_json() for finding in found]}, indent=2))
    else:
        display.print_verdict(console, found)
    return 1 if has_problem(found) else 0


def _start(options: DoctorOptions) -> int:
    """A job of this command's own processes, on this node; the report of the first one."""
    with tempfile.TemporaryDirectory(prefix="gearshift-doctor-") as folder:
        timeout = options.timeout
        if timeout is None and not os.environ.get("GEARSHIFT_TIMEOUT"):
            timeout = _PATIENCE if options.nnodes > 1 else DEFAULT_TIMEOUT
        outcome = launch(
            dataclasses.replace(
                _launch_options(options),
                target=("gearshift.doctor", "--folder", folder),
                timeout=timeout,
            ),
            sink=_ErrorSink(),
        )
        file = Path(folder) / _FILE
        if not file.exists():
            return outcome.returncode or 1
        report = Report.from_json(json.loads(file.read_text(encoding="utf-8")))
    _show(report, options.as_json)
    return 1 if has_problem(report.findings) else 0


def _launch_options(options: DoctorOptions) -> LaunchOptions:
    return LaunchOptions(
        target=("gearshift.doctor",),
        kind="module",
        processes=options.processes,
        nnodes=options.nnodes,
        node_rank=options.node_rank,
        rdzv=options.rdzv,
        interface=options.interface,
        timeout=options.timeout,
        token_file=options.token_file,
    )


def _write(report: Report, folder: Path) -> None:
    draft = folder / f".{_FILE}"
    draft.write_text(json.dumps(report.to_json()), encoding="utf-8")
    draft.replace(folder / _FILE)


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.to_json(), indent=2), flush=True)
    else:
        display.print_report(report_console(), report)
        sys.stdout.flush()


class _ErrorSink:
    """What the processes write goes to stderr: stdout has the report."""

    def __init__(self) -> None:
        self._console: LineSink = ConsoleSink(prefix=True, on_failure=lambda *_: None)

    def lines(self, label: str, stream: Stream, lines: list[bytes]) -> None:
        self._console.lines(label, "err", lines)
