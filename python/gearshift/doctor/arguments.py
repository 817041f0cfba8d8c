"""The options of ``gearshift doctor``. Nothing else is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    processes: Annotated[int, typer.Option("-n", "--processes", help="Start a job of N here.")] = 1,
    nnodes: Annotated[int, typer.Option(help="Nodes of the job; the same on each.")] = 1,
    node_rank: Annotated[int, typer.Option(help="Which of them this is, from 0.")] = 0,
    rdzv: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Rendezvous address on node 0.")
    ] = None,
    interface: Annotated[
        str | None, typer.Option(metavar="IP", help="Address of this node to listen on.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait for the others (30; on several nodes 60).")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File (mode 600) with the job's secret.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Find out what is wrong with this machine, or between the processes of a job.

    In a job (gearshift run -n 4 -- gearshift doctor, srun gearshift doctor …), or with -n or
    --nnodes, they compare themselves and measure their links. Exit code 1: a job could not run.
    """
    from .command import DoctorOptions, run

    options = DoctorOptions(
        processes, nnodes, node_rank, rdzv, interface, timeout, token_file, json
    )
    raise typer.Exit(run(options))
