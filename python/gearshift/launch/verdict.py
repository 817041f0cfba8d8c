"""After the end of a job: which rank failed first, why, and what to tell the user."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from . import EXIT_PEER_LOST
from .process import RankProcess
from .ranks import name_ranks

_QUOTED_LINES = 10


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    returncode: int
    """What the launcher should exit with: 0, or the code of the rank that failed first."""
    message: str | None
    """One line (and perhaps quoted output) for the user; None after a success."""
    culprit: int | None = None
    """The rank that failed first."""
    interrupted: bool = False
    """Whether the user ended it."""


def judge(
    ranks: Sequence[RankProcess], started: float, grace: float, interrupt: tuple[int, float] | None
) -> Outcome:
    """The outcome of a job all of whose processes have ended.

    Args:
        ranks: the processes of this node.
        started: when the job started (monotonic clock).
        grace: seconds that the survivors of a failure had.
        interrupt: the signal with which the user ended the job, and when.
    """
    culprit = first_failure(ranks)
    if interrupt is not None and (culprit is None or _end(culprit) >= interrupt[1]):
        return _interrupted(ranks, started, interrupt)
    if culprit is None:
        return Outcome(0, None)
    seconds = _end(culprit) - started
    message = f"{culprit.spec.name} failed first: {cause(culprit)}, after {seconds:.1f} s"
    others = _others([rank for rank in ranks if rank is not culprit], grace, _end(culprit))
    return Outcome(exit_code(culprit), message + others + _quote(culprit, ranks), culprit.spec.rank)


def first_failure(ranks: Sequence[RankProcess]) -> RankProcess | None:
    """The rank to blame.

    A rank that exits with EXIT_PEER_LOST suffers from the failure of another, which may be noticed
    later or, when it is frozen, never by itself. So it is blamed only when there is no other.
    """
    failed = sorted((rank for rank in ranks if rank.failed), key=_end)
    causes = [rank for rank in failed if rank.returncode != EXIT_PEER_LOST]
    frozen = sorted((rank for rank in ranks if rank.frozen), key=_end)
    return next(iter([*causes, *frozen, *failed]), None)


def cause(rank: RankProcess) -> str:
    """Why a rank ended, in words."""
    if rank.frozen:
        return f"frozen (stopped by a signal, pid {rank.pid}) and therefore killed"
    assert rank.returncode is not None
    if rank.returncode < 0:
        return f"killed by {signal_name(-rank.returncode)} (pid {rank.pid})"
    if rank.returncode == EXIT_PEER_LOST:
        return f"lost a peer (exit code {EXIT_PEER_LOST}, pid {rank.pid})"
    return f"exit code {rank.returncode} (pid {rank.pid})"


def exit_code(rank: RankProcess) -> int:
    """The shell's convention: 128 + number for a signal."""
    assert rank.returncode is not None
    return rank.returncode if rank.returncode >= 0 else 128 - rank.returncode


def signal_name(number: int) -> str:
    """SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(rank: RankProcess) -> float:
    return rank.ended if rank.ended is not None else float("inf")


def _interrupted(
    ranks: Sequence[RankProcess], started: float, interrupt: tuple[int, float]
) -> Outcome:
    number, when = interrupt
    if all(rank.returncode == 0 for rank in ranks):
        return Outcome(0, None, interrupted=True)
    message = f"ended by {signal_name(number)} after {when - started:.1f} s"
    return Outcome(128 + number, message + _others(ranks, None, when), interrupted=True)


def _others(ranks: Sequence[RankProcess], grace: float | None, since: float) -> str:
    groups: dict[str, list[RankProcess]] = {}
    for rank in ranks:
        groups.setdefault(_fate(rank, grace, since), []).append(rank)
    return "".join(f"; {names(members)} {fate}" for fate, members in groups.items())


def _fate(rank: RankProcess, grace: float | None, since: float) -> str:
    """What became of a rank; `since`: when what is told about it began."""
    if rank.frozen:
        return "then frozen (stopped) and killed"
    assert rank.returncode is not None
    if rank.ended_by_launcher:
        return "ended by the launcher" + (
            f" after {grace:g} s of grace" if grace is not None else ""
        )
    if rank.returncode == 0 and _end(rank) < since:
        return "had exited with 0 before"
    if rank.returncode < 0:
        return f"then killed by {signal_name(-rank.returncode)}"
    return f"then exited with {rank.returncode}"


def names(ranks: Sequence[RankProcess]) -> str:
    """ "rank 3", "ranks 0 to 2, server 0 (rank 4)"."""
    workers = [rank.spec.rank for rank in ranks if rank.spec.label.isdecimal()]
    servers = [rank.spec.name for rank in ranks if not rank.spec.label.isdecimal()]
    parts = [name_ranks(workers)] if workers else []
    return ", ".join(parts + servers)


def _quote(culprit: RankProcess, ranks: Sequence[RankProcess]) -> str:
    tail = list(culprit.stderr_tail)[-_QUOTED_LINES:]
    if not tail or len(ranks) == 1:  # alone, its words stand right above
        return ""
    lines = "".join(f"\n    {line.decode(errors='replace')}" for line in tail)
    return f"\n  the last lines of {culprit.spec.name} on stderr:{lines}"
