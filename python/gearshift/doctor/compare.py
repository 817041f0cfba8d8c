"""What the processes of a job must have in common, and which of them do not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..launch.ranks import name_ranks
from .finding import Finding, ok, problem, warning
from .process import Process, labels

_OF_ONE_HOST = (
    *("GEARSHIFT_INTERFACE", "GEARSHIFT_TOKEN", "GEARSHIFT_TOKEN_FILE", "GEARSHIFT_LOG"),
    *("GEARSHIFT_BIBLE", "GEARSHIFT_DIGITS", "GEARSHIFT_FASHION_MNIST", "GEARSHIFT_MOVIELENS"),
)
"""Settings that may differ between hosts, and places of files there."""


def compare(processes: Sequence[Process]) -> list[Finding]:
    """All that should be equal; one line when it is."""
    found = [*_versions(processes), *_settings(processes), *_hosts(processes), *_packets(processes)]
    if not found:
        found.append(ok("all alike", "versions and settings are equal in all processes"))
    return found


def of_hosts(processes: Sequence[Process]) -> list[Finding]:
    """What is wrong on each host, said once for all hosts that have it in common."""
    names = labels(processes)
    groups: dict[tuple[str, str], list[str]] = {}
    first: dict[tuple[str, str], Finding] = {}
    for process in processes:
        for finding in process.findings:
            if finding.level != "ok":
                key = finding.topic, finding.found  # what to do may name the host's own address
                first.setdefault(key, finding)
                groups.setdefault(key, []).append(names[process.rank])
    return [
        replace(first[key], found=f"{', '.join(dict.fromkeys(hosts))}: {first[key].found}")
        for key, hosts in groups.items()
    ]


def _versions(processes: Sequence[Process]) -> list[Finding]:
    def of(name: str) -> Callable[[Process], str]:
        return lambda process: str(process.versions.get(name) or "none")

    def minor(name: str) -> Callable[[Process], str]:
        return lambda process: ".".join(of(name)(process).split(".")[:2])

    found = []
    for topic, key, make, why, todo in (
        (
            "gearshift's version",
            of("gearshift"),
            problem,
            "what processes say to each other may mean something else in another version",
            "install one version everywhere",
        ),
        (
            "the library's version",
            of("core"),
            problem,
            "what processes say to each other may mean something else in another version",
            "build and install one version everywhere",
        ),
        (
            "PyTorch's version",
            minor("torch"),
            problem,
            "gst.distribute() refuses ranks with different versions: their models may differ",
            "pip install the same torch everywhere",
        ),
        (
            "Python's version",
            minor("python"),
            warning,
            "pickled objects and installed packages may differ",
            "use the same interpreter everywhere",
        ),
    ):
        found += _differing(processes, topic, key, make, why, todo)
    return found


def _settings(processes: Sequence[Process]) -> list[Finding]:
    found = []
    names = sorted({name for process in processes for name in process.settings})
    for name in names:
        if name in _OF_ONE_HOST:
            continue
        found += _differing(
            processes,
            name,
            lambda process, name=name: _setting(process, name),  # type: ignore[misc]
            warning,
            "ranks that are told different things wait for each other in vain, or disagree",
            "set it alike on all hosts (`gearshift run --env`, mpirun -x)",
        )
    return found + _differing(
        processes,
        "OMP_NUM_THREADS",
        lambda process: process.omp_threads or "not set",
        warning,
        "a job has the speed of its slowest rank",
        "set it alike, unless hosts have different processors",
    )


def _setting(process: Process, name: str) -> str:
    """The name of a link-local address' interface is each host's own: [fe80::1%eth0]:29400."""
    value = process.settings.get(name, "not set")
    return re.sub(r"\[([^]%]*)%[^]]*\]", r"[\1]", value) if name == "GEARSHIFT_RDZV" else value


def _hosts(processes: Sequence[Process]) -> list[Finding]:
    found = []
    boots: dict[str, dict[str, set[int]]] = {}
    for process in processes:
        boots.setdefault(process.host, {}).setdefault(process.boot, set()).add(process.node)
    for host, machines in boots.items():
        if len(machines) > 1:
            found.append(
                warning(
                    "host names",
                    f"{len(machines)} machines are called {host}",
                    "messages name hosts, and you would not know which is meant",
                    "give each a name of its own (hostnamectl set-hostname)",
                )
            )
    return found


def _packets(processes: Sequence[Process]) -> list[Finding]:
    return _differing(
        [process for process in processes if process.mtu is not None],
        "MTU",
        lambda process: str(process.mtu),
        warning,
        "where a switch or router drops large packets in silence, a connection is made and then "
        "stands still",
        "set it alike on the interfaces that the job uses (ip link set dev NAME mtu SIZE)",
    )


def _differing(
    processes: Sequence[Process],
    topic: str,
    key: Callable[[Process], str],
    make: Callable[[str, str, str, str], Finding],
    why: str,
    todo: str,
) -> list[Finding]:
    values: dict[str, list[Process]] = {}
    for process in processes:
        values.setdefault(key(process), []).append(process)
    if len(values) < 2:
        return []
    said = "; ".join(f"{value}: {_where(members)}" for value, members in values.items())
    return [make(topic, f"differs: {said}", why, todo)]


def _where(members: Sequence[Process]) -> str:
    hosts: Mapping[str, None] = dict.fromkeys(process.host for process in members)
    return f"{name_ranks(process.rank for process in members)} on {', '.join(hosts)}"
