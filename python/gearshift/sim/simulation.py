"""``gs.simulate``: one simulation from Python."""

from __future__ import annotations

from ..errors import InvalidArgument
from ..strategy import Strategy, parse
from .inputs import ClusterLike, Source, WorkloadFacts, WorkloadLike, read_cluster, read_workload
from .messages import Request
from .processes import OnStep, Pool
from .result import Result, make_result


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
        optimizer: "sgd", "adam", "adamw", "adagrad": how much state servers hold and update.
        timeline: keep what each rank does when, for :meth:`Result.save_timeline`.
        progress: called with the number of steps done.
        pool: where to run it; to run several at once in threads.

    Raises:
        InvalidArgument: naming file, line and key where cluster or workload are wrong.
        Unsupported: when gearshift was built without the simulator.
        Error: when a file cannot be read, or training ends before the warm-up is over.
    """
    check(steps, warmup, seed)
    sources = read_cluster(cluster), read_workload(workload)
    request = make_request(*sources, parse(strategy), steps, seed, optimizer, timeline)
    raw = (pool or Pool()).run(request, progress)
    names = sources[0].title, sources[1].title
    return make_result(raw, request, names, WorkloadFacts.of(sources[1]), warmup)


def make_request(
    cluster: Source,
    workload: Source,
    strategy: Strategy,
    steps: int,
    seed: int,
    optimizer: str = "sgd",
    timeline: bool = False,
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
    )


def check(steps: int, warmup: int, seed: int) -> None:
    """Refuse what cannot be simulated, or leaves no step to measure.

    Raises:
        InvalidArgument: with what is wrong.
    """
    if warmup < 0 or steps <= warmup:
        raise InvalidArgument(f"steps={steps}, warmup={warmup}: there must be steps after warm-up")
    if not 0 <= seed < 2**63:
        raise InvalidArgument(f"seed={seed}: must not be negative, and less than 2^63")
