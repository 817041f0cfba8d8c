"""All that can be said of one machine by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import (
    choice,
    clock,
    folders,
    interfaces,
    leftovers,
    limits,
    memory,
    naming,
    processors,
    tcp,
    trial,
    variables,
    versions,
)
from .finding import Finding, has_problem, warning
from .interfaces import Interface


@dataclass(frozen=True)
class Place:
    """The part of a job that this machine has, or would have."""

    ranks: int
    """Here."""
    world: int = 1
    nnodes: int = 1
    rdzv: str | None = None


def examine(place: Place) -> Iterator[Finding]:
    """Look at this machine; findings come as they are made."""
    for look in _checks(place):
        yield from _looked(look)


def try_jobs(found: list[Finding]) -> Iterator[Finding]:
    """Start worlds of two here, unless it is known that none can start."""
    if has_problem(finding for finding in found if finding.topic == "versions"):
        return
    for transport in trial.TRANSPORTS:
        yield trial.run(transport, os.environ)


def _checks(place: Place) -> list[Callable[[], list[Finding]]]:
    return [
        lambda: versions.check(versions.Versions.collect()),
        lambda: processors.check(processors.Processors.collect(place.ranks)),
        lambda: memory.check(memory.Memory.collect()),
        lambda: limits.check(limits.Limits.collect(place.world, place.ranks)),
        lambda: _check_network(place),
        lambda: tcp.check(tcp.Tcp.collect(os.environ.get("GEARSHIFT_TCP_CONGESTION") or None)),
        lambda: [clock.check(clock.Clock.collect())],
        lambda: folders.check(folders.Folders.collect()),
        lambda: variables.check(os.environ),
        lambda: leftovers.check(leftovers.Leftovers.collect()),
    ]


def _check_network(place: Place) -> list[Finding]:
    known = interfaces.list_interfaces()
    wanted = os.environ.get("GEARSHIFT_INTERFACE") or None
    chosen = choice.choose(known, place.rdzv, wanted)
    named = naming.check(naming.Naming.collect(), _reachable(known, chosen.address))
    return [named, *choice.check(chosen, known, place.nnodes > 1)]


def _reachable(known: list[Interface], chosen: str | None) -> str | None:
    if chosen is not None and not naming.is_loopback(chosen):
        return chosen
    able = (i.addresses[0] for i in known if i.up and not i.loopback and i.addresses)
    return next(able, None)


def _looked(look: Callable[[], list[Finding]]) -> list[Finding]:
    """A check that fails itself must not keep the others from being made."""
    try:
        return look()
    except (OSError, ValueError, ArithmeticError, LookupError) as error:
        return [
            warning(
                "doctor",
                f"a check failed: {type(error).__name__}: {error}",
                "what it should have looked at is not known",
                "report it, with the output of `gearshift doctor --json`",
            )
        ]
