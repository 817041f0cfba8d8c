"""Environment variables that a job would read, and those that only look as if it would."""

from __future__ import annotations

import difflib
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import InvalidArgument
from ..launch import LaunchError
from ..launch.environment import detect
from ..launch.strategy import STRATEGY, TOTAL_STEPS, asked_strategy, asked_total_steps
from ..launch.token import environment_token
from .finding import Finding, ok, problem, warning

SETTINGS = (
    "GEARSHIFT_BIBLE",
    "GEARSHIFT_CALIBRATE",
    "GEARSHIFT_DIGITS",
    "GEARSHIFT_FASHION_MNIST",
    "GEARSHIFT_INTERFACE",
    "GEARSHIFT_LOG",
    "GEARSHIFT_MOVIELENS",
    "GEARSHIFT_RDZV",
    "GEARSHIFT_SERVERS",
    "GEARSHIFT_STRATEGY",
    "GEARSHIFT_TCP_CONGESTION",
    "GEARSHIFT_TIMEOUT",
    "GEARSHIFT_TOKEN",
    "GEARSHIFT_TOKEN_FILE",
    "GEARSHIFT_TOTAL_STEPS",
    "GEARSHIFT_TRANSPORTS",
)
"""What users set (docs/python.md)."""
PLACES = (
    "GEARSHIFT_LAUNCHER",
    "GEARSHIFT_LOCAL_RANK",
    "GEARSHIFT_LOCAL_WORLD_SIZE",
    "GEARSHIFT_NNODES",
    "GEARSHIFT_NODE_RANK",
    "GEARSHIFT_RANK",
    "GEARSHIFT_WORLD_SIZE",
)
"""What `gearshift run` tells each process."""
INTERNAL = (
    "GEARSHIFT_BENCH_BIN_DIR",
    "GEARSHIFT_BENCH_GATE",
    "GEARSHIFT_CHAOS_ROUNDS",
    "GEARSHIFT_DEMO_EVENTS",
    "GEARSHIFT_TEST_BIN_DIR",
)
"""Of the project's own programs and tests."""
KNOWN = SETTINGS + PLACES + INTERNAL

_SECRETS = ("GEARSHIFT_TOKEN",)
_CHOICES = {
    "GEARSHIFT_CALIBRATE": ("auto", "off", "force"),
    "GEARSHIFT_LOG": ("debug", "info", "warn", "error", "off"),
}
_TRANSPORTS = ("tcp", "shm")
_OTHERS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_LAUNCHERS = {
    "gearshift": "gearshift run",
    "torchrun": "torchrun",
    "openmpi": "Open MPI's mpirun",
    "pmi": "MPICH's mpiexec or another that speaks PMI",
    "slurm": "srun",
    "env": "whoever set RANK and WORLD_SIZE",
}
_OLD_DAYS = 30


def check(environ: Mapping[str, str]) -> list[Finding]:
    """Names, values, the token, and whether they make up a place in a job."""
    return [
        *_check_names(environ),
        *_check_values(environ),
        *_check_token(environ),
        *_check_place(environ),
    ]


def shown(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings among the variables, without secrets, for people and for comparing hosts."""
    return {
        name: "set" if name in _SECRETS else environ[name] for name in SETTINGS if environ.get(name)
    }


def token_mark(token: str) -> str:
    """Four digits that two hosts can compare; too few to find the token by them."""
    return hashlib.sha256(b"gearshift doctor\0" + token.encode()).hexdigest()[:4]


def _check_names(environ: Mapping[str, str]) -> list[Finding]:
    set_here = ", ".join(f"{name}={value}" for name, value in shown(environ).items())
    found = [ok("variables", set_here or "no GEARSHIFT_ variable is set: defaults are used")]
    for name in sorted(environ):
        if name.startswith("GEARSHIFT_") and name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            found.append(
                warning(
                    "variables",
                    f"{name} is not a variable that gearshift reads",
                    "what it should change stays as it is",
                    f"did you mean {near[0]}?" if near else f"one of: {', '.join(SETTINGS)}",
                )
            )
    if "GEARSHIFT_INTERFACE" not in environ:
        found += [_foreign(name, environ[name]) for name in _OTHERS if environ.get(name)]
    return found


def _foreign(name: str, value: str) -> Finding:
    return warning(
        "variables",
        f"{name}={value} is for another library",
        "gearshift listens where the way to the rendezvous begins, whatever it says",
        f"set GEARSHIFT_INTERFACE to the address that {value} has here (`ip addr`)",
    )


def _check_values(environ: Mapping[str, str]) -> list[Finding]:
    found = []
    for name, choices in _CHOICES.items():
        value = environ.get(name)
        if value and value not in choices:
            make = problem if name == "GEARSHIFT_CALIBRATE" else warning
            found.append(_wrong(make, name, value, f"one of {', '.join(choices)}"))
    value = environ.get("GEARSHIFT_TRANSPORTS", "")
    unknown = [t for t in (part.strip() for part in value.split(",")) if t and t not in _TRANSPORTS]
    if unknown:
        found.append(_wrong(problem, "GEARSHIFT_TRANSPORTS", value, "tcp, shm, or tcp,shm"))
    try:
        asked_strategy(environ)
    except InvalidArgument as error:
        instead = f"one of docs/strategies.md ({error})"
        found.append(_wrong(problem, STRATEGY, environ[STRATEGY], instead))
    try:
        asked_total_steps(environ)
    except InvalidArgument:
        instead = "a whole number from 1 on"
        found.append(_wrong(problem, TOTAL_STEPS, environ[TOTAL_STEPS], instead))
    return found


def _wrong(make: Callable[..., Finding], name: str, value: str, instead: str) -> Finding:
    return make(
        "variables",
        f"{name}={value} says nothing that gearshift knows",
        "a job ends at its start, or goes on without what it should change",
        f"give {instead}, or unset it",
    )


def _check_token(environ: Mapping[str, str]) -> list[Finding]:
    try:
        token = environment_token(environ)
    except LaunchError as error:
        return [
            problem(
                "token",
                str(error),
                "a job of several hosts does not start without its secret",
                "mend the file, or unset GEARSHIFT_TOKEN_FILE",
            )
        ]
    if token is None:
        return [ok("token", "none is set: fine on one host, where the launcher makes one")]
    path = environ.get("GEARSHIFT_TOKEN_FILE")
    said = f"set, mark {token_mark(token)} (the same on all hosts of a job)"
    if path and environ.get("GEARSHIFT_TOKEN"):
        return [_two_tokens(environ, token, said)]
    if path:
        days = (time.time() - os.stat(path).st_mtime) / 86400
        if days > _OLD_DAYS:
            return [
                warning(
                    "token",
                    f"{said}; the file {path} is {days:.0f} days old",
                    "who has ever read it can join your jobs",
                    f"(umask 077; openssl rand -hex 32 > {path}), and copy it to all hosts",
                )
            ]
    return [ok("token", said)]


def _two_tokens(environ: Mapping[str, str], token: str, said: str) -> Finding:
    only_file = {"GEARSHIFT_TOKEN_FILE": environ["GEARSHIFT_TOKEN_FILE"]}
    try:
        other = environment_token(only_file)
    except LaunchError:
        other = None
    if other == token:
        return ok("token", said)
    return warning(
        "token",
        f"{said}: GEARSHIFT_TOKEN counts, and {Path(only_file['GEARSHIFT_TOKEN_FILE'])} holds "
        "another",
        "a token that an earlier job left in the shell keeps this host out of the others' job",
        "unset GEARSHIFT_TOKEN, if the file is what the other hosts use",
    )


def _check_place(environ: Mapping[str, str]) -> list[Finding]:
    try:
        found = detect(environ)
    except LaunchError as error:
        return [
            problem(
                "place in a job",
                str(error),
                "gs.init() says the same, and ends the process",
                "set what is missing, or unset what is left of another job: "
                + (", ".join(_place_variables(environ)) or "see above"),
            )
        ]
    if found.launcher == "none":
        return [ok("place in a job", "none: a script that is started like this trains alone")]
    launcher = _LAUNCHERS.get(found.launcher, found.launcher)
    return [
        ok(
            "place in a job",
            f"rank {found.rank} of {found.world_size}, of {launcher}",
        )
    ]


def _place_variables(environ: Mapping[str, str]) -> list[str]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    prefixes = ("OMPI_COMM_WORLD_", "PMI_", "SLURM_PROCID", "TORCHELASTIC_RUN_ID")
    return sorted(
        name for name in environ if name in (*names, *PLACES) or name.startswith(prefixes)
    )
