"""The ``gearshift`` command.

Only what a sub-command needs is imported when it runs: ``gearshift run`` works, and starts fast,
where torch, NumPy or the compiled core are missing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn, TextIO

import typer

from ._bindings import is_misfit
from .doctor.arguments import doctor
from .launch import LaunchError
from .launch.plan import LaunchOptions, TargetKind
from .launch.streams import replace_missing
from .sim.arguments import simulate
from .study.command import study

app = typer.Typer(
    name="gearshift",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_USAGE_ERROR = 2
_NO_READER = 141
"""The reader of our stdout has gone, as in `gearshift --help | head`: as after a SIGPIPE."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_PASS_ON = {"allow_interspersed_args": False, "ignore_unknown_options": False}


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        typer.echo(f"gearshift {installed('gearshift')}")
    except PackageNotFoundError:
        typer.echo("gearshift (not installed as a package)")
    raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Distributed training: All-Reduce, Parameter Server, and switching between them."""


@app.command(context_settings=_PASS_ON)
def run(
    context: typer.Context,
    target: Annotated[
        list[str],
        typer.Argument(
            metavar="JOB.toml or SCRIPT [ARGS]…",
            help="Python script with its arguments; with -m a module; after -- any executable. "
            "Or a job file (docs/jobs.md): options before it override what it says, ARGS are "
            "added to its arguments.",
        ),
    ],
    processes: Annotated[int, typer.Option("-n", "--processes", help="Workers per node.")] = 1,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            "-s",
            help="For scripts that name none: all_reduce, ps:asp, switch(at=100), …",
        ),
    ] = None,
    total_steps: Annotated[
        int | None,
        typer.Option(help="Optimizer steps of the job, for switch(at=0.5), if the script is mute."),
    ] = None,
    servers: Annotated[
        int, typer.Option(help="Dedicated parameter-server processes, on node 0.")
    ] = 0,
    module: Annotated[bool, typer.Option("-m", "--module", help="SCRIPT is a module.")] = False,
    nnodes: Annotated[int, typer.Option(help="Nodes of the job.")] = 1,
    node_rank: Annotated[int, typer.Option(help="Which of them this is, from 0.")] = 0,
    rdzv: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Rendezvous address on node 0.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which a silent peer is lost (30).")
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option(
            help="Seconds to end: after a failure (timeout + 10), or when asked to (300)."
        ),
    ] = None,
    log_dir: Annotated[
        Path | None, typer.Option(help="Also write each rank's output to rank-N.log here.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", metavar="K=V", help="Set a variable (repeat).")
    ] = None,
    prefix: Annotated[bool, typer.Option(help="Put the rank in front of each line.")] = True,
    interface: Annotated[
        str | None, typer.Option(metavar="IP", help="Address of this node to listen on.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File (mode 600) with the job's secret, or set GEARSHIFT_TOKEN_FILE."),
    ] = None,
    transports: Annotated[
        str | None, typer.Option(metavar="LIST", help="tcp, shm, or tcp,shm (both).")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where the processes run (here; a job file: beside it).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the command that a job file stands for.")
    ] = False,
) -> None:
    """Start N processes of a script on this machine, or a job file's; end all when one fails.

    Each learns its place from GEARSHIFT_RANK, GEARSHIFT_WORLD_SIZE and their like. On several
    machines, run it once on each, with --nnodes, --node-rank and --rdzv.
    """
    from .launch.job_file import is_job_file, located, with_job_file
    from .launch.launcher import describe, launch

    options = LaunchOptions(
        target=tuple(target),
        kind=_kind(context, target, module),
        processes=processes,
        servers=servers,
        nnodes=nnodes,
        node_rank=node_rank,
        rdzv=rdzv,
        timeout=timeout,
        grace=grace,
        log_dir=log_dir,
        extra_env=_parse_env(env or []),
        prefix=prefix,
        interface=interface,
        token_file=token_file,
        strategy=strategy,
        total_steps=total_steps,
        transports=() if transports is None else tuple(transports.replace(" ", "").split(",")),
        folder=folder,
    )
    given = _given(context)
    if is_job_file(options):
        options = with_job_file(options, given)
    try:
        if dry_run:
            typer.echo(describe(options))
            raise typer.Exit
        raise typer.Exit(launch(options).returncode)
    except LaunchError as error:
        raise located(options, given, error) from error


app.command()(doctor)
app.command()(study)


@app.command()
def demo(
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 4,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N training images.")] = None,
    strategies: Annotated[
        str | None,
        typer.Option(help="Comma-separated: all_reduce, parameter_server, strategy_switch."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and order, the same for all.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo"),
    data: Annotated[Path | None, typer.Option(help="Folder of Fashion-MNIST's IDX files.")] = None,
) -> None:
    """Train a CNN on Fashion-MNIST under each strategy and compare what was measured."""
    from .demo.driver import DemoOptions, run_demo

    options = DemoOptions(workers=workers, limit=limit, seed=seed, out=out, data=data)
    if epochs is not None:
        options = options.with_epochs(epochs)
    if strategies is not None:
        options = options.with_strategies(strategies)
    raise typer.Exit(run_demo(options))


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Two minutes: the chief cases.")] = False,
    case: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Only these cases (repeat), as --list shows them."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the cases and end.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of the last run as Markdown.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print which algorithms are chosen, and why.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/bench"),
) -> None:
    """Measure communication against Gloo, Open MPI and what the machine allows.

    All sides of a case take turns in one run, and every result is verified.
    """
    from .bench import command

    if list_:
        raise typer.Exit(command.list_cases(case or [], quick))
    if explain:
        raise typer.Exit(command.explain_choices(case or []))
    if markdown:
        raise typer.Exit(command.print_markdown(out))
    raise typer.Exit(command.bench(out, quick, case or []))


@app.command(context_settings=_PASS_ON)
def profile(
    target: Annotated[
        list[str],
        typer.Argument(
            metavar="SCRIPT [ARGS]…", help="Training script with its arguments; with -m a module."
        ),
    ],
    steps: Annotated[int, typer.Option(help="Steps to record.")] = 30,
    warmup: Annotated[int, typer.Option(help="Steps to leave out at first.")] = 5,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("workload.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace it if it is there.")] = False,
    module: Annotated[bool, typer.Option("-m", "--module", help="SCRIPT is a module.")] = False,
    name: Annotated[str | None, typer.Option(help="Of the workload; the script's.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per step; as the model is given them.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch; as it has them.")] = None,
) -> None:
    """Record how long the parts of a training step take, for a simulation.

    Runs a PyTorch script, with gearshift in it or not, as a world of one, and ends it after enough
    steps. docs/profiling.md says what is measured.
    """
    from .sim.profiling import ProfileOptions, profile_script

    options = ProfileOptions(
        target=tuple(target),
        module=module,
        steps=steps,
        warmup=warmup,
        out=out,
        force=force,
        name=name,
        batch_size=batch_size,
        threads=threads,
    )
    raise typer.Exit(profile_script(options))


@app.command()
def calibrate(
    transport: Annotated[
        list[str] | None,
        typer.Option(help="shm or loopback; repeat (both). The cluster file gets what they say."),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            help="What a job of one process per host measured: gearshift run --nnodes … "
            "-m gearshift.sim.calibration.probe FILE."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Cluster file to write.")] = Path("host.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace it if it is there.")] = False,
) -> None:
    """Measure latency, bandwidth and cost of messages here, for a cluster file.

    Shows how far the model is from each measured point. docs/calibration.md describes the method.
    """
    from .sim.calibration.command import run

    raise typer.Exit(run(transport or [], measured, out, force))


app.command()(simulate)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Results of a demo or study.")] = Path("runs/demo"),
) -> None:
    """Show the table of a finished demo and draw its curves again, or report a study anew."""
    from .report import show
    from .study.store import FACTS

    if (folder / FACTS).exists():
        from .study.command import report_again

        raise typer.Exit(report_again(folder))

    raise typer.Exit(show(folder))


@app.command()
def store(
    bind: Annotated[str, typer.Argument(help="HOST:PORT to serve on; port 0: the system picks.")],
    token_file: Annotated[
        Path | None, typer.Option(help="File with the job token, or set GEARSHIFT_TOKEN[_FILE].")
    ] = None,
) -> None:
    """Serve a rendezvous store of its own, at which a job with --rdzv HOST:PORT meets, once.

    Not needed usually: rank 0 serves one itself. Runs until it is interrupted; another job needs
    another one.
    """
    from .launch.store import serve

    raise typer.Exit(serve(bind, token_file))


def _given(context: typer.Context) -> set[str]:
    """The parameters that the command line sets."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _kind(context: typer.Context, target: Sequence[str], module: bool) -> TargetKind:
    raw: Sequence[str] = context.find_root().obj or ()
    after_dashes = len(raw) > len(target) and raw[len(raw) - len(target) - 1] == "--"
    if module and after_dashes:
        raise LaunchError("-m starts a Python module and -- an executable: choose one")
    return "module" if module else "executable" if after_dashes else "script"


def _parse_env(settings: Sequence[str]) -> dict[str, str]:
    parsed = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator or not name:
            raise LaunchError(f"--env {setting!r}: give NAME=VALUE")
        if name == "GEARSHIFT_TOKEN":
            raise LaunchError(
                "--env GEARSHIFT_TOKEN would show the secret to every user of this machine; "
                "export it, or use --token-file"
            )
        parsed[name] = value
    return parsed


def _never_fail(stream: TextIO) -> None:
    """Show as "?" what a terminal has no character for, rather than lose an hour's results."""
    if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")


def _end_without_room(cause: int) -> NoReturn:
    """Leave out what stdout still holds: Python would try once more, and say so at length."""
    told = f"stdout, results or temporary files cannot be written: {os.strerror(cause)}"
    with contextlib.suppress(OSError):
        print(f"gearshift: {told}", file=sys.stderr, flush=True)
    os._exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``gearshift`` command."""
    raw = list(sys.argv[1:] if arguments is None else arguments)
    replace_missing()
    for stream in (sys.stdout, sys.stderr):
        _never_fail(stream)
    try:
        try:
            app(args=raw, prog_name="gearshift", obj=raw)
        finally:
            sys.stdout.flush()  # where a failure is told, and not as Python ends
    except LaunchError as error:
        print(f"gearshift: {error}", file=sys.stderr)
        sys.exit(_USAGE_ERROR)
    except ImportError as error:
        if not is_misfit(error):
            raise
        print(f"gearshift: {error}", file=sys.stderr)
        sys.exit(_USAGE_ERROR)
    except BrokenPipeError:
        os._exit(_NO_READER)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # what Click and Rich make of it
            os._exit(_NO_READER)
        raise
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:
            _end_without_room(error.errno)
        if error.filename is None:  # nothing that the user named
            raise
        print(f"gearshift: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(_USAGE_ERROR)


if __name__ == "__main__":
    main()
