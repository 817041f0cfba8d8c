"""``gs.simulate``: one simulation from Python."""

from __future__ import annotations

from pathlib import Path

from ..errors import InvalidArgument
from ..strategy import Strategy, parse
from . import given, task
from .inputs import ClusterLike, Source, WorkloadFacts, WorkloadLike, read_both
from .messages import STEADY_TOLERANCE, AfterFailure, Fidelity, Request
from .processes import OnStep, Pool
from .result import Result, make_result

MOST_STEPS = 10_000_000
"""The time of each is kept, of every worker."""


def simulate(
    cluster: ClusterLike | Source,
    workload: WorkloadLike | Source,
    strategy: Strategy | str,
    *,
    steps: int = 20,
    warmup: int = 2,
    seed: int = 1,
    optimizer: str = "sgd",
    timeline: bool = False,
    train: str | Path | None = None,
    evaluate_every: int = 100,
    detection: float = 30.0,
    checkpoint_every: int = 0,
    sharing: str = "auto",
    every_step: bool = False,
    steady_tolerance: float = STEADY_TOLERANCE,
    progress: OnStep | None = None,
    pool: Pool | None = None,
) -> Result:
    """Train on machines that you don't have: the strategy's own code on a virtual clock.

    It runs in a process of its own, which Ctrl-C ends. Equal arguments give equal results to the
    last bit.

    Args:
        cluster: path of a TOML file, its text, or a dict of the same structure;
            docs/simulation.md describes it.
        workload: the same, or a :class:`gearshift.sim.workload.Workload`.
        strategy: a value or text, as for :func:`gearshift.torch.distribute`. Dedicated servers
            are the cluster's (``servers`` of its hosts).
        steps: that each worker does.
        warmup: steps of each worker that figures leave out.
        seed: of all that varies in the cluster.
        optimizer: "sgd", "adam", "adamw", "adagrad": the servers' rule, which changes no times
            (`update_bandwidth` of the cluster does). With `train` it is the training's own.
        timeline: keep what each rank does when, for :meth:`Result.save_timeline`.
        train: a task to learn for real, for :attr:`Result.curve`: "path/to/task.py",
            "path/to/task.py:function" or "module:function". The function (``training``) takes
            nothing and returns a :class:`gearshift.torch.SimulatedTraining` of the workload's
            model. It is called in the simulation's process, where torch has one thread.
        evaluate_every: with `train`, steps of worker 0 between points of the learning curve; the
            last step always has one.
        detection: virtual seconds after which a host that failed is missed, and the job ends.
        checkpoint_every: steps between the checkpoints from which training goes on when a host
            that failed is back; 0: it begins anew.
        sharing: how messages that cross a link at the same time share it: "max_min" fairness,
            "per_link" (each link shares itself equally among them), "none" (each pair of processes
            has a way of its own), or "auto": the first for up to 8 processes, else the second.
        every_step: leave out no step that repeats or is estimated; see :attr:`Result.skipped`.
        steady_tolerance: what does not repeat exactly is estimated from the steps before, once the
            mean step time is known to within this share of it, with 95 % confidence; 0: never.
        progress: called with the number of steps done.
        pool: where to run it; to run several at once in threads.

    Raises:
        InvalidArgument: naming file, line and key where cluster or workload are wrong.
            What the training raises is one, too, with the lines that led to it.
        Unsupported: when gearshift was built without the simulator, and for optimizers that cannot
            be simulated.
        Error: when a file cannot be read, or training ends before the warm-up is over.
    """
    train = _check_kinds(train, progress, pool)
    check(steps, warmup, seed, train, evaluate_every)
    sources = read_both(cluster, workload)
    request = make_request(
        *sources,
        parse(strategy),
        int(steps),
        int(seed),
        given.text("optimizer", optimizer),
        given.flag("timeline", timeline),
        train,
        int(evaluate_every),
        AfterFailure(detection, checkpoint_every),
        Fidelity(sharing, every_step, steady_tolerance),
    )
    raw = (pool or Pool()).run(request, progress)
    names = sources[0].title, sources[1].title
    return make_result(raw, request, names, WorkloadFacts.of(sources[1]), int(warmup))


def _check_kinds(train: str | Path | None, progress: object, pool: object) -> str | None:
    """`train` as a text. What is of another type fails here rather than where it is used."""
    if train is not None and not isinstance(train, str | Path):
        raise InvalidArgument(f"train={train!r}: must be a text or a path, or None")
    if progress is not None and not callable(progress):
        raise InvalidArgument(f"progress={progress!r}: must be a function, or None")
    if pool is not None and not isinstance(pool, Pool):
        raise InvalidArgument(f"pool={pool!r}: must be a gearshift.sim.processes.Pool, or None")
    return None if train is None else str(train)


def make_request(
    cluster: Source,
    workload: Source,
    strategy: Strategy,
    steps: int,
    seed: int,
    optimizer: str = "sgd",
    timeline: bool = False,
    train: str | None = None,
    evaluate_every: int = 100,
    after_failure: AfterFailure | None = None,
    fidelity: Fidelity | None = None,
) -> Request:
    """What the simulation's process is sent."""
    return Request(
        cluster.text,
        cluster.name,
        workload.text,
        workload.name,
        strategy,
        optimizer=optimizer,
        steps=steps,
        seed=seed,
        timeline=timeline,
        train=train,
        evaluate_every=min(evaluate_every, steps),
        after_failure=after_failure or AfterFailure(),
        fidelity=fidelity or Fidelity(),
    )


def check(
    steps: int, warmup: int, seed: int, train: str | None = None, evaluate_every: int = 100
) -> None:
    """Refuse what cannot be simulated, or leaves no step to measure.

    Raises:
        InvalidArgument: with what is wrong.
        Error: when there is no file with the task.
    """
    named = {"steps": steps, "warmup": warmup, "seed": seed, "evaluate_every": evaluate_every}
    for name, value in named.items():
        given.whole(name, value)
    if steps > MOST_STEPS:
        raise InvalidArgument(f"steps={steps}: at most {MOST_STEPS:,} are simulated")
    if warmup < 0:
        raise InvalidArgument(f"warmup={warmup}: must not be negative")
    if steps <= warmup:
        raise InvalidArgument(f"steps={steps}, warmup={warmup}: there must be steps after warm-up")
    if not 0 <= seed < 2**63:
        raise InvalidArgument(f"seed={seed}: must not be negative, and less than 2^63")
    if evaluate_every < 1:
        raise InvalidArgument(f"evaluate_every={evaluate_every}: must be positive")
    if train is not None:
        task.check(train)
