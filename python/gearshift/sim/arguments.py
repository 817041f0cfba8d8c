"""``gearshift simulate``: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..launch import LaunchError


def simulate(
    cluster: Annotated[
        Path, typer.Option("--cluster", "-c", help="TOML file of hosts and network.")
    ],
    workload: Annotated[
        Path,
        typer.Option("--workload", "-w", help="TOML file of the model: parameters and times."),
    ],
    axes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[AXIS=VALUES]…", help="With --sweep: more axes."),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy",
            "-s",
            help="all_reduce, all_reduce:ring, local_sgd(8), ps:bsp, ps:asp(shards=1), ps:ssp(3), "
            "switch(at=10), …; repeat to compare (all_reduce).",
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="AXIS=VALUES",
            help="Simulate all combinations: workers=4,8,16 bandwidth=100M,1G strategy=…; "
            "an unknown axis gets a list of those that there are.",
        ),
    ] = None,
    recommend: Annotated[
        bool, typer.Option("--recommend", help="Say what to use, and what would change that.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Steps of each worker.")] = 20,
    warmup: Annotated[int, typer.Option(help="Steps that figures leave out at first.")] = 2,
    seed: Annotated[int, typer.Option(help="Of all that varies in the cluster.")] = 1,
    optimizer: Annotated[
        str,
        typer.Option(
            help="Of the servers: sgd, adam, adamw, adagrad. Takes as long with each; a cluster "
            "file's update_bandwidth says how long."
        ),
    ] = "sgd",
    train: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="Learn for real: task.py, task.py:function or module:function, which returns a "
            "SimulatedTraining.",
        ),
    ] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(min=1, help="With --train: steps between evaluations (100).")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="With --train: the metric to time, such as 0.9.")
    ] = None,
    detection: Annotated[
        float, typer.Option(help="Seconds after which a host that failed is missed.")
    ] = 30.0,
    checkpoint_every: Annotated[
        int, typer.Option(help="Steps between checkpoints, for hosts that recover (none).")
    ] = 0,
    sharing: Annotated[
        str,
        typer.Option(help="Of links: max_min, per_link, none; auto: the first up to 8 processes."),
    ] = "auto",
    every_step: Annotated[
        bool, typer.Option("--every-step", help="Leave out no step that repeats or is estimated.")
    ] = False,
    steady_tolerance: Annotated[
        float,
        typer.Option(
            help="Estimate the steps that are left once the mean is known to within this share "
            "(95 %); 0: leave out only what repeats exactly."
        ),
    ] = 0.01,
    timeline: Annotated[
        Path | None, typer.Option(help="File for a timeline, for https://ui.perfetto.dev.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/simulate"),
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Simulations at once (as many as cores).")
    ] = None,
) -> None:
    """Predict training on machines that you don't have: step times, what limits them, who wins.

    The strategies' own code runs on a virtual clock. docs/simulation.md describes the files,
    docs/simulating.md what the figures mean; examples/ has clusters and workloads.
    """
    from ..errors import InvalidArgument
    from .command import Settings, SimulateOptions, run
    from .messages import AfterFailure, Fidelity

    if axes and sweep is None:
        raise LaunchError(f"{axes[0]!r} goes with --sweep only")
    if evaluate_every is not None and train is None:
        raise LaunchError("--evaluate-every goes with --train only")
    try:
        after_failure = AfterFailure(detection, checkpoint_every)
        fidelity = Fidelity(sharing, every_step, steady_tolerance)
    except InvalidArgument as error:
        raise LaunchError(str(error)) from error
    settings = Settings(
        steps,
        warmup,
        seed,
        optimizer,
        timeline is not None,
        train,
        100 if evaluate_every is None else evaluate_every,
        after_failure,
        fidelity,
    )
    options = SimulateOptions(
        cluster=cluster,
        workload=workload,
        strategies=strategy or (),
        sweep=() if sweep is None else (sweep, *(axes or ())),
        recommend=recommend,
        settings=settings,
        target=target,
        timeline=timeline,
        out=out,
        as_json=json,
        jobs=jobs,
    )
    raise typer.Exit(run(options))
