"""Cases on one host: all-reduce over shared memory."""

from __future__ import annotations

from dataclasses import replace

from .case import OURS, Point, Setting, Side, Target, size_name

KIB, MIB = 1 << 10, 1 << 20

GEARSHIFT = Side(OURS, "all_reduce")
PLAIN = Side("plain memory", "all_reduce", arguments=("--memory", "plain"))
PYTHON = Side("from Python", "all_reduce.py", modules=("numpy",))
FLOOR = Side("floor", "floor", start="fork")
OPEN_MPI = Side("Open MPI", "openmpi_all_reduce", start="mpirun")
GLOO = Side("Gloo", "torch_all_reduce.py", ("backend=gloo",), modules=("numpy", "torch"))
BACKEND = Side(OURS, "torch_all_reduce.py", ("backend=gearshift",), modules=("numpy", "torch"))
"""gearshift as a backend of torch.distributed."""

FLOAT32_SPEED = 0.95
"""“The same bytes per second” as float32, within the noise of such a comparison."""


def settings() -> list[Setting]:
    """Two ranks, more that share cores, the Python fronts, other programs beside, half the size."""
    return [
        _two_ranks(),
        _oversubscribed(4),
        _oversubscribed(8),
        _from_python(),
        _from_torch(),
        _beside_others(),
        *map(_half, _HALVES),
    ]


_HALVES = ("float16", "bfloat16")


def _two_ranks() -> Setting:
    sizes = (4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 100 * MIB)
    quick = (4 * KIB, 64 * KIB, MIB, 16 * MIB, 100 * MIB)
    return Setting(
        name="one_host/2/float32",
        title="one host, 2 ranks",
        ranks=2,
        sides=(GEARSHIFT, FLOOR, OPEN_MPI, GLOO, PLAIN),
        points=tuple(_point(size, _targets_of_two(size), size in quick) for size in sizes),
        kind="all_reduce",
    )


def _targets_of_two(size: int) -> tuple[Target, ...]:
    if size >= MIB:
        return (
            Target("ratio", 1 / 1.15, FLOOR.name),
            Target("ratio", 5, OPEN_MPI.name),
            Target("ratio", 9, GLOO.name),
        )
    if size > 64 * KIB:
        return (Target("ratio", 1, OPEN_MPI.name),)
    return (
        Target("ratio", 4 if size == 64 * KIB else 1, OPEN_MPI.name),
        Target("ratio", 200, GLOO.name),
    )


def _from_python() -> Setting:
    """Both in memory that the ranks share."""
    return Setting(
        name="one_host/2/python",
        title="one host, 2 ranks, from Python",
        ranks=2,
        sides=(GEARSHIFT, PYTHON),
        points=tuple(
            _point(size, (Target("difference", 2e-6, PYTHON.name),), size == 4 * KIB)
            for size in (4 * KIB, 16 * KIB, 64 * KIB)
        ),
        kind="all_reduce",
    )


def _from_torch() -> Setting:
    """dist.all_reduce of an ordinary tensor, over our backend and over Gloo."""
    return Setting(
        name="one_host/2/torch",
        title="one host, 2 ranks, torch.distributed",
        ranks=2,
        sides=(BACKEND, GLOO),
        points=tuple(
            _point(size, (Target("ratio", 1, GLOO.name),), False)
            for size in (4 * KIB, 64 * KIB, MIB, 16 * MIB, 100 * MIB)
        ),
        kind="all_reduce",
    )


def _beside_others() -> Setting:
    """Each rank has two processes beside it that compute all the time, as those that load data."""
    return Setting(
        name="one_host/2/computing",
        title="one host, 2 ranks, each beside two processes that compute",
        ranks=2,
        sides=(GEARSHIFT, OPEN_MPI, GLOO),
        points=tuple(
            replace(
                _point(size, (Target("ratio", 1, GLOO.name),), False),
                order={"bytes": size, "computing": 2, "operations": operations},
                calibrated=False,  # by single operations, some of which wait for a time slice
            )
            for size, operations in ((4 * KIB, 1000), (64 * KIB, 1000), (MIB, 200), (16 * MIB, 20))
        ),
    )


def _oversubscribed(ranks: int) -> Setting:
    """More ranks than cores, on the machine that the targets are made for."""
    sizes = (4 * KIB, 64 * KIB, MIB, 16 * MIB, 100 * MIB)
    quick = (4 * KIB, MIB, 16 * MIB) if ranks == 4 else ()
    return Setting(
        name=f"one_host/{ranks}/float32",
        title=f"one host, {ranks} ranks",
        ranks=ranks,
        sides=(GEARSHIFT, FLOOR, OPEN_MPI, GLOO),
        points=tuple(
            _point(
                size,
                (
                    Target("ratio", 6 if size >= MIB else 1, OPEN_MPI.name),
                    Target("ratio", 100 if size <= MIB else 10, GLOO.name),
                ),
                size in quick,
            )
            for size in sizes
        ),
        kind="all_reduce",
    )


def _half(dtype: str) -> Setting:
    """Arrays of equal bytes, hence of twice the elements."""
    full = Side("float32", "all_reduce")
    return Setting(
        name=f"one_host/2/{dtype}",
        title=f"one host, 2 ranks, {dtype} against float32",
        ranks=2,
        sides=(Side(OURS, "all_reduce", arguments=("--dtype", dtype)), full),
        points=tuple(
            _point(
                size,
                (Target("ratio", FLOAT32_SPEED, full.name),),
                dtype == "float16" and size == 16 * MIB,
            )
            for size in (64 * KIB, MIB, 16 * MIB, 100 * MIB)
        ),
        kind="all_reduce",
    )


def _point(size: int, targets: tuple[Target, ...], quick: bool) -> Point:
    return Point(size_name(size), {"bytes": size}, bytes=size, targets=targets, quick=quick)
